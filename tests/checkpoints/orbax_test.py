"""restem's own checkpoints: they load by themselves, and a damaged one does not end a run."""

import contextlib
import errno
import json
import logging
import pathlib
import shutil
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import checkpoints
from restem.checkpoints import orbax
from restem.checkpoints.damage import DamagedError
from restem.errors import MachineError, UserError
from tests.helpers import orbax_damage, small_models


class PolicyTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        small_models.write_folder("gemma3", self.folder / "hf")
        self.policy = checkpoints.load(f"hf:{self.folder / 'hf'}")

    def save(self, path, **options):
        policy = self.policy
        return orbax.save(path, policy.params, policy.config, policy.vocabulary, **options)

    def test_loads_by_itself(self):
        path = self.folder / "checkpoint"
        self.assertFalse(orbax.is_saved(path))
        response = self.save(path, wait=False)
        response.result()
        shutil.rmtree(self.folder / "hf")
        # A checkpoint may be moved.
        moved = path.rename(self.folder / "moved")
        again = checkpoints.load(f"orbax:{moved}")
        self.assertEqual(again.config, self.policy.config)
        self.assertEqual(again.vocabulary.fingerprint, self.policy.vocabulary.fingerprint)
        jax.tree.map(np.testing.assert_array_equal, again.params, self.policy.params)
        tokens = small_models.tokens("gemma3")
        np.testing.assert_array_equal(again.logits(tokens), self.policy.logits(tokens))
        narrow = checkpoints.load(f"orbax:{moved}", dtype="bfloat16")
        self.assertEqual(narrow.params["embedding"].dtype, "bfloat16")

    def test_a_path_from_the_current_folder(self):
        self.enter_context(contextlib.chdir(self.folder))
        self.save("here/checkpoint")
        again = checkpoints.load("orbax:here/checkpoint")
        jax.tree.map(np.testing.assert_array_equal, again.params, self.policy.params)
        training = orbax.TrainingCheckpoints("here/training")
        training.save(3, {"x": jnp.ones(2)}, metadata={"a": 1}, wait=True)
        self.assertEqual(training.restore({"x": jnp.zeros(2)}).step, 3)

    def test_a_finished_checkpoint_is_replaced_only_when_told_to(self):
        path = self.folder / "checkpoint"
        self.save(path)
        with self.assertRaisesRegex(UserError, "already holds a checkpoint"):
            self.save(path)
        params = jax.tree.map(lambda p: p + 1, self.policy.params)
        orbax.save(path, params, self.policy.config, self.policy.vocabulary, overwrite=True)
        again = checkpoints.load(f"orbax:{path}")
        jax.tree.map(np.testing.assert_array_equal, again.params, params)

    def test_unfinished_or_damaged(self):
        path = self.folder / "checkpoint"
        with self.assertRaisesRegex(UserError, "is not a restem checkpoint"):
            checkpoints.load(f"orbax:{path}")
        self.save(path)
        params = path / "params"
        shutil.copytree(params, self.folder / "copy")
        shutil.rmtree(params)
        with self.assertRaisesRegex(UserError, "is an unfinished checkpoint"):
            checkpoints.load(f"orbax:{path}")
        shutil.copytree(self.folder / "copy", params)
        orbax_damage.flip_data(params)
        with self.assertRaisesRegex(UserError, "cannot be read as a checkpoint of this model"):
            checkpoints.load(f"orbax:{path}")
        shutil.rmtree(params)
        # It can be written again.
        self.save(path)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "mlp_dim": 50}))
        with self.assertRaisesRegex(UserError, "cannot be read as a checkpoint of this model"):
            checkpoints.load(f"orbax:{path}")


def state(step: int):
    key = jax.random.key(step)
    return {
        "params": {"w": jax.random.normal(key, (300, 70)), "b": jnp.full(5, step, jnp.bfloat16)},
        "opt_state": (jnp.zeros(3), {"mu": jnp.arange(4.0) + step}),
        "step": jnp.int32(step),
    }


ABSTRACT = jax.eval_shape(lambda: state(0))


class TrainingCheckpointsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()), "train")

    def fill(self, *steps, keep=2):
        with orbax.TrainingCheckpoints(self.folder, keep=keep) as manager:
            for step in steps:
                manager.save(step, state(step), metadata={"best": step / 8, "note": "a"})

    def assert_state(self, restored, step):
        self.assertEqual(restored.step, step)
        self.assertEqual(restored.metadata, {"best": step / 8, "note": "a"})
        jax.tree.map(np.testing.assert_array_equal, restored.tree, state(step))
        self.assertEqual(restored.tree["params"]["b"].dtype, jnp.bfloat16)

    def test_keeps_the_last_and_restores_the_newest(self):
        self.fill(10, 20, 30)
        with orbax.TrainingCheckpoints(self.folder, keep=2) as manager:
            self.assertEqual(manager.steps(), [20, 30])
            self.assert_state(manager.restore(ABSTRACT), 30)
            # A step that is saved already is kept as it is.
            manager.save(30, state(99), wait=True)
            self.assert_state(manager.restore(ABSTRACT), 30)

    def test_nothing_saved(self):
        with orbax.TrainingCheckpoints(self.folder) as manager:
            self.assertIsNone(manager.restore(ABSTRACT))

    def test_arrays_may_be_donated_once_save_returns(self):
        step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
        with orbax.TrainingCheckpoints(self.folder) as manager:
            tree = state(7)
            manager.save(7, tree, metadata={"best": 7 / 8, "note": "a"})
            for _ in range(5):
                tree = step(tree)
            jax.block_until_ready(tree)
        with orbax.TrainingCheckpoints(self.folder) as manager:
            self.assert_state(manager.restore(ABSTRACT), 7)

    @parameterized.parameters(*orbax_damage.DAMAGES)
    def test_a_damaged_newest_gives_way_to_the_one_before(self, damage):
        self.fill(10, 20)
        damage(self.folder / "20")
        with orbax.TrainingCheckpoints(self.folder) as manager:
            with self.assertLogs(level=logging.ERROR) as logs:
                self.assert_state(manager.restore(ABSTRACT), 10)
            self.assertIn("CHECKPOINT OF STEP 20", "\n".join(logs.output))
            # Training arrives there again, and what it saves replaces the damaged one.
            manager.save(20, state(20), metadata={"best": 20 / 8, "note": "a"}, wait=True)
            self.assert_state(manager.restore(ABSTRACT), 20)

    def test_none_readable(self):
        self.fill(10, 20)
        orbax_damage.lose_manifest(self.folder / "10")
        orbax_damage.lose_data(self.folder / "20")
        with (
            orbax.TrainingCheckpoints(self.folder) as manager,
            self.assertRaisesRegex(UserError, "none of the checkpoints in .* can be read"),
            self.assertLogs(level=logging.ERROR),
        ):
            manager.restore(ABSTRACT)

    @parameterized.parameters(
        (OSError(errno.EIO, "Input/output error", "/mnt/x"), "/mnt/x: the disk cannot be read"),
        (OSError(errno.EMFILE, "Too many open files"), "train/20: too many open files"),
        (MemoryError(), "train/20: out of memory"),
    )
    def test_a_state_that_the_machine_cannot_read_is_kept(self, fault, message):
        self.fill(10, 20)
        with orbax.TrainingCheckpoints(self.folder) as manager:
            with (
                mock.patch.object(manager._checkpointer, "load", side_effect=fault),
                self.assertRaisesRegex(MachineError, message),
            ):
                manager.restore(ABSTRACT)
            manager.save(20, state(99), wait=True)
            self.assert_state(manager.restore(ABSTRACT), 20)

    def test_all_hosts_continue_from_the_same_step_or_none(self):
        self.fill(10, 20)
        told = lambda *other: mock.patch.object(
            orbax.distributed, "gather", lambda what, own: [own, other]
        )
        with orbax.TrainingCheckpoints(self.folder) as manager:
            with (
                told("OSError: x", "/mnt/x: the disk"),
                self.assertRaisesRegex(MachineError, "^host 1: /mnt/x: the disk"),
            ):
                manager.restore(ABSTRACT)
            self.assert_state(manager.restore(ABSTRACT), 20)
            with (
                told("ValueError: x", None),
                self.assertLogs(level=logging.ERROR) as logs,
                self.assertRaisesRegex(UserError, "none of the checkpoints"),
            ):
                manager.restore(ABSTRACT)
            self.assertIn("(host 1: ValueError: x)", logs.output[0])

    def test_an_unfinished_one_does_not_count(self):
        """A save that was killed leaves Orbax's temporary folder."""
        self.fill(10)
        shutil.copytree(self.folder / "10", self.folder / "20.orbax-checkpoint-tmp-1")
        (self.folder / "20.orbax-checkpoint-tmp-1" / "commit_success.txt").unlink(missing_ok=True)
        with orbax.TrainingCheckpoints(self.folder) as manager:
            self.assertEqual(manager.steps(), [10])
            self.assert_state(manager.restore(ABSTRACT), 10)


class TreeTest(absltest.TestCase):
    def test_round_trip_and_refusals(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "tree")
            with self.assertRaisesRegex(UserError, "does not exist; no checkpoint"):
                orbax.restore_tree(path, ABSTRACT)
            orbax.save_tree(path, state(3))
            with (
                mock.patch.object(orbax.ocp, "load", side_effect=MemoryError),
                self.assertRaisesRegex(MachineError, "tree: out of memory"),
            ):
                orbax.restore_tree(path, ABSTRACT)
            found = orbax.restore_tree(path, ABSTRACT)
            self.assertEqual(jax.tree.structure(found), jax.tree.structure(state(3)))
            jax.tree.map(np.testing.assert_array_equal, found, state(3))
            other = {**ABSTRACT, "params": {"w": ABSTRACT["params"]["w"]}, "new": ABSTRACT["step"]}
            with self.assertRaisesRegex(DamagedError, "damaged or belongs to another"):
                orbax.restore_tree(path, other)


if __name__ == "__main__":
    absltest.main()
