"""Single steps read the settings of the loop, however gin binds them."""

import contextlib
import io
import logging
import pathlib
from unittest import mock

import gin
import jax
from absl.testing import absltest, parameterized

from restem import em, records
from restem.cli.main import main
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.run import layout
from restem.run.run import Run
from restem.runtime import storage
from restem.runtime.progress import CONSOLE
from tests.helpers import run_files, tiny

SETTINGS = ("Run.base='orbax:/base'", "Run.task='sums'")
MACROS = {"%EVERY": "EVERY=2", "%START": "START='last'"}


class StepVerbsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)
        self.keep_process_settings()
        self.files = layout.Workdir(pathlib.Path(self.create_tempdir().full_path) / "run")
        problems = [Problem(str(i), "train", f"{i}?", answer=str(i)) for i in range(2)]
        run_files.write_problems(self.files, TaskCard("sums"), problems)

    def keep_process_settings(self):
        """The command line sets up logging and a compilation cache for a process of its own."""
        cache = jax.config.jax_compilation_cache_dir
        self.addCleanup(jax.config.update, "jax_compilation_cache_dir", cache)
        root = logging.getLogger()
        self.addCleanup(setattr, root, "handlers", list(root.handlers))

    def restem(self, verb, *flags, code=0):
        gin.clear_config()
        errors = io.StringIO()
        used = [binding for macro, binding in MACROS.items() if macro in " ".join(flags)]
        bindings = [f"--gin.{binding}" for binding in (*SETTINGS, *used)]
        with contextlib.redirect_stderr(errors), CONSOLE.capture():
            found = main([verb, f"--workdir={self.files.path}", *bindings, *flags])
        self.assertEqual(found, code, errors.getvalue())

    def write_samples(self, iteration):
        verdict = Verdict(1.0, "string", "1", "1")
        samples = [Sample(str(i), 0, f"is {i}", (5,), -1.0, "eos", 1.0, verdict) for i in range(2)]
        path = layout.shard_path(self.files.iteration(iteration).samples, 0, 1)
        storage.write_table(path, records.samples_to_table(samples))

    @parameterized.parameters("%EVERY", "2")
    def test_select_takes_the_samples_of_the_shared_generate_step(self, every):
        self.restem("select", f"--gin.em.generate_every={every}", "--iteration=2", code=2)
        self.write_samples(1)
        self.restem("select", f"--gin.em.generate_every={every}", "--iteration=2")
        report = storage.read_json(self.files.iteration(2).selection)
        self.assertEqual((report["iteration"], report["kept"]), (2, 2))

    def test_generate_takes_the_next_iteration_that_has_an_e_step(self):
        every = "--gin.em.generate_every=3"
        asked = []

        def generate(*, run, iteration, **_):
            asked.append(iteration)
            storage.write_json(run.directory(iteration).generation, {"samples": 2, "correct": 1})

        with mock.patch.object(em, "generate_samples", generate):
            for _ in range(3):
                self.restem("generate", every)
            self.restem("generate", every, "--iteration=2", code=2)
        self.assertEqual(asked, [1, 4, 7])

    @parameterized.parameters(("%START", 1), ("last", 1), ("base", 0))
    def test_improve_starts_from_the_policy_that_the_loop_would(self, start, iteration):
        flags = (f"--gin.em.start_from={start}", "--iteration=2")
        self.restem("select", *flags, code=2)  # claims the folder
        self.write_samples(2)
        improvement = {"best_validation": None, "improved": False, "start": "orbax:/base"}
        storage.write_json(self.files.iteration(1).improvement, improvement)
        self.restem("select", *flags)

        def improve(*, directory, **_):
            storage.write_json(directory.improvement, improvement)

        with (
            mock.patch.object(Run, "policy") as policy,
            mock.patch.object(em, "improve", side_effect=improve),
        ):
            self.restem("improve", *flags)
        policy.assert_called_once_with(iteration, dtype="float32" if iteration else None)

    @parameterized.parameters((0, ""), (1, "; training never improved on it, so iteration 1 is"))
    def test_export_says_when_an_iteration_is_the_base_policy(self, iteration, note):
        base = tiny.save_policy(self.files.path / "base")
        storage.write_json(self.files.identity, {"base": base, "task": "sums"})
        improvement = {"best_validation": None, "improved": False, "start": base}
        storage.write_json(self.files.iteration(1).improvement, improvement)
        folder = self.files.path / f"exported_{iteration}"
        with CONSOLE.capture() as shown:
            flags = [f"--iteration={iteration}", f"--output={folder}"]
            self.assertEqual(main(["export", f"--workdir={self.files.path}", *flags]), 0)
        note += " the base policy" if note else ""
        self.assertEqual(shown.get(), f"{base} written to {folder}{note}\n")
        self.assertIn("weights of the base model", (folder / "README.md").read_text())


if __name__ == "__main__":
    absltest.main()
