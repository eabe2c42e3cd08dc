"""What a report says of several runs: labels, p-values, contamination, exams graded by hand."""

import dataclasses
import pathlib
import tempfile

import gin
from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.cli.main import main
from restem.errors import UserError
from restem.evaluation import contamination, paired_tests
from restem.report import report
from restem.report.headline import headline
from restem.run import identity, layout, reader
from restem.run.reader import read_run
from restem.runtime import storage
from tests.helpers import synthetic_run

ROOT = epath.Path(tempfile.mkdtemp(prefix="restem_report_runs"))
HOSTILE = "<script>window.hacked = 1</script>"


def setUpModule():
    small = {"problems": 12, "samples": 4, "tests": 40, "n": 0, "transfer": ()}
    for name, method, skills in (("a", "rft", (-0.8, 1.5)), ("b", "sft", (-0.8, 0.2))):
        synthetic_run.write_run(ROOT / name, method=method, skills=skills, **small)
    run = layout.Workdir(ROOT / "a")
    _, problems = reader.read_problems(run.problems("arithmetic"))
    train = [p for p in problems if p.split == "train"]
    copied = [records.Problem(f"copy{i}", "test", p.inputs) for i, p in enumerate(train[:3])]
    test = [p for p in problems if p.split == "test"]
    found = contamination.of_tasks(train, {"arithmetic": test + copied, HOSTILE: copied})
    storage.write_json(run.contamination, found)


def tearDownModule():
    ROOT.rmtree()


