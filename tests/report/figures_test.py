"""The figures of the report: their numbers against the files that they come from."""

import collections
import dataclasses
import json
import pathlib
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree

import numpy as np
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure

from restem.evaluation import groups
from restem.report import (
    paper_figures,
    plotting,
    run_figures,
    sample_figures,
    transfer_figures,
)
from restem.report.headline import headline
from restem.report.marks import policy
from restem.report.report import distinguish
from restem.run import reader
from restem.run.reader import read_run
from tests.helpers import synthetic_run

SMALL = {"problems": 24, "samples": 6, "tests": 60, "n": 4}
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="restem_figures"))


def setUpModule():
    synthetic_run.write_run(ROOT / "restem", with_bbh=True, **SMALL)
    synthetic_run.write_run(ROOT / "sft", method="sft", skills=(-0.8, 0.2), **SMALL)
    synthetic_run.write_run(ROOT / "more", skills=(-0.8, 0.7), **(SMALL | {"problems": 48}))


def tearDownModule():
    shutil.rmtree(ROOT)


def charts_of(*names) -> list:
    runs = [read_run(str(ROOT / name)) for name in names]
    with plotting.style():
        return list(paper_figures.charts(runs))


class PercentAxisTest(parameterized.TestCase):
    @parameterized.parameters((0.225, 0.39), (0.38, 0.545), (0.0, 1.0), (0.3, 0.304), (-0.1, 0.02))
    def test_ticks_say_where_they_are(self, low, high):
        figure = Figure()
        axis = figure.subplots()
        axis.plot([0, 1], [low, high])
        plotting.percent_axis(axis)
        figure.draw_without_rendering()
        labels = [label.get_text() for label in axis.get_yticklabels()]
        self.assertGreater(len(labels), 3)
        for label, tick in zip(labels, axis.get_yticks(), strict=True):
            self.assertAlmostEqual(float(label.removesuffix("%")), 100 * tick)


