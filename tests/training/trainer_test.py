"""Packed training equals one example a row, and interrupted training equals uninterrupted."""

import dataclasses
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models, partitioning
from restem.errors import UserError
from restem.models import int8, lora
from restem.models.lora import Lora
from restem.training import DivergenceError, Shape, TokenExample, Trainer, optimizers
from tests.helpers import compilation
from tests.helpers.gradients import gradients

CONFIG = models.ModelConfig(
    vocab_size=61, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24,
    tied_head=True, max_length=64,
)  # fmt: skip
PREFIX = (3, 14, 15, 9, 26, 5)


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


def some_examples(count: int, seed: int = 0) -> list[TokenExample]:
    rng = np.random.default_rng(seed)
    return [
        TokenExample(
            input_ids=rng.integers(1, 61, rng.integers(1, 7)).tolist(),
            target_ids=rng.integers(1, 61, rng.integers(1, 9)).tolist(),
            weight=float(rng.normal()),
        )
        for _ in range(count)
    ]


def some_params(config: models.ModelConfig):
    # By numpy, which has no random number generator to compile. Norm scales and biases are random
    # too, so that their gradients are tested.
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: jnp.asarray(0.25 * rng.normal(size=p.shape), jnp.float32),
        models.param_shapes(config),
    )


def unpacked_loss(params, config, prefix, examples, normalisation):
    """Equation 3 with one example a row and the prefix written out in each; full logits."""
    length = max(len(prefix) + e.length + 1 for e in examples)
    ids = np.zeros((len(examples), length), np.int32)
    mask = np.zeros((len(examples), length - 1), np.float32)
    for i, e in enumerate(examples):
        text = [*prefix, *e.input_ids, *e.target_ids]
        ids[i, : len(text)] = text
        mask[i, len(text) - 1 - len(e.target_ids) : len(text) - 1] = 1
    weights = np.asarray([e.weight for e in examples], np.float32)
    positions = np.broadcast_to(np.arange(length - 1), (len(examples), length - 1))
    hidden = models.forward(params, config, ids[:, :-1], positions).hidden
    log_p = jax.nn.log_softmax(models.logits(params, config, hidden))
    log_p = jnp.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0]
    counts = mask.sum(axis=1)
    sums = (mask * log_p).sum(axis=1)
    if normalisation == "token":
        return -(weights * sums).sum() / (np.abs(weights) * counts).sum()
    if normalisation == "example":
        return -(weights * sums).sum() / np.abs(weights).sum()
    if normalisation == "example_mean":
        return -(weights * sums / counts).sum() / np.abs(weights).sum()
    return -(weights * sums).sum() / len(examples)


def trainer(config=CONFIG, *, row_length=16, rows_per_batch=2, **changes) -> Trainer:
    arguments = dict(
        optimizer=optimizers.adamw(total_steps=12, learning_rate=1e-2),
        prefix_ids=PREFIX,
        shape=Shape(row_length, rows_per_batch),
        batch_examples=11,
        head_chunk=7,
    )
    return Trainer(config, **(arguments | changes))


def assert_trees_close(actual, expected, rtol):
    """Every leaf within `rtol` of the largest entry of the expected leaf."""
    paths = jax.tree_util.tree_flatten_with_path(expected)[0]
    for (path, want), got in zip(paths, jax.tree.leaves(actual), strict=True):
        scale = float(np.abs(want).max())
        assert scale > 0, f"the expected {path} is zero everywhere, so nothing is tested"
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * scale, err_msg=str(path))


class PackedEqualsUnpackedTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("llama_without_prefix", {"remat": "none"}, {"prefix_ids": ()}),
        (
            "mistral_in_one_micro_batch",
            {"window": 5, "local_layers": (True, True), "remat": "dots", "tied_head": False},
            {"rows_per_batch": 16, "normalisation": "none"},
        ),
        (
            "gemma",
            {
                "norm_offset": 1.0, "activation": "gelu_tanh", "scale_embedding": True,
                "window": 5, "local_layers": (True, False), "rope_local_theta": 100.0,
                "attention_softcap": 5.0, "final_softcap": 3.0, "qk_norm": True, "post_norms": True,
            },
            {"normalisation": "example_mean"},
        ),
        ("qwen", {"tied_head": False, "qkv_bias": True, "query_block": 4}, {}),
        (
            "rows_longer_than_the_decoder",
            {"max_length": 20, "window": 5, "local_layers": (True, False)},
            {"row_length": 48},
        ),
        (
            "palm",
            {
                "parallel_layers": True, "num_kv_heads": 1, "norm": "layer",
                "scale_embedding": True,
            },
            {"normalisation": "example"},
        ),
    )  # fmt: skip
    def test_loss_and_every_gradient(self, model_changes, trainer_changes):
        config = CONFIG.replace(**model_changes)
        one = trainer(config, **trainer_changes)
        examples = some_examples(11)
        params = some_params(config)
        batch = one.pack(examples, seed=0, epoch=0)[0]
        grads, metrics = gradients(one, params, batch)
        expected, expected_grads = jax.jit(
            jax.value_and_grad(
                lambda p: unpacked_loss(p, config, one.prefix_ids, examples, one.normalisation)
            )
        )(params)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-5)
        assert_trees_close(grads, expected_grads, rtol=2e-5)

    def test_loss_alone_is_that_of_the_gradient(self):
        one = trainer(prefix_ids=())
        examples = some_examples(11)
        params = some_params(CONFIG)
        batch = one.pack(examples, seed=0, epoch=0)[0]
        metrics = one.loss(params, batch)
        _, with_gradient = gradients(one, params, batch)
        self.assertGreater(batch.num_micro, 1)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, with_gradient[name], rtol=1e-6, err_msg=name)
        self.assertEqual(metrics["target_tokens"], sum(len(e.target_ids) for e in examples))
        self.assertEqual(metrics["examples"], 11)
        np.testing.assert_allclose(
            metrics["weight_sum"], sum(e.weight for e in examples), rtol=1e-5
        )


class ShapeTest(absltest.TestCase):
    def test_rows_that_are_mostly_padding_are_reported(self):
        # 2 rows of 16 positions for 3 tokens.
        few = trainer(batch_examples=1)
        state = few.init(some_params(CONFIG))
        steps = few.fit(state, [TokenExample([1, 2], [3])], epochs=1, seed=0)
        with self.assertLogs(level="WARNING") as logs:
            next(steps)
        self.assertRegex(logs.output[0], "94% of the computed row positions.*improve.row_length")


@functools.cache
def shared_trainer() -> Trainer:
    """One compiled step for all tests of training: any few examples fill one micro-batch."""
    return trainer(rows_per_batch=16, batch_examples=5)


class TrainingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.trainer = shared_trainer()
        self.params = some_params(CONFIG)

    def assert_trees_equal(self, a, b):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)

    def test_resumed_equals_uninterrupted_bit_for_bit(self):
        examples = some_examples(13)
        kept = None
        before = jax.tree.map(np.array, self.params)
        for progress in self.trainer.fit(
            self.trainer.init(self.params), examples, epochs=3, seed=7
        ):
            if progress.step == 4:  # in the middle of the second epoch
                self.assertFalse(progress.is_epoch_end)
                kept = jax.tree.map(np.array, progress.state)
        self.assertEqual(progress.step, 9)
        self.assertTrue(progress.is_epoch_end)
        restored = jax.tree.map(jnp.asarray, kept)
        first, *_, resumed = self.trainer.fit(restored, examples, epochs=3, seed=7)
        self.assertEqual((first.step, resumed.step), (5, 9))
        self.assert_trees_equal(progress.state, resumed.state)
        with self.subTest("the base policy survives"):
            self.assert_trees_equal(before, self.params)
        with self.subTest("compiled once"):
            self.assertEqual(self.trainer._train_step._cache_size(), 1)

    def test_each_epoch_has_an_order_of_its_own(self):
        examples = some_examples(13)
        targets = [
            [(batch.lengths > 0).sum() for batch in self.trainer.pack(examples, seed=7, epoch=e)]
            for e in (0, 1)
        ]
        self.assertNotEqual(targets[0], targets[1])
        updates = self.trainer.fit(self.trainer.init(self.params), examples, epochs=2, seed=7)
        trained = [update.metrics["target_tokens"] for update in updates]
        self.assertEqual(trained, targets[0] + targets[1])

    def test_learns_one_example(self):
        example = dataclasses.replace(some_examples(1)[0], weight=1.0)
        state = self.trainer.init(self.params)
        for progress in self.trainer.fit(state, [example], epochs=40, seed=0):
            # With unit weights the loss is the mean over target tokens.
            np.testing.assert_allclose(
                progress.metrics["loss"], progress.metrics["token_nll"], rtol=1e-5
            )
        self.assertEqual(progress.metrics["token_accuracy"], 1.0)

    def test_negative_weight_unlearns(self):
        example = TokenExample([1, 2], [3, 4], weight=-1.0)
        state = self.trainer.init(self.params)
        first, *_, last = self.trainer.fit(state, [example], epochs=5, seed=0)
        self.assertLess(first.metrics["loss"], 0)
        self.assertGreater(last.metrics["token_nll"], first.metrics["token_nll"])

    def test_zero_weights_change_nothing(self):
        state = self.trainer.init(self.params)
        (only,) = self.trainer.fit(state, [TokenExample([1], [2, 3], 0.0)], epochs=1, seed=0)
        self.assertEqual(only.metrics["loss"], 0.0)
        self.assertTrue(math.isfinite(only.metrics["token_nll"]))
        self.assert_trees_equal(self.params, only.state.params)

    def test_divergence_is_an_error(self):
        state = self.trainer.init(self.params | {"final_norm": jnp.full(16, jnp.inf)})
        with self.assertRaisesRegex(DivergenceError, "diverged at step 1 of 1"):
            list(self.trainer.fit(state, some_examples(2), epochs=1, seed=0))

    def test_a_loss_or_a_gradient_alone_that_is_not_finite_is_a_divergence(self):
        state = self.trainer.init(self.params)
        for loss, norm in ((math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)):
            metrics = {"loss": loss, "grad_norm": norm}
            with (
                mock.patch.object(self.trainer, "train_step", return_value=(state, metrics)),
                self.assertRaisesRegex(DivergenceError, "step 1 of 1"),
            ):
                list(self.trainer.fit(state, some_examples(2), epochs=1, seed=0))

    def test_bfloat16_parameters_with_masters(self):
        optimizer = optimizers.adamw(total_steps=6, learning_rate=1e-3, precision="master")
        one = trainer(optimizer=optimizer, param_dtype="bfloat16", rows_per_batch=16)
        examples = some_examples(10)
        state = one.init(self.params)
        start = jax.tree.map(np.array, state.opt_state.master)
        *_, last = one.fit(state, examples, epochs=6, seed=0)
        master = last.state.opt_state.master
        self.assert_trees_equal(
            jax.tree.map(lambda p: p.astype(jnp.bfloat16), master), last.state.params
        )
        # Five steps of at most 1e-3: less than bfloat16 can show of most parameters.
        moved = max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), master, start)))
        self.assertBetween(moved, 2e-3, 7e-3)

    def test_parameters_keep_their_dtype_on_a_mesh(self):
        one = trainer(param_dtype=None, mesh=partitioning.make_mesh(devices=jax.devices()[:1]))
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), self.params)
        state = one.init(params)
        self.assertEqual({str(p.dtype) for p in jax.tree.leaves(state.params)}, {"bfloat16"})
        self.assertIsInstance(state.opt_state, optimizers.StochasticRoundingState)

    def test_an_example_that_exceeds_the_decoder_is_told(self):
        long = TokenExample([1] * 30, [1] * 29)  # 58 tokens behind a prefix of 6
        one = trainer(row_length=96)
        self.assertLen(one.pack([long], seed=0, epoch=0), 1)
        with self.assertRaisesRegex(UserError, "59 tokens .* exceeds the 64 .* row_length to 58"):
            one.pack([long, TokenExample([1] * 30, [1] * 30)], seed=0, epoch=0)


LARGER = CONFIG.replace(
    num_layers=8, embed_dim=128, mlp_dim=512, head_dim=32, vocab_size=4096, tied_head=False
)


@functools.cache
def memory_of(adapter: Lora | None):
    """Memory analysis of a step that trains an adapter on `LARGER`, or all of it."""
    one = trainer(LARGER, adapter=adapter, row_length=16)
    params = models.param_shapes(LARGER)
    state = jax.eval_shape(one.init, params)
    batch = one.pack(some_examples(11), seed=0, epoch=0)[0]
    frozen = jax.eval_shape(one.frozen, params)
    if adapter is not None:  # as `train_step` passes them on
        frozen = models.as_bits(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), frozen))
    return one._train_step.lower(state, batch, frozen).compile().memory_analysis()


