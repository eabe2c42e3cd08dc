"""Packed training equals one example a row, and interrupted training equals uninterrupted."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models
from restem.errors import UserError
from restem.training import DivergenceError, TokenExample, Trainer, optimizers

CONFIG = models.ModelConfig(
    vocab_size=61, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24,
    tied_head=True, max_length=64,
)  # fmt: skip
PREFIX = (3, 14, 15, 9, 26, 5)


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
    params = models.init_params(config, jax.random.key(0))
    # Norm scales and biases start at constants: move them, so that their gradients are tested.
    keys = iter(jax.random.split(jax.random.key(1), 64))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)


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


def trainer(config=CONFIG, **changes) -> Trainer:
    arguments = dict(
        optimizer=optimizers.adamw(total_steps=12, learning_rate=1e-2),
        prefix_ids=PREFIX,
        row_length=16,
        rows_per_batch=2,
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
        ("tied", {}, {}),
        ("without_prefix", {}, {"prefix_ids": ()}),
        ("without_remat", {"remat": "none"}, {"normalisation": "example"}),
        ("one_micro_batch", {"remat": "dots"}, {"rows_per_batch": 16, "normalisation": "none"}),
        (
            "sliding_window",
            {"window": 5, "local_layers": (True, False), "rope_local_theta": 100.0},
            {"normalisation": "example_mean"},
        ),
        (
            "gemma",
            {
                "norm_offset": 1.0, "activation": "gelu_tanh", "scale_embedding": True,
                "window": 3, "local_layers": (True, False), "attention_softcap": 5.0,
                "final_softcap": 3.0, "qk_norm": True, "post_norms": True,
            },
            {},
        ),
        ("untied_with_biases", {"tied_head": False, "qkv_bias": True}, {"normalisation": "none"}),
        (
            "parallel_multi_query",
            {"parallel_layers": True, "num_kv_heads": 1, "norm": "layer", "gated_mlp": False},
            {},
        ),
    )  # fmt: skip
    def test_loss_and_every_gradient(self, model_changes, trainer_changes):
        config = CONFIG.replace(**model_changes)
        one = trainer(config, **trainer_changes)
        examples = some_examples(11)
        params = some_params(config)
        batch = one.pack(examples, seed=0, epoch=0)[0]
        grads, metrics = one.gradients(params, batch)
        expected, expected_grads = jax.jit(
            jax.value_and_grad(
                lambda p: unpacked_loss(p, config, one.prefix_ids, examples, one.normalisation)
            )
        )(params)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-5)
        assert_trees_close(grads, expected_grads, rtol=2e-5)

    def test_loss_alone_and_metrics(self):
        one = trainer()
        examples = some_examples(11)
        params = some_params(CONFIG)
        batch = one.pack(examples, seed=0, epoch=0)[0]
        metrics = one.loss(params, batch)
        _, with_gradient = one.gradients(params, batch)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, with_gradient[name], rtol=1e-6, err_msg=name)
        self.assertEqual(metrics["target_tokens"], sum(len(e.target_ids) for e in examples))
        self.assertEqual(metrics["examples"], 11)
        np.testing.assert_allclose(
            metrics["weight_sum"], sum(e.weight for e in examples), rtol=1e-5
        )
        # Unit weights and one example: the loss is the mean NLL a token, and a model that has
        # learnt the example predicts every token of it.
        single = [dataclasses.replace(examples[0], weight=1.0)]
        state = one.init(params)
        for progress in one.fit(state, single, epochs=40, seed=0):
            metrics = progress.metrics
            np.testing.assert_allclose(metrics["loss"], metrics["token_nll"], rtol=1e-5)
        self.assertEqual(metrics["token_accuracy"], 1.0)


class TrainingTest(absltest.TestCase):
    def test_resumed_equals_uninterrupted_bit_for_bit(self):
        one = trainer(batch_examples=5)
        examples = some_examples(13)
        params = some_params(CONFIG)
        kept = None
        for progress in one.fit(one.init(params), examples, epochs=3, seed=7):
            if progress.step == 4:  # in the middle of the second epoch
                self.assertFalse(progress.is_epoch_end)
                kept = jax.tree.map(np.array, progress.state)
        self.assertEqual(progress.step, 9)
        self.assertTrue(progress.is_epoch_end)
        again = trainer(batch_examples=5)
        restored = jax.tree.map(jnp.asarray, kept)
        first, *_, resumed = again.fit(restored, examples, epochs=3, seed=7)
        self.assertEqual((first.step, resumed.step), (5, 9))
        for a, b in zip(
            jax.tree.leaves(progress.state), jax.tree.leaves(resumed.state), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    def test_base_parameters_survive(self):
        one = trainer()
        params = some_params(CONFIG)
        before = jax.tree.map(np.array, params)
        for _ in one.fit(one.init(params), some_examples(5), epochs=2, seed=0):
            pass
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_micro_batch_size_changes_only_rounding(self):
        examples = some_examples(12)
        params = some_params(CONFIG)
        ends = []
        for rows in (1, 3):
            one = trainer(rows_per_batch=rows, batch_examples=6)
            *_, last = one.fit(one.init(params), examples, epochs=1, seed=0)
            ends.append(last.state.params)
        for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)

    def test_step_is_compiled_once(self):
        one = trainer(batch_examples=4)
        for _ in one.fit(one.init(some_params(CONFIG)), some_examples(14), epochs=2, seed=0):
            pass
        self.assertEqual(one._train_step._cache_size(), 1)

    def test_divergence_is_an_error(self):
        examples = [TokenExample([1], [2], weight=3e38), TokenExample([1], [3], weight=3e38)]
        one = trainer(normalisation="none")
        with self.assertRaisesRegex(DivergenceError, "diverged at step 1 of 1"):
            list(one.fit(one.init(some_params(CONFIG)), examples, epochs=1, seed=0))

    def test_negative_weight_unlearns(self):
        one = trainer()
        params = some_params(CONFIG)
        example = TokenExample([1, 2], [3, 4], weight=-1.0)
        first, *_, last = one.fit(one.init(params), [example], epochs=5, seed=0)
        self.assertLess(first.metrics["loss"], 0)
        self.assertGreater(last.metrics["token_nll"], first.metrics["token_nll"])

    def test_zero_weights_change_nothing(self):
        one = trainer()
        params = some_params(CONFIG)
        (only,) = one.fit(one.init(params), [TokenExample([1], [2, 3], 0.0)], epochs=1, seed=0)
        self.assertEqual(only.metrics["loss"], 0.0)
        self.assertTrue(math.isfinite(only.metrics["token_nll"]))
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(only.state.params), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_bfloat16_parameters_with_masters_follow_float32(self):
        examples = some_examples(10)
        params = jax.tree.map(
            lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), some_params(CONFIG)
        )
        ends = {}
        for dtype, precision in (("float32", "params"), ("bfloat16", "master")):
            optimizer = optimizers.adamw(total_steps=6, learning_rate=1e-3, precision=precision)
            one = trainer(optimizer=optimizer, param_dtype=dtype)
            *_, last = one.fit(one.init(params), examples, epochs=6, seed=0)
            ends[dtype] = last.state
        master = ends["bfloat16"].opt_state.master
        rounded = jax.tree.map(lambda p: p.astype(jnp.bfloat16), master)
        moved = 0.0
        for p, m, wide, start in zip(
            *map(
                jax.tree.leaves,
                (ends["bfloat16"].params, rounded, ends["float32"].params, params),
            ),
            strict=True,
        ):
            self.assertEqual(p.dtype, jnp.bfloat16)
            np.testing.assert_array_equal(p, m)
            moved = max(moved, float(jnp.abs(wide - start).max()))
            np.testing.assert_allclose(p.astype(jnp.float32), wide, atol=0.02)
        self.assertGreater(moved, 3e-3)

    def test_bad_shapes_are_told(self):
        with self.assertRaisesRegex(UserError, "lower row_length"):
            trainer(row_length=64)


if __name__ == "__main__":
    absltest.main()
