"""`--repair` removes exactly what is damaged and made again, and what depends on it being there."""

import errno
import json
import pathlib
import shutil
from unittest import mock

import jax
from absl.testing import absltest, parameterized
from etils import epath

from restem import checkpoints
from restem.checkpoints import orbax
from restem.checkpoints.damage import DamagedError
from restem.checkpoints.policy import AdapterOrigin
from restem.cli import session
from restem.errors import MachineError, UserError
from restem.models import lora
from restem.run import identity, layout, repair
from restem.run.run import Run
from restem.run.settings import MeshSettings, RunSettings
from restem.runtime import storage
from tests.helpers import orbax_damage, synthetic_run, tiny

ONE = "iteration_001"
EVALS = f"{ONE}/evals/arithmetic"

# (damaged file, files that are removed, how they are made again)
DAMAGE = (
    ("run.json", ["run.json"], repair.IDENTITY),
    ("summary.json", ["summary.json"], repair.WRITTEN),
    ("problems/arithmetic.parquet", ["problems/arithmetic.parquet"], repair.READ),
    (f"{ONE}/samples/00000-of-00002.parquet",
     [f"{ONE}/samples/00000-of-00002.parquet", f"{ONE}/generation.json"], repair.SAMPLED),
    (f"{ONE}/generation.json", [f"{ONE}/generation.json"], repair.COUNTED),
    (f"{ONE}/dataset/00000-of-00002.parquet",
     [f"{ONE}/dataset/00000-of-00002.parquet", f"{ONE}/selection.json"], repair.SELECTED),
    (f"{ONE}/selection.json", [f"{ONE}/selection.json"], repair.SELECTED),
    (f"{ONE}/improvement.json", [f"{ONE}/improvement.json"], repair.TRAINED),
    (f"{ONE}/checkpoint/config.json",
     [f"{ONE}/checkpoint", f"{ONE}/improvement.json"], repair.TRAINED),
    (f"{ONE}/checkpoint/vocabulary/tokenizer.json",
     [f"{ONE}/checkpoint", f"{ONE}/improvement.json"], repair.TRAINED),
    (f"{ONE}/checkpoint/params/_CHECKPOINT_METADATA",
     [f"{ONE}/checkpoint", f"{ONE}/improvement.json"], repair.TRAINED),
    ("iteration_000/validation.json", ["iteration_000/validation.json"], repair.MEASURED),
    (f"{EVALS}.json", [f"{EVALS}.json", f"{EVALS}.parquet"], repair.EVALUATED),
    (f"{EVALS}.parquet", [f"{EVALS}.json", f"{EVALS}.parquet"], repair.EVALUATED),
)  # fmt: skip


class RepairTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = pathlib.Path(absltest.get_default_test_tmpdir()) / "repair_test"
        shutil.rmtree(cls.whole, ignore_errors=True)
        synthetic_run.write_run(
            cls.whole, skills=(-0.8, 0.9), problems=6, samples=4, tests=4, n=2, transfer=()
        )
        tiny.save_policy(cls.whole / ONE / "checkpoint")

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path) / "run"
        shutil.copytree(self.whole, self.folder)
        self.files = layout.Workdir(epath.Path(self.folder))

    def listed(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}

    def test_a_run_without_damage_keeps_every_file(self):
        self.assertEqual(repair.find(self.files), [])
        self.assertEqual(repair.find(layout.Workdir(self.files.path / "nothing")), [])
        self.assertEqual(
            repair.report([], is_dry=False), ["repair: no file of this run is damaged"]
        )

    @parameterized.parameters(*DAMAGE)
    def test_damaged_files(self, name, removed, remedy):
        before = self.listed()
        whole = (self.folder / name).read_bytes()
        for data in (b"", b"\xff" * len(whole), whole[: len(whole) // 2], b"[]"):
            with self.subTest(data[:9]):
                (self.folder / name).write_bytes(data)
                found = repair.find(self.files)
                self.assertNotEmpty(found)
                self.assertEqual({part.remedy for part in found}, {remedy})
                lines = repair.report(found, is_dry=True)
                self.assertRegex(lines[0], f"^repair: would remove {self.folder}/.* damaged: .+")
        repair.apply(repair.find(self.files))
        gone = {f for f in before if any(f == r or f.startswith(f"{r}/") for r in removed)}
        self.assertEqual(before - self.listed(), gone)
        left = {part.path.name for part in repair.find(self.files)}
        self.assertEmpty(left)

    def test_what_a_kill_left_is_removed(self):
        leftover = self.folder / ONE / "samples" / ".00000-of-00002.parquet.0123456789ab.tmp"
        leftover.write_bytes(b"half")
        [found] = repair.find(self.files)
        self.assertEqual(found.remedy, repair.UNFINISHED)
        repair.apply([found])
        self.assertFalse(leftover.exists())

    def test_damage_inside_of_a_checkpoint_is_found_by_reading_it(self):
        path = self.folder / ONE / "checkpoint"
        self.assertEqual(repair.find(self.files, reads_arrays=True), [])
        for damage in (orbax_damage.flip_data, orbax_damage.truncate_data):
            with self.subTest(damage.__name__):
                shutil.rmtree(path)
                tiny.save_policy(path)
                damage(path / "params")
                self.assertEqual(repair.find(self.files), [])
                [found] = repair.find(self.files, reads_arrays=True)
                self.assertEqual(found.path.name, "checkpoint")
                self.assertLen(found.removed, 2)

    def test_a_config_of_another_policy_is_damage(self):
        path = self.folder / ONE / "checkpoint" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "mlp_dim": 50}))
        [found] = repair.find(self.files, reads_arrays=True)
        self.assertIn("belongs to another configuration", found.line)


