"""How many slots are used where the device tells its memory."""

from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest

from restem import models
from restem.errors import UserError
from restem.sampling import memory, widths
from restem.sampling.shapes import Shapes
from tests.sampling.engine_test import CONFIG, engine_of

MIB = 2**20


def fit(total, *, lengths=(30,), ring=64, samples=1, ahead=0):
    options = engine_of(CONFIG.replace(vocab_size=1000)).options
    shapes = models.param_shapes(options.config, jnp.float32)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def classes(slots):
        return widths.choose(lengths, [1] * len(lengths), slots=slots, bucket=16, ring=ring)

    device = mock.Mock(memory_stats=lambda: {"bytes_limit": total} if total else None)
    with mock.patch.object(jax, "local_devices", lambda: [device]):
        return memory.slots_that_fit(options, params, classes, 1, samples, ring, ahead)


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


if __name__ == "__main__":
    absltest.main()
