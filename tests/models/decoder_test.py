"""Choices of the decoder that a config makes and that parameters can express as well."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from restem import models

CONFIG = models.ModelConfig(
    vocab_size=11, num_layers=2, embed_dim=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=12,
    qk_norm=True, post_norms=True,
)  # fmt: skip
TOKENS = jnp.asarray([[3, 1, 4, 1, 5]])


def hidden(config, params):
    forward = jax.jit(models.forward, static_argnums=1)
    return forward(params, config, TOKENS, jnp.arange(5)[None]).hidden


class NormTest(absltest.TestCase):
    def test_the_offset_is_added_to_the_scale(self):
        rng = np.random.default_rng(0)

        def scales(path, leaf):
            is_norm = path[-1].key.endswith("norm")
            return jnp.asarray(rng.normal(size=leaf.shape) + 1, jnp.float32) if is_norm else leaf

        def lowered(path, leaf):
            return leaf - 1 if path[-1].key.endswith("norm") else leaf

        params = models.init_params(CONFIG, jax.random.key(0))
        params = jax.tree_util.tree_map_with_path(scales, params)
        gemma = CONFIG.replace(norm_offset=1.0)
        found = hidden(gemma, jax.tree_util.tree_map_with_path(lowered, params))
        np.testing.assert_allclose(found, hidden(CONFIG, params), rtol=2e-5, atol=1e-5)

    def test_a_new_norm_changes_nothing_but_the_size(self):
        for offset in (0.0, 1.0):
            config = CONFIG.replace(norm_offset=offset)
            found = hidden(config, models.init_params(config, jax.random.key(0)))
            np.testing.assert_allclose(jnp.square(found).mean(axis=-1), 1.0, rtol=1e-3)


if __name__ == "__main__":
    absltest.main()
