"""Training stops when validation no longer improves, and the best policy is kept, not the last."""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest
from etils import epath

from restem import checkpoints, models
from restem.checkpoints import orbax
from restem.checkpoints.policy import Policy
from restem.errors import UserError
from restem.models import lora
from restem.models.lora import Lora
from restem.records import Example, Problem, TaskCard
from restem.rollout import Rollout
from restem.run import layout
from restem.steps import moments
from restem.steps.improve import improve
from restem.steps.settings import ImproveSettings
from restem.training import optimizers
from tests.helpers import compilation, tiny

VALIDATION = [Problem("v", "validation", "?")]
EXAMPLES = [Example(f"p{i}", 0, f"say {i}:", f" {i}", (), 1.0) for i in range(4)]
SETTINGS = ImproveSettings(
    optimizer=functools.partial(optimizers.adamw, learning_rate=1e-2),
    epochs=6,
    batch_examples=4,
    row_length=32,
    rows_per_batch=2,
    validate_every=1,
    patience=2,
)


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


class KilledError(BaseException):
    """Ends the process of an M-step, as far as the M-step can tell."""


@dataclasses.dataclass(frozen=True)
class Scripted(Rollout):
    """A rollout whose validation rewards are given."""

    rewards: Any = ()
    """Reward of each validation; None kills."""
    seen: list[np.ndarray] = dataclasses.field(default_factory=list)
    """A parameter of each policy that was validated."""

    def greedy_reward(self, problems, *, what="validating"):
        del problems, what
        self.seen.append(np.array(self.policy.params["final_norm"], np.float32))
        reward = self.rewards[len(self.seen) - 1]
        if reward is None:
            raise KilledError
        return reward


class ImproveTestCase(absltest.TestCase):
    def setUp(self):
        super().setUp()
        path = epath.Path(self.create_tempdir().full_path) / "iteration_001"
        self.directory = layout.IterationDir(path)
        params = models.init_params(tiny.config(), jax.random.key(0))
        self.start = Policy(tiny.config(), params, tiny.vocabulary(), "orbax:/base")

    def rollout(self, *rewards):
        card = TaskCard("letters", prefix="hi\n", grader={"kind": "none"}, max_new_tokens=4)
        return Scripted(policy=self.start, card=card, verifier=None, key=1, rewards=rewards)

    def improve(self, rollout, *, validation=VALIDATION, start_reward=0.5, **changes):
        return improve(
            rollout=rollout,
            examples=EXAMPLES,
            validation=validation,
            directory=self.directory,
            start_reward=start_reward,
            settings=dataclasses.replace(SETTINGS, **changes),
        )


