"""Adding tasks and finding them by name."""

import subprocess
import sys

from absl.testing import absltest

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.data import registry
from restem.errors import UserError
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


if __name__ == "__main__":
    absltest.main()