class AdapterTest(parameterized.TestCase):
    """Training of an adapter on frozen weights."""

    FORM = Lora(rank=3, alpha=1.5)

    def begin(self, config=CONFIG, form=FORM, **changes):
        """A trainer, its frozen weights, and an adapter that is not zero."""
        one = trainer(config, adapter=form, **changes)
        frozen = one.frozen(some_params(config))
        rng = np.random.default_rng(1)
        shapes = lora.shapes(models.param_shapes(config), form)
        adapter = jax.tree.map(
            lambda p: jnp.asarray(0.25 * rng.normal(size=p.shape), jnp.float32), shapes
        )
        return one, frozen, adapter

    @parameterized.named_parameters(
        ("float32", None, {}),
        ("bfloat16", "bfloat16", {}),
        ("int8", "int8", {}),
        ("own_head_without_prefix", None, {"tied_head": False, "qkv_bias": True}),
    )
    def test_loss_and_every_gradient(self, base_dtype, model_changes):
        """As if the adapter were a part of unpacked, dense training."""
        config, form = (
            CONFIG.replace(**model_changes),
            dataclasses.replace(self.FORM, base_dtype=base_dtype),
        )
        prefix = () if model_changes else PREFIX
        one, frozen, adapter = self.begin(config, form, prefix_ids=prefix)
        examples = some_examples(11)
        batch = one.pack(examples, seed=0, epoch=0)[0]

        def expected_loss(adapter):
            base = int8.dequantize(frozen) if base_dtype == "int8" else frozen
            params = lora.merge(lora.attach(jax.tree.map(jnp.float32, base), adapter, form))
            return unpacked_loss(params, config, prefix, examples, one.normalisation)

        expected, expected_grads = jax.jit(jax.value_and_grad(expected_loss))(adapter)
        read = frozen
        if base_dtype == "bfloat16":
            read = models.as_bits(frozen)
            up, bits = (tree["layers"]["mlp"]["up"] for tree in (frozen, read))
            self.assertEqual(bits.dtype, jnp.uint16)
            self.assertEqual(bits.unsafe_buffer_pointer(), up.unsafe_buffer_pointer())
        found, metrics = jax.jit(one.value_and_gradients)(adapter, batch, read)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-5)
        assert_trees_close(found, expected_grads, rtol=5e-4)
        if base_dtype is not None:
            alone = one.loss(adapter, batch, frozen)["loss"]
            np.testing.assert_allclose(alone, expected, rtol=2e-5)

    def test_learns_resumes_and_leaves_the_base_alone(self):
        one = trainer(adapter=self.FORM, batch_examples=4)
        params = some_params(CONFIG)
        before = jax.tree.map(np.array, params)
        frozen, examples = one.frozen(params), some_examples(8)

        def run(state, epochs):
            updates = list(one.fit(state, examples, epochs=epochs, seed=3, frozen=frozen))
            return updates[-1].state, [u.metrics["loss"] for u in updates]

        whole, losses = run(one.init(params, seed=5), 6)
        self.assertLess(losses[-1], losses[0])
        half, first = run(one.init(params, seed=5), 3)
        saved = jax.tree.map(np.array, half)
        rest, second = run(jax.tree.map(jnp.asarray, saved), 6)
        self.assertEqual(first + second, losses)
        jax.tree.map(np.testing.assert_array_equal, rest, whole)
        jax.tree.map(np.testing.assert_array_equal, params, before)
        # Training continues the adapter that a policy carries.
        again = one.init(one.policy_params(whole.params, frozen))
        jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
        self.assertEqual(int(again.step), 0)

    @parameterized.parameters(None, "bfloat16", "int8")
    def test_memory(self, base_dtype):
        """No gradient, optimizer state or copy of the base exists, nor of its head."""
        # A copy of the base, its gradient or a moment of the optimizer would be `whole` bytes.
        whole = 4 * LARGER.num_params
        found, full = memory_of(Lora(rank=2, base_dtype=base_dtype)), memory_of(None)
        # Products in float32 read a bfloat16 embedding and head, 0.35 of the model, in float32.
        most = 0.65 if base_dtype == "bfloat16" else 0.5
        self.assertLess(found.temp_size_in_bytes + found.output_size_in_bytes, most * whole)
        self.assertLess(found.argument_size_in_bytes, 1.2 * whole)
        self.assertGreater(full.temp_size_in_bytes + full.output_size_in_bytes, 2 * whole)


if __name__ == "__main__":
    absltest.main()
