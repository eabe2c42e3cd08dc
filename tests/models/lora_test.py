"""Adapters: their function, their gradients and their trees."""

import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from absl.testing import absltest, parameterized

from restem import checkpoints, models
from restem.models import int8, lora
from restem.models.lora import TARGETS, Lora
from tests.helpers import compilation, small_models


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


@functools.cache
def load(name: str) -> checkpoints.Policy:
    with tempfile.TemporaryDirectory() as folder:
        return checkpoints.load(f"hf:{small_models.write_folder(name, pathlib.Path(folder))}")


def random_adapter(policy: checkpoints.Policy, form: Lora, seed: int = 0) -> lora.Adapter:
    """An adapter in which b is as large as a."""
    adapter = lora.init(policy.params, form, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(adapter)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten(
        [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def loss(params, policy: checkpoints.Policy, tokens) -> jax.Array:
    """Mean -log p of every token but the first."""
    tokens = jnp.asarray(tokens)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = models.forward(params, policy.config, tokens, positions).hidden
    log_p = jax.nn.log_softmax(models.logits(params, policy.config, hidden[:, :-1]))
    return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()


def as_matrix(array: jax.Array, inputs: int) -> jax.Array:
    """[layers, *inputs, *outputs] -> [layers, in, out]."""
    size = int(np.prod(array.shape[1 : 1 + inputs]))
    return array.reshape(array.shape[0], size, -1)


class LoraTest(parameterized.TestCase):
    @parameterized.product(
        name=["llama", "qwen2_windows", "gemma2", "gemma3", "qwen3"], stabilised=[False, True]
    )
    def test_applied_equals_merged(self, name, stabilised):
        policy, form = load(name), Lora(rank=4, alpha=2.0, rank_stabilised=stabilised)
        tokens = small_models.tokens(name)
        adapted = lora.attach(policy.params, random_adapter(policy, form), form)
        applied = policy.replace(params=adapted).logits(tokens)
        merged = policy.replace(params=lora.merge(adapted)).logits(tokens)
        self.assertGreater(np.abs(applied - policy.logits(tokens)).max(), 0.1)
        np.testing.assert_allclose(applied, merged, atol=2e-4 * np.abs(merged).max())

    def test_scales(self):
        self.assertEqual(Lora(rank=16, alpha=32.0).scale, 2.0)
        self.assertEqual(Lora(rank=16, alpha=32.0, rank_stabilised=True).scale, 8.0)

    def test_merged_is_the_definition(self):
        policy, form = load("llama"), Lora(rank=2, alpha=6.0)
        adapter = random_adapter(policy, form)
        merged = lora.merge(lora.attach(policy.params, adapter, form))
        for block, name, inputs in (("mlp", "down", 1), ("attention", "out", 2)):
            w = as_matrix(policy.params["layers"][block][name], inputs)
            pair = adapter["layers"][block][name]
            a, b = as_matrix(pair["a"], inputs), as_matrix(pair["b"], 1)
            for layer in range(w.shape[0]):
                np.testing.assert_allclose(
                    as_matrix(merged["layers"][block][name], inputs)[layer],
                    np.asarray(w[layer]) + 3.0 * np.asarray(a[layer]) @ np.asarray(b[layer]),
                    atol=1e-5,
                )

    def test_applied_to_int8_equals_the_sum_of_what_int8_stands_for(self):
        policy, form = load("llama"), Lora(rank=4)
        adapter = random_adapter(policy, form)
        rounded = int8.quantize(policy.params)
        tokens = small_models.tokens("llama")
        applied = lora.attach(rounded, adapter, form)
        summed = lora.merge(lora.attach(int8.dequantize(rounded), adapter, form))
        found = policy.replace(params=applied).logits(tokens)
        expected = policy.replace(params=summed).logits(tokens)
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
        kept = lora.merge(applied)
        self.assertTrue(lora.is_adapted(kept))
        self.assertEqual(kept["layers"]["mlp"]["up"].base.values.dtype, jnp.int8)
        flat = models.flatten_heads(applied)
        self.assertEqual(flat["layers"]["attention"]["query"].base.matrix.scale.ndim, 2)
        np.testing.assert_allclose(
            policy.replace(params=flat).logits(tokens), found, atol=3e-5 * np.abs(found).max()
        )

    def test_a_new_adapter_changes_nothing(self):
        policy, form = load("gemma3"), Lora(rank=8)
        adapter = lora.init(policy.params, form, jax.random.key(0))
        self.assertEqual(jax.tree.structure(adapter), jax.tree.structure(shapes(policy, form)))
        for leaf, shape in zip(
            jax.tree.leaves(adapter), jax.tree.leaves(shapes(policy, form)), strict=True
        ):
            self.assertEqual((leaf.shape, leaf.dtype), (shape.shape, jnp.float32))
        tokens = small_models.tokens("gemma3")
        adapted = lora.attach(policy.params, adapter, form)
        np.testing.assert_array_equal(
            policy.replace(params=adapted).logits(tokens), policy.logits(tokens)
        )
        up = adapter["layers"]["mlp"]["up"]["a"]
        bound = policy.config.embed_dim**-0.5
        self.assertLess(np.abs(up).max(), bound)
        self.assertGreater(np.abs(up).max(), 0.9 * bound)
        self.assertAlmostEqual(float(up.std()), bound / 3**0.5, delta=0.05 * bound)

    def test_gradient_is_the_dense_one_projected(self):
        """dL/da = s dL/dw b^T and dL/db = s a^T dL/dw, with dL/dw taken at the merged weights."""
        policy, form = load("qwen2"), Lora(rank=3, alpha=1.5)
        tokens = small_models.tokens("qwen2")
        adapter = random_adapter(policy, form)
        merged = lora.merge(lora.attach(policy.params, adapter, form))
        dense = jax.grad(loss)(merged, policy, tokens)
        found = jax.grad(
            lambda adapter: loss(lora.attach(policy.params, adapter, form), policy, tokens)
        )(adapter)
        for block, name in (("attention", t) for t in TARGETS[:4]):
            self.check_projection(form, dense, adapter, found, block, name)
        for name in TARGETS[4:]:
            self.check_projection(form, dense, adapter, found, "mlp", name)

    def check_projection(self, form, dense, adapter, found, block, name):
        inputs = 2 if name == "out" else 1
        dw = as_matrix(dense["layers"][block][name], inputs)
        pair, gradient = adapter["layers"][block][name], found["layers"][block][name]
        a, b = as_matrix(pair["a"], inputs), as_matrix(pair["b"], 1)
        for got, expected in (
            (as_matrix(gradient["a"], inputs), form.scale * dw @ b.swapaxes(1, 2)),
            (as_matrix(gradient["b"], 1), form.scale * a.swapaxes(1, 2) @ dw),
        ):
            np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())

    def test_full_rank_takes_the_first_step_of_full_training(self):
        """With a = 1 and s = 1 the step of b is that of the matrix: w + a b = w - rate dL/dw."""
        policy = load("llama")
        side = policy.config.embed_dim
        form = Lora(rank=side, alpha=float(side), targets=("up", "gate"))
        tokens = small_models.tokens("llama")
        adapter = lora.init(policy.params, form, jax.random.key(0))
        for pair in adapter["layers"]["mlp"].values():
            pair["a"] = jnp.broadcast_to(jnp.eye(side), pair["a"].shape)
        gradient = jax.grad(
            lambda adapter: loss(lora.attach(policy.params, adapter, form), policy, tokens)
        )(adapter)
        dense = jax.grad(loss)(policy.params, policy, tokens)
        stepped = jax.tree.map(lambda x, g: x - 0.1 * g, adapter, gradient)
        # b is zero, and so is the gradient of a.
        merged = lora.merge(lora.attach(policy.params, stepped, form))
        for name in form.targets:
            w, dw = policy.params["layers"]["mlp"][name], dense["layers"]["mlp"][name]
            np.testing.assert_allclose(
                merged["layers"]["mlp"][name], w - 0.1 * dw, atol=1e-5 * np.abs(w).max()
            )

    def test_detach_undoes_attach(self):
        policy, form = load("llama"), Lora(rank=2, targets=["query", "down"])
        adapter = random_adapter(policy, form)
        adapted = lora.attach(policy.params, adapter, form)
        self.assertTrue(lora.is_adapted(adapted))
        base, again = lora.detach(adapted)
        self.assertFalse(lora.is_adapted(base))
        self.assertEqual(jax.tree.structure(base), jax.tree.structure(dict(policy.params)))
        jax.tree.map(np.testing.assert_array_equal, base, dict(policy.params))
        jax.tree.map(np.testing.assert_array_equal, again, adapter)
        self.assertEqual(lora.detach(policy.params)[1], {})

    def test_axes_are_those_of_the_matrix(self):
        policy, form = load("llama"), Lora(targets=("query", "out", "up"))
        axes = lora.axes(models.param_axes(policy.config), form)
        self.assertEqual(
            axes["layers"]["attention"]["query"],
            {"a": ("layers", "embed", None), "b": ("layers", None, "heads", "head")},
        )
        self.assertEqual(
            axes["layers"]["attention"]["out"],
            {"a": ("layers", "heads", "head", None), "b": ("layers", None, "embed")},
        )
        self.assertEqual(
            axes["layers"]["mlp"],
            {"up": {"a": ("layers", "embed", None), "b": ("layers", None, "mlp")}},
        )

    @parameterized.parameters(
        ({"rank": 0}, "rank=0 is not positive"),
        ({"alpha": 0.0}, "alpha=0.0 is not positive"),
        ({"targets": ("q_proj",)}, "are not among query, key, value, out, gate, up, down"),
        ({"targets": ()}, "are not among"),
    )
    def test_bad_forms(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            Lora(**changes)

    def test_an_unknown_dtype(self):
        # Tests check annotations, and so refuse the value before the adapter does.
        with self.assertRaisesRegex((ValueError, jaxtyping.TypeCheckError), "int4"):
            Lora(base_dtype="int4")

    def test_forms_that_do_not_fit_the_decoder(self):
        policy = load("llama")
        with self.assertRaisesRegex(ValueError, "rank=33 exceeds a side of layers/attention/"):
            lora.init(policy.params, Lora(rank=33), jax.random.key(0))
        config = policy.config.replace(gated_mlp=False)
        with self.assertRaisesRegex(ValueError, "has no matrix named gate to adapt"):
            lora.shapes(models.param_shapes(config), Lora())


def shapes(policy: checkpoints.Policy, form: Lora) -> lora.Adapter:
    return lora.shapes(models.param_shapes(policy.config), form)


if __name__ == "__main__":
    absltest.main()
