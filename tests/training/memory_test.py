"""What is counted of a training step's memory, and how queries are cut so that scores fit."""

import dataclasses

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from restem.models import ModelConfig
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

    def test_nothing_fits_beside_a_state_that_fills_the_memory(self):
        self.assertEqual(dataclasses.replace(self.ROOM, held=90 * GIB).tokens("full"), 0)

    def test_bytes_of_arrays_and_shapes(self):
        tree = {"a": jnp.zeros((3, 4)), "b": jax.ShapeDtypeStruct((5,), jnp.bfloat16)}
        self.assertEqual(bytes_on_device(tree), 3 * 4 * 4 + 5 * 2)


if __name__ == "__main__":
    absltest.main()
