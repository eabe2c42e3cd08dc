"""What the reader of a run's folder says of its problems, its sampler and its settings."""

from absl.testing import absltest, parameterized
from etils import epath

from restem.records import Problem, TaskCard
from restem.run import layout, reader
from restem.runtime import storage
from tests.helpers import run_files


class ReaderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.files = layout.Workdir(epath.Path(self.create_tempdir().full_path))
        self.identify()

    def identify(self, **settings):
        identity = {"base": "pypi:x", "task": "own", "seed": 0, "settings": settings}
        storage.write_json(self.files.identity, identity)

    def write_problems(self, task: str, *texts: str):
        problems = [Problem(f"line-{i}", "train", text) for i, text in enumerate(texts)]
        run_files.write_problems(self.files, TaskCard(task), problems)

    def read(self) -> reader.StoredRun:
        return reader.read_run(self.files.path)

    def test_an_id_names_a_problem_of_a_task(self):
        self.write_problems("another", "x")
        self.write_problems("own", "y", "z")
        inputs = lambda found: {name: problem.inputs for name, problem in found.items()}
        run = self.read()
        self.assertEqual(inputs(run.problems()), {"line-0": "y", "line-1": "z"})
        self.assertEqual(inputs(run.problems({"line-1"})), {"line-1": "z"})
        self.assertEqual(inputs(run.problems(task="another")), {"line-0": "x"})
        self.assertEqual(run.problems(task="nothing"), {})

    @parameterized.named_parameters(
        ("version 0.1", {}, 10),
        ("all in each iteration", {"em.problems_per_iteration": None}, 10),
        ("mini-batches", {"em.problems_per_iteration": 10}, 30),
        ("unknown", {"em.problems_per_iteration": 10, "Run.drop_overlapping": True}, None),
    )
    def test_number_of_training_problems(self, settings, want):
        self.identify(**settings)
        self.write_problems("own", *map(str, range(30)))
        for i, count in ((1, 10), (2, 9)):
            storage.write_json(self.files.iteration(i).selection, {"problems": count})
        self.assertEqual(self.read().train_problems, want)

    def test_human_solutions_are_known_before_the_first_step_is_finished(self):
        self.assertFalse(self.read().trains_on_human_solutions)
        self.identify(**{"generate.num_samples": 0})
        self.assertTrue(self.read().trains_on_human_solutions)

    def test_evaluations_of_a_list_that_was_edited(self):
        storage.write_json(self.files.iteration(0).evaluation("own"), {"pass@1": 0.5})
        identity = storage.read_json(self.files.identity)
        for listed in (None, -1, "own", ["math", 3, {}]):
            storage.write_json(self.files.identity, identity | {"evaluate_on": listed})
            self.assertEqual(self.read().evaluations, ["own"])

    def test_teacher(self):
        self.assertEqual(self.read().teacher, "")
        self.identify(**{"Run.teacher": "hf:large"})
        self.assertEqual(self.read().teacher, "hf:large")


if __name__ == "__main__":
    absltest.main()
