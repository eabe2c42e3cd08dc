"""Choices of the decoder that a config makes and that parameters can express as well."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from restem import models

CONFIG = models.ModelConfig(
    vocab_size=11, num_layers=1, embed_dim=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=12,
    qk_norm=True, post_norms=True,
)  # fmt: skip


def setUpModule():
    # These programs run for milliseconds and compile for seconds: do not optimise them.
    jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
    jax.config.update("jax_disable_most_optimizations", False)


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


if __name__ == "__main__":
    absltest.main()
