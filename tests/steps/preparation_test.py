"""The trainer of an M-step, and the mesh of its validation by the memory that training leaves."""

import dataclasses
from unittest import mock

import jax
from absl.testing import absltest

from restem import models, partitioning
from restem.checkpoints.policy import Policy
from restem.errors import UserError
from restem.models import int8, lora
from restem.models.lora import Lora
from restem.records import TaskCard
from restem.rollout import Rollout
from restem.sampling.memory import own_leaves
from restem.steps import preparation
from restem.steps.settings import ImproveSettings
from restem.training import StepMemory, TokenExample, Trainer, bytes_on_device, optimizers
from restem.training.corpus import InMemory
from tests.helpers import tiny

CARD = TaskCard("letters", grader={"kind": "none"})


def rollout_of(config: models.ModelConfig, **changes) -> Rollout:
    policy = Policy(config, models.param_shapes(config), tiny.vocabulary(), "orbax:/base")
    return Rollout(policy=policy, card=CARD, verifier=None, key=1, **changes)


class TrainerTest(absltest.TestCase):
    def trainer(self, lengths, *, prefix=0, max_length=512, **changes) -> tuple[Trainer, InMemory]:
        data = InMemory([TokenExample([1] * n, [1]) for n in lengths])
        settings = dataclasses.replace(ImproveSettings(), **changes)
        rollout = rollout_of(tiny.config().replace(max_length=max_length))
        return preparation.trainer(rollout, [1] * prefix, data, settings, None), data

    def test_rows_may_exceed_the_length_of_the_model_and_examples_may_not(self):
        lengths = [1347] + [150 + 9 * (i % 100) for i in range(640)]
        made, data = self.trainer(lengths, prefix=700, max_length=2048)
        self.assertGreater(700 + made.row_length, 2048)
        self.assertEqual(made.pack(data, seed=0, epoch=0).too_long, 0)
        with self.assertRaisesRegex(UserError, "example of 1349 tokens"):
            made, data = self.trainer([1349, *lengths], prefix=700, max_length=2048)
            made.pack(data, seed=0, epoch=0)

    def test_the_schedule_ends_with_the_last_step(self):
        lengths = [30] * 9 + [70] * 4
        for row_length, steps in ((None, 8), (64, 6)):
            optimizer = mock.Mock(wraps=optimizers.adamw)
            made, data = self.trainer(
                lengths, batch_examples=4, epochs=2, row_length=row_length, optimizer=optimizer
            )
            optimizer.assert_called_once_with(total_steps=steps)
            self.assertEqual(2 * len(made.pack(data, seed=0, epoch=0)), steps)
        with self.assertRaisesRegex(UserError, "none of the 13 .* fits in row_length=20"):
            made, data = self.trainer(lengths, row_length=20)
            made.pack(data, seed=0, epoch=0)


class MemoryTest(absltest.TestCase):
    def test_frozen_weights_in_another_dtype_are_held_beside_the_policys(self):
        config = tiny.config()
        params = models.param_shapes(config, "bfloat16")
        mesh = {"data": 2, "fsdp": 2, "tensor": 2}
        rounded = lambda adapter: preparation.bytes_rounded(params, adapter, mesh)
        for adapter in (None, Lora(), Lora(base_dtype="bfloat16")):
            self.assertEqual(rounded(adapter), 0)
        self.assertEqual(rounded(Lora(base_dtype="float32")), 4 * config.num_params / 4)
        int8_params = jax.eval_shape(int8.quantize, params)
        own = own_leaves(int8_params, params)  # all but norms
        self.assertEqual(rounded(Lora(base_dtype="int8")), bytes_on_device(own) / 4)
        self.assertAlmostEqual(bytes_on_device(own) / config.num_params, 1, delta=0.2)


class ValidationMeshTest(absltest.TestCase):
    def test_validation_leaves_the_mesh_of_the_sampler_where_memory_is_short(self):
        mesh = partitioning.make_mesh(devices=jax.devices()[:1])
        config = tiny.config()
        rollout = rollout_of(config, validation_mesh=mesh)
        copy = 4 * config.num_params
        for memory, expected in ((4 * copy, mesh), (1.2 * copy, None)):
            room = StepMemory(config=config, memory=int(memory), held=copy, trained=0)
            found = preparation.with_validation_mesh(rollout, room)
            self.assertEqual(found.validation_mesh, expected)
            self.assertEqual(found.reserved, copy)
        self.assertIs(preparation.with_validation_mesh(rollout, None), rollout)

    def test_on_the_mesh_of_training_the_sampled_parameters_are_reserved_once(self):
        config = tiny.config()
        mesh = partitioning.make_mesh(devices=jax.devices()[:1])
        trained = models.param_shapes(config, "bfloat16")
        bytes_of = 2 * config.num_params
        for where, expected in ((None, 5 * bytes_of - bytes_of), (mesh, 5 * bytes_of)):
            rollout = rollout_of(config, validation_mesh=where, reserved=5 * bytes_of)
            found = preparation.validated(rollout, trained)
            self.assertIs(found.policy.params, trained)
            self.assertEqual(found.reserved, expected)
        # Where a device does not tell its memory, nothing is reserved.
        self.assertEqual(preparation.validated(rollout_of(config), trained).reserved, 0)

    def test_an_adapter_is_validated_beside_frozen_weights_that_are_held_once(self):
        """The engine's memory: weights, adapter state and merged copy, but no second weights."""
        config = tiny.config().replace(dtype="bfloat16")
        params = models.param_shapes(config, "bfloat16")
        rollout = Rollout(
            policy=Policy(config, params, tiny.vocabulary(), "orbax:/base"), card=CARD,
            verifier=None, key=1,
        )  # fmt: skip
        settings = ImproveSettings(adapter=Lora(rank=2))
        with mock.patch.object(preparation, "device_memory", return_value=2**30):
            room = preparation.memory_of_steps(rollout, settings, prefix_length=0)
        assert room is not None
        rollout = preparation.with_validation_mesh(rollout, room)
        adapter = lora.shapes(params, Lora(rank=2))
        found = preparation.validated(rollout, lora.attach(params, adapter, Lora(rank=2)))
        # Two moments and the copy of the best one, with a few counts.
        self.assertBetween(found.reserved - 3 * bytes_on_device(adapter), 0, 64)


class ParamDtypeTest(absltest.TestCase):
    def test_that_of_the_policy_unless_the_settings_name_one(self):
        params = models.param_shapes(tiny.config(), "bfloat16")
        for given, expected in ((None, "bfloat16"), ("float32", "float32")):
            settings = ImproveSettings(param_dtype=given)
            found = preparation.with_param_dtype(settings, params)
            self.assertEqual(found.param_dtype, expected)


if __name__ == "__main__":
    absltest.main()