class FigureDataTest(parameterized.TestCase):
    """The tables of the figures against the files they come from."""

    def setUp(self):
        super().setUp()
        self.run_ = read_run(str(ROOT / "restem"))
        self.samples = {i.number: i.samples() for i in self.run_.iterations if i.number}

    def grade_exams(self, *names):
        """As `restem score --grades` leaves it: 30% of the points, 10 more an iteration."""
        for name in names:
            for folder in sorted((ROOT / name).glob("iteration_*")):
                graded = {"pass@1": None, "n": 33, "score": 0.3 + 0.1 * int(folder.name[-3:])}
                path = folder / "evals" / "hungarian.json"
                path.write_text(json.dumps(graded))
                self.addCleanup(path.unlink)

    def test_every_sample_is_in_one_bucket(self):
        chart = sample_figures.where_samples_went(self.run_, "")
        for n in (1, 2, 3):
            counts = [row[2] for row in chart.rows if row[0] == n]
            self.assertEqual(sum(counts), 24 * 6)
            kept = [row[2] for row in chart.rows if row[:2] == (n, "kept")]
            self.assertEqual(kept, [self.run_.iterations[n].selection["kept"]])

    def test_outcomes_of_rows_agree_with_the_selection(self):
        for n, stats in self.samples.items():
            buckets = self.run_.iterations[n].selection["buckets"]
            outcomes = stats.outcomes
            self.assertEqual(outcomes["kept"], buckets["kept"])
            self.assertEqual(outcomes["truncated"], buckets["truncated"])
            self.assertEqual(outcomes["no answer"], buckets["unformatted"])
            self.assertEqual(outcomes["incorrect"], buckets["rejected"])
            self.assertEqual(outcomes["not kept"], buckets["duplicate"] + buckets["over_cap"])

    def test_solved_problems(self):
        chart = sample_figures.solved_problems(self.run_, self.samples, "")
        ever = set()
        self.assertLen(chart.rows, 3)
        for n, problems, solved, so_far, *buckets in chart.rows:
            drawn = reader.read_samples(self.run_.iterations[n].files)
            right = {s.problem_id for s in drawn if s.reward > 0}
            ever |= right
            self.assertEqual((problems, solved, so_far), (24, len(right), len(ever)))
            self.assertEqual(solved, self.run_.iterations[n].selection["problems_solved"])
            self.assertEqual(sum(buckets), 24)
            self.assertEqual(buckets[0], 24 - solved)

    def test_lengths_and_rewards_count_every_sample(self):
        for chart in (
            sample_figures.lengths(self.run_, self.samples, ""),
            sample_figures.rewards(self.run_, self.samples, ""),
        ):
            for n in (1, 2, 3):
                self.assertEqual(sum(row[2] for row in chart.rows if row[0] == n), 24 * 6)

    def test_graded_rewards_are_binned(self):
        values = np.linspace(0, 2, 24 * 6).astype(np.float32).tolist()
        stats = dataclasses.replace(self.samples[1], rewards=collections.Counter(values))
        with plotting.style():
            chart = sample_figures.rewards(self.run_, {1: stats}, "")
            self.assertIn("<svg", plotting.svg(chart.draw(False)))
        self.assertLen(chart.rows, 10)
        self.assertEqual(sum(row[2] for row in chart.rows), 24 * 6)
        self.assertEqual(chart.rows[-1][1], "1.8 to 2")

    def test_lengths_are_those_of_all_samples(self):
        rows = sample_figures.lengths(self.run_, self.samples, "").rows
        for n in (1, 2, 3):
            drawn = reader.read_samples(self.run_.iterations[n].files)
            tokens = [len(s.token_ids) for s in drawn if s.correct and s.finish_reason != "length"]
            (row,) = [row for row in rows if row[:2] == (n, "correct")]
            quantiles = np.quantile(tokens, [0.1, 0.5, 0.9]).astype(int).tolist()
            self.assertEqual(row[2:], (len(tokens), round(np.mean(tokens), 1), *quantiles))

    def test_quantiles_of_counts(self):
        rng = np.random.default_rng(0)
        for size in (1, 2, 3, 50, 999):
            values = rng.integers(0, 40, size)
            counts = np.bincount(values)
            for q in (0.0, 0.1, 0.37, 0.5, 0.9, 1.0):
                self.assertEqual(sample_figures.quantile(counts, q), np.quantile(values, q))

    def test_one_run_leaves_out_the_comparisons(self):
        missing = [c.mirrors for c in charts_of("restem") if isinstance(c, plotting.Missing)]
        self.assertEqual(missing, ["Figures 6 and 7", "Figure 8, left", "Figure 10"])

    def test_several_runs_draw_every_figure_of_the_paper(self):
        self.grade_exams("restem", "sft")
        charts = charts_of("restem", "sft", "more")
        self.assertEqual([c for c in charts if isinstance(c, plotting.Missing)], [])
        self.assertEqual(
            [c.mirrors for c in charts],
            ["Figures 2 and 3", "Figure 4", "Figure 5", "Figures 6 and 7", "Figure 8, left",
             "Figure 8, right", "Figure 9", "Figure 10"],
        )  # fmt: skip
        with plotting.style():
            for chart in charts:
                for narrow in (False, True):
                    text = plotting.inline(plotting.svg(chart.draw(narrow)), "x", chart.title)
                    ElementTree.fromstring(text)
                    # Colours follow the theme: none of the palette is left as it was drawn.
                    for color in plotting.THEMED:
                        self.assertNotIn(color, text)

    def test_sft_is_a_line_and_not_a_curve(self):
        chart = charts_of("restem", "sft")[0]
        self.assertIn("fine-tuned on human solutions", chart.caption)
        with plotting.style():
            axes = chart.draw(False).axes
        self.assertEqual([axis.get_title("left") for axis in axes],
                         ["arithmetic", "Transfer to gsm8k"])  # fmt: skip
        level = read_run(str(ROOT / "sft")).result.evaluation("arithmetic").pass1
        flat = [line for line in axes[0].lines if line.get_label() == "sft"]
        self.assertEqual(list(flat[0].get_ydata()), [level, level])

    @parameterized.parameters(1, 2, 13)
    def test_curves_stay_inside_and_their_intervals_on_their_points(self, count):
        runs = distinguish([self.run_] * count)
        with plotting.style():
            figure = paper_figures.pass1_over_iterations(runs, ["arithmetic"]).draw(False)
        (axis,) = figure.axes
        labels = {run.label for run in runs}
        lines = [line.get_xdata() for line in axis.lines if line.get_label() in labels]
        bars = [c[2][0].get_segments() for c in axis.containers]
        self.assertLen(lines, count)
        self.assertLen({line[0] for line in lines}, count)
        left, right = axis.get_xlim()
        for xs, segments in zip(lines, bars, strict=True):
            np.testing.assert_allclose([low[0] for low, _ in segments], xs)
            self.assertGreater(min(xs), left)
            self.assertLess(max(xs), right)

    @parameterized.parameters(0.3, -0.3)
    def test_every_loss_is_shown_at_whole_steps(self, last):
        """A step with more wrong than right samples of a method with negative weights."""
        folder = pathlib.Path(self.create_tempdir().full_path) / "copy"
        shutil.copytree(ROOT / "restem", folder)
        for iteration in read_run(str(folder)).iterations[1:]:
            report = {"loss": [[1, 0.2], [2, 0.6], [3, last]]}
            iteration.files.improvement.write_text(json.dumps(report))
        run = read_run(str(folder))
        with plotting.style():
            figure = run_figures.m_step(run, "").draw(False)
            figure.draw_without_rendering()
        (axis,) = figure.axes
        bottom, _ = axis.get_ylim()
        if last > 0:
            self.assertEqual(bottom, 0)
        else:
            self.assertLess(bottom, last)
        self.assertTrue(all(tick == round(tick) for tick in axis.get_xticks()))

    def test_data_set_size_counts_problems(self):
        chart = charts_of("restem", "more")[4]
        self.assertEqual([row[4] for row in chart.rows], [24, 48])

    def test_programs_have_no_majority_vote(self):
        folder = pathlib.Path(self.create_tempdir().full_path) / "copy"
        shutil.copytree(ROOT / "restem", folder)
        for path in folder.rglob("evals/*.json"):
            report = json.loads(path.read_text())
            report.pop("maj@k", None)
            path.write_text(json.dumps(report))
        run = read_run(str(folder))
        self.assertIn("maj@4", headline([self.run_]).table.columns)
        columns = headline([run]).table.columns
        self.assertIn("pass@4", columns)
        self.assertNotIn("maj@4", columns)
        with plotting.style():
            chart = paper_figures.pass_at_k([run])
            labels = chart.draw(False).axes[0].get_legend_handles_labels()[1]
        self.assertEqual({label.partition(",")[0] for label in labels}, {"pass@k"})
        self.assertEqual(chart.columns, ("run", "task", "policy", "k", "pass@k"))
        self.assertEqual({len(row) for row in chart.rows}, {5})
        self.assertNotIn("Maj@k", chart.caption)

    def test_difficulty_table_is_the_evaluations(self):
        chart = charts_of("restem")[5]
        stored = self.run_.iterations[2].evaluation("arithmetic").values["difficulty"]
        for _, who, name, n, success in chart.rows:
            if who == "iteration 2":
                self.assertEqual(n, stored[name]["n"])
                self.assertEqual(success, plotting.percent(stored[name]["mean"]))
        self.assertEqual(sum(row[3] for row in chart.rows if row[1] == "base policy"), 60)

    def test_bbh_average_is_over_tasks(self):
        chart = charts_of("restem")[6]
        for iteration in (self.run_.base, self.run_.result):
            reports = {name: e.values for name, e in iteration.evals.items()}
            mean = groups.averages(reports)["bbh_cot"]["pass@1"]
            name = policy(iteration)
            self.assertIn(
                ("Macro average", "chain of thought", name, plotting.percent(mean)), chart.rows
            )
        self.assertLen(chart.rows, 2 * (27 + 1))
        self.assertEqual(chart.rows[0][0], "Boolean expressions")

    def test_bbh_without_all_tasks_has_no_average(self):
        folder = pathlib.Path(self.create_tempdir().full_path) / "copy"
        shutil.copytree(ROOT / "restem", folder)
        for path in folder.rglob("bbh_cot_snarks.json"):
            path.unlink()
        chart = transfer_figures.suite([read_run(str(folder))])
        self.assertLen(chart.rows, 2 * 26)
        self.assertNotIn("Macro average", [row[0] for row in chart.rows])

    def test_exam_stands_beside_gsm8k_for_base_and_result(self):
        self.grade_exams("restem")
        chart = charts_of("restem", "sft")[7]
        base, result = self.run_.base, self.run_.result
        gsm8k = [plotting.percent(i.evaluation("gsm8k").pass1) for i in (base, result)]
        exam = plotting.percent(0.3 + 0.1 * result.number)
        self.assertEqual(
            chart.rows,
            (("restem", "base policy", "30.0%", gsm8k[0]),
             ("restem", f"iteration {result.number}", exam, gsm8k[1])),
        )  # fmt: skip
        with plotting.style():
            (axis,) = chart.draw(False).axes
        (line,) = axis.lines
        np.testing.assert_allclose(line.get_xdata(), [0.3, 0.3 + 0.1 * result.number])
        self.assertIn("exam", axis.get_xlabel())  # as in the paper
        self.assertIn("GSM8K", axis.get_ylabel())

    def test_equal_labels_are_told_apart(self):
        runs = distinguish([self.run_, self.run_])
        self.assertEqual([run.label for run in runs], ["restem (1)", "restem (2)"])


if __name__ == "__main__":
    absltest.main()
