"""How many slots are used where the device tells its memory."""

from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from restem import models
from restem.errors import UserError
from restem.models import int8, lora
from restem.models.lora import Lora
from restem.sampling import memory, widths
from restem.sampling.shapes import Shapes
from tests.sampling.engine_test import CONFIG, engine_of

MIB = 2**20


def fit(total, *, lengths=(30,), ring=64, samples=1, ahead=0, reserved=0):
    options = engine_of(CONFIG.replace(vocab_size=1000)).options
    options.reserved = reserved
    shapes = models.param_shapes(options.config, jnp.float32)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def classes(slots):
        return widths.choose(lengths, [1] * len(lengths), slots=slots, bucket=16, ring=ring)

    device = mock.Mock(memory_stats=lambda: {"bytes_limit": total} if total else None)
    with mock.patch.object(jax, "local_devices", lambda: [device]):
        return memory.slots_that_fit(options, params, classes, 1, samples, ring, ahead)


LLAMA_8B = models.ModelConfig(
    vocab_size=128256, num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, head_dim=128,
    mlp_dim=14336, dtype="bfloat16",
)  # fmt: skip


class ParametersTest(parameterized.TestCase):
    """Bytes of parameters, from shapes alone, in GiB."""

    ADAPTER = Lora(rank=16)

    def held(self, params, **changes):
        options = engine_of(LLAMA_8B.replace(**changes)).options
        return memory.bytes_of_params(options, params) / 2**30

    def adapted(self, base):
        adapter = lora.shapes(models.param_shapes(LLAMA_8B), self.ADAPTER)
        return lora.attach(base, adapter, self.ADAPTER)

    def test_parameters_in_the_dtype_of_activations_are_read_as_they_are(self):
        whole = models.param_shapes(LLAMA_8B, jnp.bfloat16)
        self.assertAlmostEqual(self.held(whole), 2 * LLAMA_8B.num_params / 2**30, places=3)

    def test_rounded_parameters_are_held_beside_the_callers(self):
        whole = models.param_shapes(LLAMA_8B, jnp.float32)
        self.assertAlmostEqual(self.held(whole), 6 * LLAMA_8B.num_params / 2**30, places=3)

    def test_merged_matrices_are_held_beside_base_and_adapter(self):
        params = self.adapted(models.param_shapes(LLAMA_8B, jnp.bfloat16))
        # The base and an adapter of 0.16; 6.98 billion parameters of the layers are merged.
        self.assertAlmostEqual(self.held(params), 14.96 + 0.16 + 13.0, delta=0.02)

    @parameterized.parameters((jnp.bfloat16, 14.96), (jnp.float32, 29.92))
    def test_int8_weights_are_held_beside_the_callers(self, dtype, whole):
        params = models.param_shapes(LLAMA_8B, dtype)
        self.assertAlmostEqual(self.held(params, int8_weights=True), whole + 7.48, delta=0.02)

    def test_an_adapter_to_an_int8_base_is_read_as_it_is(self):
        params = self.adapted(jax.eval_shape(int8.quantize, models.param_shapes(LLAMA_8B)))
        self.assertAlmostEqual(self.held(params), 7.48 + 0.16, delta=0.02)

    def test_on_a_tpu_projections_are_held_in_two_orders(self):
        rows = (LLAMA_8B.num_heads + 2 * LLAMA_8B.num_kv_heads) * LLAMA_8B.head_dim
        projections = 32 * 4096 * rows / 2**30
        whole = models.param_shapes(LLAMA_8B, jnp.bfloat16)
        without = self.held(whole), self.held(whole, int8_weights=True)
        with mock.patch.object(Shapes, "flat_heads", True):
            flat = self.held(whole), self.held(whole, int8_weights=True)
        self.assertAlmostEqual(flat[0], without[0] + 2 * projections, places=3)
        # The int8 copy is in the TPU's order alone.
        self.assertAlmostEqual(flat[1], without[1], places=3)


class MemoryTest(absltest.TestCase):
    def test_slots_are_what_fits(self):
        # A column takes 2 layers x 2 (keys, values) x 2 heads x 8 x 4 bytes; a slot has 32 for its
        # question and 2 x 64, and 24 kB of logits.
        slot = 160 * 256 + 24 * 1000
        shapes = models.param_shapes(CONFIG.replace(vocab_size=1000))
        held = sum(x.size * 4 for x in jax.tree.leaves(shapes))
        self.assertEqual(fit(int((held + 83 * slot) / 0.8) + 1), 80)
        self.assertEqual(fit(int((held + 5 * slot) / 0.8) + 1), 5)
        self.assertEqual(fit(100 * 2**30), 1024)
        self.assertEqual(fit(None), 256)
        with self.subTest("many samples: no second ring, but half a batch or what is read ahead"):
            many = 96 * 1.5 * 256 + 24 * 1000
            self.assertEqual(fit(int((held + 83 * many) / 0.8) + 1, samples=1000), 80)
            # 1,000 samples do not refill more than 250 slots four times: these have two rings.
            self.assertEqual(fit(int((held + 309 * slot) / 0.8) + 1, samples=1000), 304)
            alone = 96 * 256 + 24 * 1000
            ahead = 83 * 48
            total = int((held + 83 * alone + ahead * 256) / 0.8) + 1
            self.assertEqual(fit(total, samples=1000, ahead=ahead), 80)
        with self.subTest("a TPU's own order of projections is held beside the caller's"):
            attention = shapes["layers"]["attention"]
            held += sum(attention[name].size * 4 for name in ("query", "key", "value"))
            with mock.patch.object(Shapes, "flat_heads", True):
                self.assertEqual(fit(int((held + 83 * slot) / 0.8) + 1), 80)
                self.assertEqual(fit(int((held + 7.5 * slot) / 0.8) + 1), 7)

    def test_a_long_question_does_not_take_the_memory_of_every_slot(self):
        short = fit(40 * MIB, lengths=[30] * 100)
        self.assertGreater(fit(40 * MIB, lengths=[30] * 100 + [2000]), short / 2)

    def test_what_does_not_fit_is_said_in_one_line(self):
        with self.assertRaisesRegex(UserError, "no slot fits in 0.0 GiB .* lower max_new_tokens"):
            fit(MIB // 4)
        message = "beside 0.0 GiB of parameters and 3.0 GiB that training holds: use a mesh"
        with self.assertRaisesRegex(UserError, message):
            fit(2**30, reserved=3 * 2**30)

    def test_what_training_holds_leaves_fewer_slots(self):
        self.assertEqual(fit(2 * 40 * MIB, reserved=32 * MIB), fit(40 * MIB))


if __name__ == "__main__":
    absltest.main()
