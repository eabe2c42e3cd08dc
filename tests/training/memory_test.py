"""What is counted of a training step's memory, and how queries are cut so that scores fit."""

import dataclasses
import math
from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from restem import models
from restem.models import ModelConfig, lora, rotary, sharding
from restem.models.lora import Lora
from restem.models.query_blocks import MOST_SCORES
from restem.training.memory import StepMemory, bytes_on_device, bytes_saved

LARGE = ModelConfig(
    vocab_size=32000, num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, head_dim=128,
    mlp_dim=14336, dtype="bfloat16",
)  # fmt: skip
GIB = 2**30


class StepMemoryTest(parameterized.TestCase):
    ROOM = StepMemory(config=LARGE, memory=95 * GIB, held=20 * GIB, trained=2 * GIB)

    def test_more_memory_takes_more_positions_and_recomputation_saves_some(self):
        tokens = self.ROOM.tokens("full")
        self.assertGreater(tokens, 4096)
        self.assertLess(self.ROOM.tokens("dots"), tokens / 2)
        more = dataclasses.replace(self.ROOM, held=40 * GIB)
        self.assertLess(more.tokens("full"), tokens)
        self.assertGreater(
            dataclasses.replace(self.ROOM, mesh={"tensor": 4}).tokens("full"), tokens
        )

    def test_each_layer_saves_its_input(self):
        deeper = dataclasses.replace(self.ROOM, config=LARGE.replace(num_layers=64))
        per_position = lambda room: 1 / (room.tokens("full") / (0.85 * 95 - 20 - 4 - 1.7) / GIB)
        added = per_position(deeper) - per_position(self.ROOM)
        self.assertAlmostEqual(added / (32 * 4096 * 2), 1, delta=0.1)

    def test_what_layers_save_of_a_position(self):
        # In embeddings: the input; 1.5 of queries, keys and values, 7 of gate and up, 2 of outputs,
        # and 1 of attention, with a number for each head.
        self.assertEqual(bytes_saved(LARGE, "full"), 32 * 4096 * 2)
        self.assertEqual(bytes_saved(LARGE, "dots"), 32 * (12.5 * 4096 + 64) * 2)

    def test_an_adapted_matrix_has_two_products(self):
        low = 32 * 2 * 16  # of each matrix, x a
        saved = lambda *targets: bytes_saved(LARGE, "dots", adapter=Lora(rank=16, targets=targets))
        whole = bytes_saved(LARGE, "dots")
        self.assertEqual(saved("query") - whole, 32 * 4096 * 2 + low)
        self.assertEqual(saved("key", "gate") - whole, 32 * (1024 + 14336) * 2 + 2 * low)
        for remat, some in (("full", 0), ("none", 7 * low)):
            adapted = bytes_saved(LARGE, remat, adapter=Lora(rank=16))
            self.assertEqual(adapted - bytes_saved(LARGE, remat), some)
        room = dataclasses.replace(self.ROOM, adapter=Lora())
        self.assertLess(room.tokens("dots"), 0.7 * self.ROOM.tokens("dots"))
        self.assertEqual(room.tokens("full"), self.ROOM.tokens("full"))

    def test_without_recomputation_far_fewer_positions_fit(self):
        few = self.ROOM.tokens("none")
        self.assertBetween(few, 1, self.ROOM.tokens("dots") / 2)
        # 32 layers keep 256 MiB of attention weights in float32 and once more in bfloat16.
        capped = dataclasses.replace(self.ROOM, config=LARGE.replace(attention_softcap=50.0))
        fixed = [room._fixed("none") - room._fixed("full") for room in (self.ROOM, capped)]
        self.assertEqual(fixed, [32 * 1.5 * 2**28, 32 * 3.5 * 2**28])

    def test_nothing_fits_beside_a_state_that_fills_the_memory(self):
        self.assertEqual(dataclasses.replace(self.ROOM, held=90 * GIB).tokens("full"), 0)

    def test_bytes_of_arrays_and_shapes(self):
        tree = {"a": jnp.zeros((3, 4)), "b": jax.ShapeDtypeStruct((5,), jnp.bfloat16)}
        self.assertEqual(bytes_on_device(tree), 3 * 4 * 4 + 5 * 2)


SMALL = ModelConfig(
    vocab_size=64, num_layers=3, embed_dim=96, num_heads=4, num_kv_heads=2, head_dim=20,
    mlp_dim=176, max_length=512, dtype="bfloat16", query_block=16,
)  # fmt: skip


def saved_by_layers(config: ModelConfig, length: int, adapter: Lora | None) -> int:
    """Returns the bytes that JAX keeps of the layers for the backward pass of one row."""
    frozen: models.Params = models.param_shapes(config)
    trained = frozen if adapter is None else lora.shapes(frozen, adapter)
    at = jnp.arange(length)[None]

    def backward(trained, frozen):
        def hidden(trained):
            params = trained if adapter is None else lora.attach(frozen, trained, adapter)
            return models.forward(params, config, at, at, segments=jnp.ones_like(at)).hidden

        return jax.vjp(hidden, trained)[1]

    with (
        mock.patch.object(sharding, "on_one_cpu", lambda: False),
        mock.patch.object(rotary, "_rotate_half_by_product", rotary._rotate_half),
    ):
        kept = jax.tree.leaves(jax.eval_shape(backward, trained, frozen))
    of_layers = [leaf for leaf in kept if leaf.shape and leaf.shape[0] == config.num_layers]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in of_layers)


class SavedTest(parameterized.TestCase):
    """Estimates against the arrays that JAX keeps, on an accelerator."""

    @parameterized.parameters(
        ({},), ({"dtype": "float32"},), ({"activation": "gelu_tanh"},), ({"gated_mlp": False},),
        ({"qk_norm": True},), ({"post_norms": True},), ({"post_norms": True, "pre_norms": False},),
        ({"parallel_layers": True, "gated_mlp": False},), ({"qkv_bias": True},),
        ({"norm": "layer"},), ({}, Lora(rank=4)),
    )  # fmt: skip
    def test_estimates_are_at_or_little_above_what_jax_keeps(self, changes, adapter=None):
        for remat, most in (("full", 1.0), ("dots", 1.4), ("none", 1.05)):
            config = SMALL.replace(remat=remat, **changes)
            kept = [saved_by_layers(config, length, adapter) for length in (64, 128)]
            found = (kept[1] - kept[0]) / 64
            ratio = bytes_saved(config, remat, adapter=adapter) / found
            # Frozen scales of norms need no gradient.
            most = 1.2 if adapter is not None and remat != "full" else most
            self.assertBetween(ratio, 1.0, most, remat)

    @parameterized.parameters(({}, 6), ({"dtype": "float32"}, 4), ({"attention_softcap": 5.0}, 14))
    def test_scores_of_attention_that_is_not_in_blocks(self, changes, of_score):
        config = SMALL.replace(remat="none", query_block=512, **changes)
        kept = [saved_by_layers(config, length, None) for length in (64, 128, 192)]
        found = (kept[2] - 2 * kept[1] + kept[0]) / (2 * 64**2)
        self.assertEqual(found, 3 * 4 * of_score)
        room = StepMemory(config=config, memory=0, held=0, trained=0)
        self.assertEqual(room._scores_kept(1), 3 * of_score / 4 * MOST_SCORES)


if __name__ == "__main__":
    absltest.main()