class SeveralRunsTest(parameterized.TestCase):
    def runs(self, *names):
        return [read_run(str(ROOT / name)) for name in names]

    def labels(self, runs):
        return [run.label for run in report.by_method(runs)]

    def test_runs_of_different_methods_are_called_by_them(self):
        self.assertEqual(self.labels(self.runs("a", "b")), ["rft", "sft"])
        self.assertEqual(self.labels(self.runs("a", "a")), ["a", "a"])
        self.assertEqual(self.labels(self.runs("a")), ["a"])

    def test_the_table_has_the_p_value_of_each_iteration(self):
        (run,) = self.runs("a")
        rewards = []
        for i in (0, 1):
            table = storage.read_table(layout.Workdir(ROOT / "a").iteration(i).answers(run.task))
            answers = records.samples_from_table(table)
            rewards.append([s.reward for s in sorted(answers, key=lambda s: s.problem_id)])
        want = paired_tests.paired_test(*rewards)
        self.assertLess(want.p_value, 1.0)
        head = headline([run])
        column = head.table.columns.index("p")
        self.assertEqual([row[column] for row in head.table.rows], [None, f"{want.p_value:.2g}"])

    def test_contamination_is_counted_and_its_worst_pairs_are_shown(self):
        (run,) = self.runs("a")
        found = run.contamination["arithmetic"]
        self.assertGreaterEqual(found["num_equal"], 3)
        self.assertEqual(found["num_test"], 43)
        self.assertEqual(found["overlapping"][0]["fraction"], 1.0)
        note = f"{found['num_overlapping']} of 43 test problems share 13 words in a row"
        self.assertIn(note, " ".join(headline([run]).notes))
        out = ROOT / "page"
        command = ["report", str(ROOT / "a"), str(ROOT / "b"), "--labels=mine,human"]
        self.assertEqual(main([*command, f"--output={out}"]), 0)
        page = pathlib.Path(out / "index.html").read_text("utf-8")
        self.assertIn('<section id="contamination">', page)
        self.assertIn("Worst pairs of arithmetic, mine", page)
        self.assertIn("copy0", page)
        self.assertIn("human", page)
        self.assertNotIn(HOSTILE, page)
        self.assertEqual(main([*command[:3], "--labels=one"]), 2)

    def test_the_tasks_of_the_runs_are_in_the_title(self):
        a, b = self.runs("a", "b")
        of = lambda task: dataclasses.replace(a, files=self.folder(task))
        self.assertEqual(report.title([a]), "arithmetic: a")
        self.assertEqual(report.title([a, b]), "2 runs on arithmetic")
        self.assertEqual(report.title([a, of("mbpp")]), "2 runs on arithmetic and mbpp")
        several = [a, b, *map(of, ("mbpp", "math"))]
        self.assertEqual(report.title(several), "4 runs on arithmetic, mbpp and math")
        self.assertEqual(report.title([*several, of("apps")]), "5 runs on 4 tasks")

    def folder(self, task: str, **identity) -> layout.Workdir:
        """The folder of a run with nothing but its identity."""
        files = layout.Workdir(self.create_tempdir().full_path)
        storage.write_json(files.identity, {"base": "hf:x", "task": task, "seed": 0, **identity})
        return files

    @parameterized.parameters(
        (("a", "a", "a (1)"), ["a (2)", "a (3)", "a (1)"]),
        (("a (1)", "a", "a", "b"), ["a (1)", "a (2)", "a (3)", "b"]),
        (("a", "a", "a (1)", "a (1)"), ["a (2)", "a (3)", "a (1) (1)", "a (1) (2)"]),
    )
    def test_no_two_runs_have_one_label(self, given, want):
        runs = report.read_runs([str(ROOT / "a")] * len(given), given)
        self.assertEqual([run.label for run in runs], want)

    def test_figures_that_only_an_earlier_page_had_are_removed(self):
        out = ROOT / "again"
        self.addCleanup(out.rmtree)
        both = [str(ROOT / "a"), str(ROOT / "b")]
        report.report(workdirs=both, output=str(out), max_samples=0)
        own = out / "figures" / "mine.svg"
        own.write_text("drawn by hand")
        self.assertTrue((out / "figures" / "methods.svg").exists())
        page = epath.Path(report.report(workdirs=both[:1], output=str(out), max_samples=0))
        left = {path.name for path in (out / "figures").iterdir()}
        self.assertEqual(left, report.linked_figures(page.read_text()) | {own.name})
        self.assertNotIn("methods.svg", left)
        self.assertNotIn("cost_1.png", left)
        self.assertIn("cost.png", left)

    @parameterized.named_parameters(
        ("contamination", "contamination.json", {"tasks": {"arithmetic": {"n": 13}}}),
        ("pair", "contamination.json", {"tasks": {"arithmetic": dict.fromkeys(
            ("n", "num_test", "num_overlapping", "num_equal", "fraction"), 0)
            | {"overlapping": [{"test_id": "x"}]}}}),
        ("type", "contamination.json", {"tasks": {"arithmetic": dict.fromkeys(
            ("n", "num_test", "num_overlapping", "num_equal", "fraction", "overlapping"), 0)}}),
        ("number", "contamination.json", {"tasks": {"arithmetic": dict.fromkeys(
            ("n", "num_test", "num_overlapping", "num_equal", "fraction"), "13")
            | {"overlapping": []}}}),
        ("k", "iteration_000/evals/arithmetic.json", {"pass@1": 0.5, "pass@k": {"one": 0.5}}),
    )  # fmt: skip
    def test_a_report_that_lacks_an_entry_is_named(self, name, content):
        files = self.folder("arithmetic")
        storage.write_json(files.path / name, content)
        with self.assertRaisesRegex(UserError, f"{name}: .*delete it"):
            report.report(workdirs=[str(files.path)])

    def test_a_page_to_publish_has_no_word_of_the_data(self):
        out = ROOT / "published"
        self.addCleanup(out.rmtree)

        def page(*flags):
            self.assertEqual(main(["report", str(ROOT / "a"), f"--output={out}", *flags]), 0)
            return (out / "index.html").read_text()

        (run,) = self.runs("a")
        _, problems = reader.read_problems(run.files.problems("arithmetic"))
        texts = [p.inputs.split("\n")[1] for p in problems]
        whole, published = page(), page("--no_texts")
        self.assertTrue(any(text in whole for text in texts))
        self.assertFalse(any(text in published for text in texts))
        self.assertNotIn("Worst pairs", published)
        self.assertIn("Contamination", published)

    def test_gin_settings_hold_unless_a_flag_is_given(self):
        self.addCleanup(gin.clear_config)
        out = ROOT / "set"
        self.addCleanup(out.rmtree)

        def page(*flags):
            gin.clear_config()
            self.assertEqual(main(["report", str(ROOT / "a"), *flags]), 0)
            return (out / "index.html").read_text()

        output = f"--gin.report.output='{out}'"
        labels = "--gin.report.labels=('of gin',)"
        few = page(output, labels, "--gin.report.max_samples=3")
        self.assertRegex(few, r"carries 3 of the \d+ samples")
        self.assertIn("of gin", few)
        self.assertNotIn("This page carries", page(output, "--gin.report.texts=False"))
        self.assertNotIn("of gin", page(output, labels, "--labels=of a flag"))
        file = self.create_tempfile("of.gin", "report.max_samples = 4\n").full_path
        written = page(f"--output={out}", f"--gin_file={file}")
        self.assertRegex(written, r"carries 4 of the \d+ samples")

    def test_a_policy_evaluated_by_itself_is_no_run_in_progress(self):
        alone = layout.Workdir(ROOT / "alone")
        identity.claim(alone, {"kind": "evaluation", "base": "hf:/other", "seed": 0})
        home = alone.iteration(0)
        source = layout.Workdir(ROOT / "a").iteration(0).evaluation("arithmetic")
        storage.write_json(home.evaluation("arithmetic"), storage.read_json(source))
        (run,) = self.runs("alone")
        self.assertFalse(run.in_progress)
        self.assertIn("pass@1 of hf:/other on 40 test problems", headline([run]).sentence)

    def test_an_exam_graded_by_hand_counts_by_its_points(self):
        home = layout.Workdir(ROOT / "a").iteration(1)
        graded = {"pass@1": None, "ci95": None, "n": 33, "score": 0.4, "points": 40}
        storage.write_json(home.evaluation("hungarian"), graded)
        self.addCleanup(home.evaluation("hungarian").unlink)
        (run,) = self.runs("a")
        evaluation = run.iterations[1].evaluation("hungarian")
        self.assertEqual((evaluation.pass1, evaluation.interval), (0.4, None))
        head = headline([run])
        column = head.table.columns.index("hungarian")
        self.assertEqual([row[column] for row in head.table.rows], ["–", "40.0%"])


if __name__ == "__main__":
    absltest.main()
