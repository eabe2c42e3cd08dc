"""Micro-batches and recomputation follow from memory, unless the settings name them."""

import dataclasses
from unittest import mock

from absl.testing import absltest

from restem.models import ModelConfig
from restem.models.lora import Lora
from restem.runtime import host_memory
from restem.steps.micro_batches import micro_batches, step_memory
from restem.steps.settings import ImproveSettings
from restem.training import bytes_saved

GIB = 2**30
LARGE = ModelConfig(
    vocab_size=32000, num_layers=32, embed_dim=4096, num_heads=32, num_kv_heads=8, head_dim=128,
    mlp_dim=14336, dtype="bfloat16",
)  # fmt: skip
SIZES = [200 + 7 * (i % 50) for i in range(640)]
MESH = {"data": 1, "fsdp": 8, "tensor": 2}
SETTINGS = ImproveSettings()


def chosen(memory, settings=SETTINGS):
    room = step_memory(LARGE, settings, memory=memory, held=GIB, prefix_length=768, mesh=MESH)
    shape, remat = micro_batches(SIZES, LARGE, settings, room=room, prefix_length=768, mesh=MESH)
    return shape.rows_per_batch * shape.row_length // 8, remat


class MicroBatchesTest(absltest.TestCase):
    def test_the_fewest_micro_batches_that_fit(self):
        of_step = sum(SIZES[:64]) / 8  # tokens of each part
        small, remat = chosen(16 * GIB)
        self.assertEqual(remat, "full")
        self.assertLess(small, of_step)
        middle, remat = chosen(18 * GIB)
        self.assertEqual(remat, "full")
        self.assertGreater(middle, of_step)
        large, remat = chosen(95 * GIB)
        self.assertEqual((large, remat), (middle, "dots"))

    def test_a_cpu_keeps_products_where_they_are_a_small_part_of_its_memory(self):
        config = LARGE.replace(num_layers=4, embed_dim=512, head_dim=16, mlp_dim=1024)
        for memory, expected in ((4 * GIB, "dots"), (GIB, "full")):
            with mock.patch.object(host_memory, "total", return_value=memory):
                _, remat = micro_batches(
                    SIZES, config, SETTINGS, room=None, prefix_length=768, mesh=None
                )
            self.assertEqual(remat, expected)

    def test_an_adapter_keeps_more_products(self):
        # 1,600 positions of 0.35 MB, or of 0.65 MB with both products of each adapted matrix.
        config = LARGE.replace(num_layers=4, embed_dim=512, head_dim=16, mlp_dim=1024)
        found = {}
        for adapter in (None, Lora()):
            settings = dataclasses.replace(
                SETTINGS, adapter=adapter, rows_per_batch=2, row_length=800
            )
            saved = (1600 + 768) * bytes_saved(config, "dots")
            with mock.patch.object(host_memory, "total", return_value=12 * saved):
                _, found[adapter] = micro_batches(
                    SIZES, config, settings, room=None, prefix_length=768, mesh=None
                )
        self.assertEqual(list(found.values()), ["dots", "full"])
        settings = dataclasses.replace(SETTINGS, adapter=Lora())
        room = step_memory(LARGE, settings, memory=GIB, held=0, prefix_length=0, mesh=MESH)
        self.assertEqual(room.adapter, Lora())

    def test_on_a_cpu_micro_batches_of_an_adapter_have_few_rows(self):
        config = LARGE.replace(num_layers=4, embed_dim=512, head_dim=16, mlp_dim=1024)
        rows = {}
        for adapter in (None, Lora()):
            settings = dataclasses.replace(SETTINGS, adapter=adapter, batch_examples=16)
            shape, _ = micro_batches(
                SIZES, config, settings, room=None, prefix_length=768, mesh=None
            )
            rows[adapter] = shape.rows_per_batch * shape.row_length
        full, few = rows.values()
        self.assertGreater(full, 2048)
        self.assertLess(few, 1024)

    def test_an_adapter_leaves_more_room_than_full_training(self):
        held = {}
        for adapter in (None, Lora()):
            settings = dataclasses.replace(SETTINGS, adapter=adapter)
            room = step_memory(
                LARGE, settings, memory=95 * GIB, held=GIB, prefix_length=0, mesh=MESH
            )
            held[adapter] = room.held, room.tokens("full")
        (full, few), (frozen, many) = held.values()
        # Parameters, two moments and the copy of the best: 16 bytes each, over 16 parts.
        self.assertAlmostEqual((full - GIB) / LARGE.num_params, 1, delta=0.01)
        self.assertLess(frozen - GIB, 0.02 * (full - GIB))
        self.assertGreater(many, few)

    def test_settings_come_first(self):
        settings = dataclasses.replace(SETTINGS, micro_batch_tokens=1024, remat="none")
        positions, remat = chosen(95 * GIB, settings)
        self.assertEqual(remat, "none")
        self.assertLessEqual(positions, 1024)
        settings = dataclasses.replace(SETTINGS, row_length=640, rows_per_batch=16)
        self.assertEqual(chosen(95 * GIB, settings)[0], 2 * 640)

    def test_where_the_memory_is_not_known(self):
        shape, remat = micro_batches(
            SIZES, LARGE, SETTINGS, room=None, prefix_length=768, mesh=None
        )
        self.assertLessEqual(shape.rows_per_batch * shape.row_length, 4096)
        self.assertEqual(remat, "full")


if __name__ == "__main__":
    absltest.main()
