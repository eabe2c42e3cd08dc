"""The questions that the sample browser shows are those of the run and its task."""

from absl.testing import absltest

from restem.records import Problem, Sample, TaskCard, Verdict, problems_to_table, samples_to_table
from restem.report import browser
from restem.report.report import read_runs, read_samples
from restem.run import layout
from restem.runtime import storage

ID = "train-00000"


class QuestionsTest(absltest.TestCase):
    def run_on(self, inputs: str, answer: str, **others: Problem) -> str:
        """The folder of a run with one sample of one problem, and the problems of other tasks."""
        files = layout.Workdir(self.create_tempdir().full_path)
        storage.write_json(files.identity, {"base": "pypi:x", "task": "own", "seed": 0})
        problems = {"own": Problem(ID, "train", inputs, answer), **others}
        for task, problem in problems.items():
            table = problems_to_table([problem], TaskCard(task))
            storage.write_table(files.problems(task), table)
        sample = Sample(ID, 0, "text", (1,), -1.0, "eos", 1.0, Verdict(1.0))
        path = layout.shard_path(files.iteration(1).samples, 0, 1)
        storage.write_table(path, samples_to_table([sample]))
        return str(files.path)

    def embed(self, *folders: str) -> browser.Embedded:
        runs = read_runs(folders, None)
        return browser.embed(runs, read_samples(runs, 9), limit=9, characters=99)

    def test_another_task_may_use_the_same_ids(self):
        for name in ("a", "z"):  # its file is read before or after the run's own
            other = Problem(ID, "test", "Capital of France?", "Paris")
            found = self.embed(self.run_on("2 + 5 =", "7", **{name: other}))
            self.assertEqual(found.questions, [{"inputs": "2 + 5 =", "answer": "7"}])
            self.assertEqual([s["question"] for s in found.samples], [0])

    def test_another_run_may_use_the_same_ids(self):
        first, second = self.run_on("1 + 1 =", "2"), self.run_on("2 + 5 =", "7")
        found = self.embed(first, second, first)
        shown = [found.questions[sample["question"]]["answer"] for sample in found.samples]
        self.assertEqual(shown, ["2", "7", "2"])
        self.assertLen(found.questions, 2)  # runs on the same problems share them

    def test_a_problem_that_is_not_in_the_file(self):
        folder = self.run_on("1 + 1 =", "2")
        layout.Workdir(folder).problems("own").unlink()
        found = self.embed(folder)
        self.assertEqual([s["question"] for s in found.samples], [None])
        self.assertEqual(found.questions, [])


if __name__ == "__main__":
    absltest.main()
