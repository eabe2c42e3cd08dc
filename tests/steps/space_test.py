"""Free space is compared with what checkpoints need before the first M-step."""

import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from etils import epath

from restem.errors import MachineError
from restem.models.lora import Lora
from restem.run import layout
from restem.run.settings import RunSettings
from restem.runtime import storage
from restem.steps import space
from restem.steps.settings import ImproveSettings, LoopSettings, Settings
from tests.helpers import tiny


class SpaceTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        folder = pathlib.Path(temporary.name)
        cls.base = tiny.save_policy(folder / "base")
        cls.policy = sum(p.stat().st_size for p in folder.rglob("d/*") if p.is_file())

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.files = layout.Workdir(epath.Path(self.folder / "run"))

    def settings(self, iterations=3, **improve) -> Settings:
        return Settings(
            run=RunSettings(base=self.base, task="letters"),
            loop=LoopSettings(iterations=iterations),
            improve=ImproveSettings(**improve),
        )

    def test_what_a_run_needs(self):
        found = space.need(self.settings(), self.files)
        self.assertEqual(found.iterations, 3)
        # What Orbax wrote is the arrays and a few bytes to find them by.
        self.assertBetween(self.policy / found.policy, 1.0, 1.2)
        self.assertEqual(found.m_step, (3 * 4 + 1) * found.policy)
        self.assertEqual(found.total, found.m_step + 2 * found.policy)

    def test_settings_that_need_less(self):
        whole = space.need(self.settings(), self.files).policy
        half = space.need(self.settings(param_dtype="bfloat16"), self.files)
        self.assertEqual(half.policy, whole // 2)
        unsaved = space.need(self.settings(save_every=0), self.files)
        self.assertEqual(unsaved.m_step, 5 * whole)
        adapter = space.need(self.settings(adapter=Lora(rank=1)), self.files)
        self.assertLess(adapter.policy, whole // 4)
        loop = LoopSettings(improve=lambda **_: {})
        prompts = Settings(run=RunSettings(base=self.base, task="letters"), loop=loop)
        self.assertEqual(space.need(prompts, self.files).total, 0)

    def test_finished_iterations_need_nothing(self):
        storage.write_json(self.files.iteration(1).improvement, {})
        self.assertEqual(space.need(self.settings(), self.files).iterations, 2)
        self.assertEqual(space.need(self.settings(iterations=1), self.files).total, 0)

    def test_a_base_that_is_not_there(self):
        settings = self.settings().with_run(base="hf:/nowhere")
        self.assertIsNone(space.need(settings, self.files))
        space.check(settings, self.files)

    def test_too_little_for_one_m_step_is_refused_and_for_all_is_a_warning(self):
        need = space.need(self.settings(), self.files)
        is_free = self.enter_context(mock.patch.object(space, "free"))
        is_free.return_value = need.m_step - 1
        with self.assertRaisesRegex(MachineError, "free, but the checkpoints of an M-step"):
            space.check(self.settings(), self.files)
        is_free.return_value = need.total - 1
        with self.assertLogs(level="WARNING") as logs:
            space.check(self.settings(), self.files)
        self.assertIn("checkpoints of the 3 iterations to come", logs.output[0])
        for enough in (need.total, None):
            is_free.return_value = enough
            with self.assertNoLogs(level="WARNING"):
                space.check(self.settings(), self.files)

    def test_the_remedy_is_one_that_is_not_in_force(self):
        self.enter_context(mock.patch.object(space, "free", return_value=1))
        with self.assertRaisesRegex(MachineError, "or set improve.save_every = 0$"):
            space.check(self.settings(), self.files)
        with self.assertRaisesRegex(MachineError, "; free some space or use another --workdir$"):
            space.check(self.settings(save_every=0), self.files)

    def test_where_the_folder_will_be(self):
        self.assertGreater(space.free(layout.Workdir(self.folder / "not" / "yet")), 0)
        self.assertIsNone(space.free(layout.Workdir("gs://bucket/run")))
        self.assertEqual(
            [space.size(n) for n in (700, 3 << 20, 3 << 29)], ["1 KiB", "3.0 MiB", "1.5 GiB"]
        )


if __name__ == "__main__":
    absltest.main()
