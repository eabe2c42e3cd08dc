"""Choices of the decoder that a config makes and that parameters can express as well."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models
from restem.models import sharding
from tests.helpers import compilation

CONFIG = models.ModelConfig(
    vocab_size=11, num_layers=1, embed_dim=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=12,
    qk_norm=True, post_norms=True,
)  # fmt: skip


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


class NormTest(absltest.TestCase):
    def test_the_offset_is_added_to_the_scale(self):
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
            models.param_shapes(CONFIG),
        )
        lowered = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf - 1 if path[-1].key.endswith("norm") else leaf, params
        )
        tokens = jnp.asarray([[3, 1, 4, 1, 5]])
        forward = jax.jit(models.forward, static_argnums=1)
        expected, found = (
            forward(tree, config, tokens, jnp.arange(5)[None]).hidden
            for tree, config in ((params, CONFIG), (lowered, CONFIG.replace(norm_offset=1.0)))
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class ProductTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_on_a_cpu_bfloat16_is_summed_in_float32_and_so_are_its_gradients(self, tied):
        config = CONFIG.replace(dtype="bfloat16", tied_head=tied, embed_dim=64, mlp_dim=96)
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: (0.2 * rng.normal(size=leaf.shape)).astype(np.float32),
            models.param_shapes(config),
        )
        tokens = jnp.asarray([[3, 1, 4, 1, 5]])

        def loss(params, config):
            hidden = models.forward(params, config, tokens, jnp.arange(5)[None]).hidden
            logits = models.logits(params, config, hidden)
            return jax.nn.logsumexp(logits, axis=-1).mean() - logits[0, :, 7].mean()

        of = jax.jit(jax.value_and_grad(loss), static_argnums=1)
        expected, wanted = of(params, config.replace(dtype="float32"))
        with mock.patch.object(sharding, "on_one_cpu", lambda: False):
            _, plain = of(params, config.replace(query_block=8))  # for its own trace
        value, grads = of(params, config)
        np.testing.assert_allclose(value, expected, rtol=1e-2)
        error = lambda tree: sum(
            float(jnp.square(a - b).sum())
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True)
        )
        norm = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(wanted))
        self.assertBetween(error(grads), 1e-9 * norm, 2e-4 * norm)
        self.assertLess(error(grads), 1.5 * error(plain))

    def test_what_the_backward_pass_may_keep_is_kept(self):
        """With remat="dots", as many products are made once instead of twice as in float32."""
        params = models.init_params(CONFIG, jax.random.key(0))
        tokens = jnp.zeros((1, 5), jnp.int32)

        def spared(dtype):
            def loss(params, remat):
                config = CONFIG.replace(dtype=dtype, remat=remat)
                out = models.forward(params, config, tokens, tokens)
                return out.hidden.astype(jnp.float32).sum()

            counts = (
                str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, remat)).count(
                    "dot_general"
                )
                for remat in ("full", "dots")
            )
            return int(np.subtract(*counts))

        self.assertGreaterEqual(spared("bfloat16"), 7)  # query, key, value, out, gate, up, down
        self.assertEqual(spared("bfloat16"), spared("float32"))


if __name__ == "__main__":
    absltest.main()