class HealthyTest(parameterized.TestCase):
    """What a checkpoint does not hold, and what this machine cannot do, is not its damage."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.files = layout.Workdir(epath.Path(self.folder / "run"))
        self.directory = self.files.iteration(1)
        tiny.save_policy(self.folder / "base")
        improvement = {"improved": True, "start": "base", "best_validation": 1.0}
        storage.write_json(self.directory.improvement, improvement)

    def run_with(self, **settings):
        settings = RunSettings(base=f"orbax:{self.folder / 'base'}", task="arithmetic", **settings)
        return Run(str(self.files.path), settings)

    def test_an_adapter_whose_base_is_away(self):
        base = checkpoints.load(f"orbax:{self.folder / 'base'}")
        form = lora.Lora(rank=2)
        origin = AdapterOrigin(form, base.reference, "float32", orbax.fingerprint(base.params))
        adapter = lora.init(base.params, form, jax.random.key(0))
        path = self.directory.checkpoint
        orbax.save(path, adapter, base.config, base.vocabulary, adapter=origin)
        (self.folder / "base").rename(self.folder / "moved")
        with self.assertRaises(UserError):
            checkpoints.load(f"orbax:{path}")
        session.repair_run(self.run_with())
        self.assertTrue(orbax.is_saved(path))
        orbax_damage.flip_data(pathlib.Path(path) / "params", least=100)
        session.repair_run(self.run_with())
        self.assertFalse(path.exists())

    def test_a_mesh_that_does_not_fit_this_machine(self):
        path = self.directory.checkpoint
        tiny.save_policy(path)
        run = self.run_with(e_step_mesh=MeshSettings(tensor=8))
        with self.assertRaisesRegex(UserError, "not a multiple of 8"):
            run.load(f"orbax:{path}")
        session.repair_run(run)
        self.assertTrue(orbax.is_saved(path))

    @parameterized.parameters(
        (OSError(errno.EMFILE, "Too many open files"), MachineError, "too many open files"),
        (OSError(errno.EIO, "Input/output error", "/mnt/x"), MachineError, "/mnt/x: the disk"),
        (ValueError("DATA_LOSS: [OS error 5: EIO Input/output error]"), MachineError, "the disk"),
        (MemoryError(), MachineError, "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory on device"), MachineError, "the device"),
        (ValueError("UNAVAILABLE: storage.googleapis.com"), MachineError, "cannot be read now"),
        (TimeoutError("no answer"), MachineError, "cannot be read now"),
        (PermissionError(errno.EACCES, "Permission denied", "/mnt/x"), UserError, "permission"),
    )  # fmt: skip
    def test_a_machine_that_cannot_read(self, fault, kind, message):
        path = self.directory.checkpoint
        tiny.save_policy(path)
        readers = (
            (orbax.ocp, "load"), (orbax.ocp, "metadata"), (orbax.saved, "load"),
            (storage, "read_json"),
        )  # fmt: skip
        for reader in readers:
            for error in (fault, wrapped(fault)):
                with (
                    self.subTest(f"{reader} {error!r}"),
                    mock.patch.object(*reader, side_effect=error),
                    self.assertRaisesRegex(kind, message) as raised,
                ):
                    session.repair_run(self.run_with())
                self.assertNotIsInstance(raised.exception, DamagedError)
        self.assertTrue(orbax.is_saved(path))
        self.assertTrue(self.directory.improvement.exists())


def wrapped(fault: Exception) -> Exception:
    """The fault as a reader reports it that takes every error for one of its file."""
    try:
        try:
            raise fault
        except Exception:
            raise UserError("not a tokenizer; copy or download it again") from None
    except UserError as error:
        return error


class LostIdentityTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.files = layout.Workdir(epath.Path(self.create_tempdir().full_path) / "run")
        storage.write_json(self.files.iteration(0).evaluation("t"), {"policy": "hf:base"})
        storage.write_json(self.files.iteration(1).generation, {"num_samples": 8})

    def identity(self, base="hf:base", num_samples=8):
        return {"base": base, "seed": 0, "settings": {"generate.num_samples": num_samples}}

    def test_it_is_written_again_only_if_asked_for(self):
        with self.assertRaisesRegex(UserError, "no run.json.* --repair writes it again"):
            identity.claim(self.files, self.identity())
        identity.claim(self.files, self.identity(), rebuild=True)
        identity.claim(self.files, self.identity())

    def test_settings_that_contradict_other_files_are_refused(self):
        for other in (self.identity(base="hf:other"), self.identity(num_samples=4)):
            with self.assertRaisesRegex(UserError, "are not those that the run was started with"):
                identity.claim(self.files, other, rebuild=True)
        self.assertFalse(self.files.identity.exists())

    def test_a_zero_byte_identity_says_what_helps(self):
        storage.write_bytes(self.files.identity, b"")
        with self.assertRaisesRegex(UserError, "run.json: not JSON .* --repair"):
            identity.claim(self.files, self.identity())
        repair.apply(repair.find(self.files))
        identity.claim(self.files, self.identity(), rebuild=True)
        self.assertEqual(storage.read_json(self.files.identity)["base"], "hf:base")


if __name__ == "__main__":
    absltest.main()
