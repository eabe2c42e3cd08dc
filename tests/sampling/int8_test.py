"""Sampling from int8 weights is sampling from the policy that they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models, partitioning
from restem.models import int8, lora
from restem.models.lora import Lora
from restem.sampling import steps
from tests.helpers import compilation
from tests.sampling import engine_test
from tests.sampling.engine_test import CONFIG, LOCAL, params_of

CONFIGS = {
    "llama": CONFIG,
    "tied": CONFIG.replace(tied_head=True, scale_embedding=True),
    "windows": LOCAL.replace(final_softcap=4.0, post_norms=True),
    "palm": CONFIG.replace(parallel_layers=True, norm="layer", num_kv_heads=1, gated_mlp=False),
    "biases": CONFIG.replace(qkv_bias=True),
}


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


@functools.partial(jax.jit, static_argnums=1)
def logits(params, config, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return models.logits(params, config, models.forward(params, config, tokens, positions).hidden)


class Int8Test(parameterized.TestCase):
    def params(self, config):
        return jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))

    @parameterized.parameters(*CONFIGS)
    def test_logits_are_those_of_the_weights_it_stands_for(self, name):
        config = CONFIGS[name]
        tokens = jnp.asarray(np.random.default_rng(0).integers(0, 61, (2, 9)), jnp.int32)
        exact = self.params(config)
        rounded = int8.quantize(exact)
        with self.subTest("every matrix is rounded"):
            kept = jax.tree_util.tree_leaves_with_path(
                rounded, is_leaf=lambda x: isinstance(x, int8.Int8)
            )
            for path, leaf in kept:
                if not isinstance(leaf, int8.Int8):
                    self.assertRegex(jax.tree_util.keystr(path), r"(norm|bias)'\]$")
        of_int8 = logits(rounded, config, tokens)
        of_floats = logits(int8.dequantize(rounded), config, tokens)
        scale = float(jnp.abs(of_floats).max())
        np.testing.assert_allclose(of_int8, of_floats, atol=1e-5 * scale)
        with self.subTest("it is not the exact policy, but near it"):
            error = float(jnp.abs(logits(exact, config, tokens) - of_int8).max())
            self.assertBetween(error / scale, 1e-5, 0.1)
        with self.subTest("layers one by one"):
            np.testing.assert_allclose(
                logits(models.unstack_layers(rounded), config, tokens), of_int8, atol=1e-5 * scale
            )
        with self.subTest("projections as on a TPU"):
            flat = models.flatten_heads(rounded)
            np.testing.assert_allclose(logits(flat, config, tokens), of_int8, atol=1e-5 * scale)

    def test_no_weight_is_off_by_more_than_half_a_step(self):
        exact = self.params(CONFIG)
        rounded = int8.quantize(exact)
        gate = rounded["layers"]["mlp"]["gate"]
        self.assertEqual(gate.values.dtype, jnp.int8)
        self.assertEqual(gate.scale.shape, (CONFIG.num_layers, CONFIG.mlp_dim))
        off = jnp.abs(
            int8.dequantize(rounded)["layers"]["mlp"]["gate"] - exact["layers"]["mlp"]["gate"]
        )
        self.assertTrue(bool((off <= 0.5001 * gate.scale[:, None]).all()))

    def test_a_channel_of_zeros_stays_zero(self):
        exact = self.params(CONFIG)
        head = exact["head"].at[:, 3].set(0.0)
        rounded = int8.quantize({**exact, "head": head})
        np.testing.assert_array_equal(int8.dequantize(rounded)["head"][:, 3], 0.0)

    @parameterized.parameters(False, True)
    def test_greedy_samples(self, unstacked):
        params = params_of(CONFIG)
        rounded = int8.dequantize(int8.quantize(params))
        requests = engine_test.requests_of(0, 5, 2)
        prefix = engine_test.prefix_of(6)

        def sampled(config, params):
            engine = engine_test.engine_of(config, slots=4, unstacked=unstacked)
            found = engine.sample(params, prefix, requests, key=0)
            return {(c.request_index, c.sample_index): c.token_ids for c in found}

        self.assertEqual(
            sampled(CONFIG.replace(int8_weights=True), params), sampled(CONFIG, rounded)
        )

    def test_rounded_once_or_at_every_step_is_the_same(self):
        config = CONFIG.replace(dtype="bfloat16", qkv_bias=True)
        params = self.params(config)
        tokens = jnp.asarray(np.random.default_rng(0).integers(0, 61, (2, 9)), jnp.int32)
        prepared = steps.prepare_params(params, config)
        np.testing.assert_array_equal(
            logits(prepared, config, tokens), logits(params, config, tokens)
        )
        self.assertEqual(prepared["layers"]["mlp"]["up"].dtype, jnp.bfloat16)
        self.assertEqual(prepared["final_norm"].dtype, jnp.float32)
        with self.subTest("nothing to round, nothing copied"):
            self.assertIs(steps.prepare_params(params, CONFIG)["head"], params["head"])
        form = Lora(rank=2, targets=("up",))
        adapter = lora.init(models.param_shapes(CONFIG), form, jax.random.key(0))
        with self.subTest("only matrices that an adapter changes are copied"):
            prepared = steps.prepare_params(lora.attach(params, adapter, form), CONFIG)
            self.assertIs(prepared["head"], params["head"])
            self.assertIsInstance(prepared["layers"]["mlp"]["up"], jax.Array)
        with self.subTest("an int8 base is read as it is"):
            base = int8.quantize(params)
            prepared = steps.prepare_params(lora.attach(base, adapter, form), CONFIG)
            up = prepared["layers"]["mlp"]["up"]
            self.assertIs(up.base.values, base["layers"]["mlp"]["up"].values)
            self.assertIs(prepared["head"].values, base["head"].values)

    def test_axes_lay_every_leaf_on_the_mesh(self):
        axes = int8.axes(models.param_axes(CONFIG))
        shapes = jax.eval_shape(int8.quantize, models.param_shapes(CONFIG))
        is_axes = lambda leaf: isinstance(leaf, tuple)
        jax.tree.map(lambda a, s: self.assertLen(a, s.ndim), axes, shapes, is_leaf=is_axes)
        self.assertEqual(axes["layers"]["attention"]["out"].scale, ("layers", "embed"))
        mesh = partitioning.make_mesh()
        for names, leaf in zip(
            jax.tree.leaves(axes, is_leaf=is_axes), jax.tree.leaves(shapes), strict=True
        ):
            partitioning.sharding(mesh, names, leaf.shape)


if __name__ == "__main__":
    absltest.main()