class ImproveTest(ImproveTestCase):
    def kept(self):
        """The watched parameter of the iteration's policy."""
        policy = checkpoints.load(f"orbax:{self.directory.checkpoint}")
        return np.asarray(policy.params["final_norm"], np.float32)

    def test_the_best_is_kept_and_patience_counts_from_it(self):
        rollout = self.rollout(0.4, 0.7, 0.7, 0.6)
        made = self.improve(rollout)
        self.assertEqual(made["validation"], [[0, 0.5], [1, 0.4], [2, 0.7], [3, 0.7], [4, 0.6]])
        self.assertEqual((made["best_step"], made["best_validation"]), (2, 0.7))
        self.assertEqual((made["steps"], made["improved"], made["epochs"]), (4, True, 4.0))
        np.testing.assert_array_equal(self.kept(), rollout.seen[1])
        self.assertGreater(np.abs(self.kept() - rollout.seen[3]).max(), 1e-4)
        self.assertFalse(self.directory.training.exists())

    def test_the_last_step_is_validated_and_may_be_the_best(self):
        rollout = self.rollout(0.6, 0.8)
        made = self.improve(rollout, epochs=3, validate_every=2)
        self.assertEqual(made["validation"], [[0, 0.5], [2, 0.6], [3, 0.8]])
        self.assertEqual(made["best_step"], 3)
        np.testing.assert_array_equal(self.kept(), rollout.seen[1])

    def test_the_start_stays_where_nothing_is_better(self):
        made = self.improve(self.rollout(0.5, 0.5))
        self.assertEqual((made["improved"], made["best_step"], made["steps"]), (False, 0, 2))
        self.assertEqual((made["start"], made["best_validation"]), ("orbax:/base", 0.5))
        self.assertFalse(self.directory.checkpoint.exists())

    def test_an_unknown_start_is_validated_first(self):
        rollout = self.rollout(0.9, 0.1)
        made = self.improve(rollout, start_reward=None, patience=1)
        self.assertEqual(made["validation"], [[0, 0.9], [1, 0.1]])
        np.testing.assert_array_equal(rollout.seen[0], self.start.params["final_norm"])
        self.assertFalse(made["improved"])

    def test_without_validation_the_last_is_kept(self):
        made = self.improve(self.rollout(), validation=[], start_reward=None, epochs=2)
        self.assertEqual((made["best_step"], made["steps"], made["validation"]), (2, 2, []))
        self.assertEqual((made["improved"], made["best_validation"]), (True, None))
        self.assertTrue(self.directory.checkpoint.exists())

    def test_moments_go_on_with_the_last_policy(self):
        """Two M-steps of one epoch with one optimizer are one M-step of two epochs."""
        given = dict(validation=[], start_reward=None)
        self.improve(self.rollout(), epochs=2, **given)
        whole = self.kept()
        first, second = (self.directory.path.parent / f"iteration_00{i}" for i in (2, 3))
        for keep, same in ((True, True), (False, False)):
            for path in (first, second):
                path.rmtree(missing_ok=True)
            self.directory = layout.IterationDir(first)
            self.improve(self.rollout(), epochs=1, keep_optimizer=keep, **given)
            self.assertEqual(self.directory.optimizer.exists(), keep)
            last = checkpoints.load(f"orbax:{self.directory.checkpoint}")
            self.directory = layout.IterationDir(second)
            rollout = self.rollout().replace(policy=last)
            self.improve(rollout, epochs=1, keep_optimizer=keep, **given)
            self.assertFalse(layout.IterationDir(first).optimizer.exists())
            difference = np.abs(self.kept() - whole).max()
            (self.assertLess if same else self.assertGreater)(difference, 1e-6)

    def test_moments_are_found_in_a_folder_with_a_relative_name(self):
        one, two = (layout.IterationDir(epath.Path(f"run/iteration_00{i}")) for i in (1, 2))
        kept = dict(epochs=1, keep_optimizer=True, validation=[], start_reward=None)
        with contextlib.chdir(self.create_tempdir().full_path):
            self.directory = one
            self.improve(self.rollout(), **kept)
            last = checkpoints.load(f"orbax:{one.checkpoint}")
            self.directory = two
            with self.assertLogs(level="INFO") as logs:
                self.improve(self.rollout().replace(policy=last), **kept)
            self.assertIn("continues with the moments of", "".join(logs.output))
            self.assertEqual((one.optimizer.exists(), two.optimizer.exists()), (False, True))

    def test_moments_stay_while_their_policy_is_the_last(self):
        one, two = (self.directory.path.parent / f"iteration_00{i}" for i in (1, 2))
        moments_of_one = layout.IterationDir(one).optimizer
        moments_of_one.mkdir(parents=True)
        start = f"orbax:{layout.IterationDir(one).checkpoint}"
        moments.discard(start, layout.IterationDir(two))
        self.assertTrue(moments_of_one.exists())
        layout.IterationDir(two).checkpoint.mkdir(parents=True)
        moments.discard(start, layout.IterationDir(two))
        self.assertFalse(moments_of_one.exists())

    def test_a_resumed_one_continues_the_history(self):
        first = self.rollout(0.9, 0.6, None)
        with self.assertRaises(KilledError):
            self.improve(first, patience=4)
        second = self.rollout(0.7, 0.8, 0.85)
        made = self.improve(second, patience=4)
        self.assertEqual(
            made["validation"], [[0, 0.5], [1, 0.9], [2, 0.6], [3, 0.7], [4, 0.8], [5, 0.85]]
        )
        self.assertEqual([step for step, _ in made["loss"]], [1, 2, 3, 4, 5])
        self.assertEqual((made["best_step"], made["best_validation"]), (1, 0.9))
        np.testing.assert_array_equal(self.kept(), first.seen[0])
        np.testing.assert_array_equal(second.seen[0], first.seen[2])

    def test_a_resumed_one_may_have_other_micro_batches(self):
        """The remedy for a device without memory, in the middle of an M-step."""
        whole = self.improve(self.rollout(0.6, 0.7, 0.8), epochs=3)
        expected = self.kept()
        self.directory.path.rmtree()
        with self.assertRaises(KilledError):
            self.improve(self.rollout(0.6, None), epochs=3)
        made = self.improve(self.rollout(0.7, 0.8), epochs=3, rows_per_batch=1, remat="none")
        self.assertEqual(made["validation"], whole["validation"])
        np.testing.assert_allclose(np.array(made["loss"]), whole["loss"], rtol=1e-4)
        np.testing.assert_allclose(self.kept(), expected, atol=1e-4)

    def test_nothing_is_written_between_saves(self):
        """The best policy so far is kept in memory: the only policy on disk is the last one."""
        with (
            mock.patch.object(orbax, "save", wraps=orbax.save) as policies,
            mock.patch.object(orbax.TrainingCheckpoints, "save") as states,
        ):
            self.improve(self.rollout(0.6, 0.7, 0.5, 0.8), epochs=4, save_every=0)
        self.assertEqual(policies.call_count, 1)
        self.assertEqual(states.call_count, 0)

    def test_states_are_written_in_the_background(self):
        with mock.patch.object(
            orbax.TrainingCheckpoints, "save", autospec=True,
            side_effect=orbax.TrainingCheckpoints.save,
        ) as states:  # fmt: skip
            self.improve(self.rollout(0.6, 0.7, 0.5, 0.8), epochs=4, save_every=1)
        calls = [call.kwargs for call in states.call_args_list]
        self.assertEqual([call["wait"] for call in calls], [False] * 3)
        # The best policy is saved with the state only where it is another one.
        trees = [call.args[2] for call in states.call_args_list]
        self.assertEqual([sorted(tree) for tree in trees], [["state"]] * 2 + [["best", "state"]])

    def test_a_kill_before_a_save_finds_the_best_of_the_save_before(self):
        save, saves = orbax.TrainingCheckpoints.save, []

        def save_once(this, *args, **kwargs):
            saves.append(args[0])
            if len(saves) == 2:
                raise KilledError
            return save(this, *args, **kwargs)

        first = self.rollout(0.6, 0.8)
        with (
            mock.patch.object(orbax.TrainingCheckpoints, "save", save_once),
            self.assertRaises(KilledError),
        ):
            self.improve(first)
        # On other hardware the same step may be validated a little lower.
        made = self.improve(self.rollout(0.55, 0.5))
        self.assertEqual(made["validation"], [[0, 0.5], [1, 0.6], [2, 0.55], [3, 0.5]])
        self.assertEqual(made["best_step"], 1)
        np.testing.assert_array_equal(self.kept(), first.seen[0])


