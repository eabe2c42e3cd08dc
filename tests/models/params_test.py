"""Forms of the parameters for one CPU change nothing that is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models
from restem.models import int8
from restem.models.dense import Transposed
from tests.sampling.int8_test import CONFIGS


@functools.partial(jax.jit, static_argnums=1)
def logits(params, config):
    tokens = jnp.asarray([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    hidden = models.forward(params, config, tokens, jnp.tile(jnp.arange(5), (2, 1))).hidden
    return models.logits(params, config, hidden)


def matrices(layer):
    is_matrix = lambda leaf: isinstance(leaf, (Transposed, int8.Int8)) or leaf.ndim > 1
    found = {**layer["attention"], **layer["mlp"]}
    return {n: w for n, w in found.items() if not n.endswith("bias") and is_matrix(w)}


class LayersForOneCpuTest(parameterized.TestCase):
    @parameterized.product(name=("llama", "palm", "biases"), dtype=("float32", "bfloat16"))
    def test_logits_stay_what_they_are(self, name, dtype):
        config = CONFIGS[name].replace(dtype=dtype)
        params = jax.tree.map(
            lambda p: p.astype(dtype), models.init_params(config, jax.random.key(0))
        )
        form = models.layers_for_one_cpu(params)
        self.assertLen(form["layers"], config.num_layers)
        names = {"query", "key", "value", "out", "down", "gate_up" if config.gated_mlp else "up"}
        found = matrices(form["layers"][1])
        self.assertEqual(set(found), names)
        for w in found.values():
            self.assertEqual(isinstance(w, Transposed), dtype == "bfloat16")
        if dtype == "bfloat16":
            heads = config.num_heads * config.head_dim
            self.assertEqual(found["query"].shape, (heads, config.embed_dim))
            self.assertEqual(found["out"].shape, (config.embed_dim, heads))
            self.assertEqual(found["down"].shape, (config.embed_dim, config.mlp_dim))
        np.testing.assert_array_equal(
            logits(form, config), logits(models.unstack_layers(params), config)
        )

    def test_int8_is_left_as_it_is(self):
        config = CONFIGS["llama"].replace(dtype="bfloat16")
        rounded = int8.quantize(models.init_params(config, jax.random.key(0)))
        form = models.layers_for_one_cpu(rounded)
        for w in matrices(form["layers"][0]).values():
            self.assertIsInstance(w, int8.Int8)
        np.testing.assert_array_equal(
            logits(form, config), logits(models.unstack_layers(rounded), config)
        )


if __name__ == "__main__":
    absltest.main()
