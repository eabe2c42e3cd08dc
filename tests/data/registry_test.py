"""Adding tasks and finding them by name."""

import subprocess
import sys

from absl.testing import absltest

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.data import registry
from restem.errors import UserError
from tests.helpers import tiny
from tests.helpers.data_folders import DataFolderTest


class RegistryTest(DataFolderTest):
    def test_importing_the_tasks_imports_no_tensorflow(self):
        program = "import restem.tasks, sys; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        heavy = {"tensorflow", "seqio", "tensorflow_datasets", "jax", "torch"}
        self.assertEmpty(heavy & set(done.stdout.split()))

    def test_built_in_tasks_and_groups(self):
        names = registry.names()
        for name in ("arithmetic", "math", "gsm8k", "apps", "humaneval", "mbpp", "hungarian"):
            self.assertIn(name, names)
        self.assertLen(registry.group("bbh_cot"), 27)
        self.assertLen(registry.group("bbh_direct"), 27)
        self.assertEqual(registry.group("math"), ["math"])
        self.assertLen(registry.expand(["math", "bbh_cot", "math"]), 28)

    def test_every_grader_is_one_that_verification_knows(self):
        from restem.verify import graders

        for name in registry.names():
            graders.check(registry.get(name).grader)

    def test_unknown_names_get_a_hint(self):
        with self.assertRaisesRegex(UserError, r"'aritmetic' \(is it arithmetic\?\).*bbh_cot"):
            registry.get("aritmetic")
        with self.assertRaisesRegex(UserError, "'a b'"):
            registry.add("a b", source=list)
        with self.assertRaisesRegex(UserError, "stop = .*: must be a tuple"):
            registry.add("toy", source=list, stop="Q:")
        with self.assertRaisesRegex(UserError, "source must be"):
            registry.add("toy", source=[1])
        with self.assertRaisesRegex(UserError, "cannot import the grader '.*lambda>'"):
            registry.add("toy", source=list, grader=lambda problem, text: 1.0)
        with self.assertRaisesRegex(UserError, "unknown grader kind 'maths'"):
            registry.add("toy", source=list, grader={"kind": "maths"})

    def test_a_function_can_grade(self):
        spec = registry.add("graded_by_function", source=list, grader=tiny.few_letters)
        self.addCleanup(registry._TASKS.pop, "graded_by_function")
        named = {"kind": "function", "function": "tests.helpers.tiny:few_letters"}
        self.assertEqual(spec.grader, named)


if __name__ == "__main__":
    absltest.main()