class HalfPrecisionTest(ImproveTestCase):
    """Training of bfloat16 parameters, whose steps are smaller than their precision."""

    def test_small_steps_are_not_lost(self):
        optimizer = functools.partial(optimizers.adamw, learning_rate=1e-4)
        params = jax.tree.map(lambda p: p.astype("bfloat16"), self.start.params)
        self.start = self.start.replace(params=params)
        self.improve(self.rollout(0.6), optimizer=optimizer, epochs=1, param_dtype=None)
        kept = checkpoints.load(f"orbax:{self.directory.checkpoint}").params["layers"]
        moved = kept["mlp"]["up"] != params["layers"]["mlp"]["up"]
        self.assertBetween(float(moved.mean()), 0.05, 0.95)


class AdapterTest(ImproveTestCase):
    """The M-step of an adapter."""

    FORM = Lora(rank=2)

    def setUp(self):
        super().setUp()
        base = tiny.save_policy(self.directory.path.parent / "base")
        self.start = checkpoints.load(base)

    def improve(self, rollout, **changes):
        return super().improve(rollout, **{"adapter": self.FORM, "save_every": 1, **changes})

    def adapter(self):
        policy = checkpoints.load(f"orbax:{self.directory.checkpoint}")
        self.assertEqual(policy.adapter.base, self.start.reference)
        base, adapter = lora.detach(policy.params)
        jax.tree.map(np.testing.assert_array_equal, base, dict(self.start.params))
        return jax.tree.map(np.asarray, adapter)

    def test_the_adapter_alone_is_kept_and_loads_with_its_base(self):
        self.improve(self.rollout(0.7, 0.6, 0.6))
        one_step = self.adapter()
        self.assertGreater(np.abs(one_step["layers"]["mlp"]["up"]["b"]).max(), 1e-4)
        files = pathlib.Path(self.directory.checkpoint).glob("params/**/d/*")
        size = sum(file.stat().st_size for file in files)
        self.assertLess(size, 4 * self.start.config.num_params / 2)

    def test_killed_and_run_again_it_ends_the_same(self):
        self.improve(self.rollout(0.6, 0.7, 0.8), epochs=3)
        expected = self.adapter()
        self.directory.path.rmtree()
        with self.assertRaises(KilledError):
            self.improve(self.rollout(0.6, 0.7, None), epochs=3)
        self.assertTrue(self.directory.training.exists())
        rollout = self.rollout(0.8)
        self.improve(rollout, epochs=3)
        self.assertLen(rollout.seen, 1)
        jax.tree.map(np.testing.assert_array_equal, self.adapter(), expected)

    def test_a_policy_that_carries_an_adapter_is_trained_further(self):
        self.improve(self.rollout(0.7), epochs=1)
        first = self.adapter()
        policy = checkpoints.load(f"orbax:{self.directory.checkpoint}")
        path = self.directory.path.parent / "iteration_002"
        self.directory = layout.IterationDir(path)
        self.improve(self.rollout(0.8).replace(policy=policy), epochs=1)
        second = self.adapter()
        moved = np.abs(second["layers"]["mlp"]["up"]["a"] - first["layers"]["mlp"]["up"]["a"])
        self.assertBetween(moved.max(), 1e-4, 0.1)
        # Another form begins anew on the merged weights, and full training leaves none.
        self.directory = layout.IterationDir(path.parent / "iteration_003")
        self.improve(self.rollout(0.8).replace(policy=policy), adapter=Lora(rank=1), epochs=1)
        again = checkpoints.load(f"orbax:{self.directory.checkpoint}")
        self.assertEqual(again.adapter.base, policy.reference)
        self.directory = layout.IterationDir(path.parent / "iteration_004")
        self.improve(self.rollout(0.8).replace(policy=policy), adapter=None, epochs=1)
        whole = checkpoints.load(f"orbax:{self.directory.checkpoint}")
        self.assertIsNone(whole.adapter)

    def test_a_form_that_does_not_fit_ends_with_one_line(self):
        with self.assertRaisesRegex(UserError, "improve.adapter: rank=33 exceeds a side of"):
            self.improve(self.rollout(), adapter=Lora(rank=33))


if __name__ == "__main__":
    absltest.main()
