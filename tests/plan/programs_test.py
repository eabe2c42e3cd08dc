"""Programs for a mesh of one CPU device, which are traced and not compiled."""

import dataclasses

import jax
from absl.testing import absltest, parameterized

from restem import models, partitioning
from restem.models.lora import Lora
from restem.plan import costs, programs, shapes, worker
from restem.plan.lengths import Lengths

TINY = models.ModelConfig(
    vocab_size=256, num_layers=2, embed_dim=256, num_heads=4, num_kv_heads=2, head_dim=128,
    mlp_dim=512, tied_head=True,
)  # fmt: skip


class ProgramsTest(parameterized.TestCase):
    LENGTHS = Lengths(
        prefix=32, max_new_tokens=32, questions=(10,) * 60 + (300,), solutions=(8, 20, 32),
        source="a test",
    )  # fmt: skip

    def setUp(self):
        super().setUp()
        self.mesh = partitioning.make_mesh(devices=jax.devices()[:1])

    @parameterized.parameters(
        # (dtype as loaded, int8 weights) -> bytes of a parameter as read, and beside it
        ("bfloat16", False, 2, 0),
        ("float32", False, 2, 4),
        ("bfloat16", True, 1, 2),
        ("float32", True, 1, 4),
    )
    def test_parameters_count_as_loaded_and_as_read(self, dtype, int8_weights, read, loaded):
        config = TINY.replace(dtype="bfloat16", int8_weights=int8_weights)
        sampler = shapes.sampler(
            config, self.mesh, self.LENGTHS, num_samples=4, max_new_tokens=32, sampling={},
            dtype=dtype, hbm=2**30, slots=16,
        )  # fmt: skip
        for name in ("prefix", "decode"):
            program = sampler.program(name)
            self.assertAlmostEqual(program.kinds["parameters"] / TINY.num_params, read, delta=0.02)
            beside = program.held["as loaded"] / TINY.num_params
            self.assertAlmostEqual(beside, loaded, delta=0.02)
        self.assertEqual(sampler.program("insert").held, {})

    def train(self, **changes):
        fields: dict = dict(
            prefix=0, rows=4, row_length=256, length_parts=1, micro_batches=1,
            most_micro_batches=1, optimizer="adamw", optimizer_options={}, param_dtype="float32",
            adapter=None, base_dtype="bfloat16",
        )  # fmt: skip
        train_shapes = programs.TrainShapes(**(fields | changes))
        return programs.train(TINY.replace(remat="none"), train_shapes, self.mesh)

    def flops(self, **changes):
        program = self.train(**changes)
        return costs.flops(program.trace().jaxpr.jaxpr, program.trips)

    def test_products_of_a_step_with_one_micro_batch_and_with_a_loop_of_them(self):
        # 1,024 positions, whose targets take the head four times.
        norms = TINY.embed_dim * (2 * TINY.num_layers + 1)
        attention = 2 * 2 * 4 * 256 * 256 * TINY.num_heads * TINY.head_dim * TINY.num_layers
        expected = 6 * 1024 * (TINY.num_params - norms) + 3 * attention
        self.assertEqual(self.flops(), expected)
        self.assertEqual(self.flops(most_micro_batches=5), expected)
        self.assertEqual(self.flops(micro_batches=3, most_micro_batches=5), 3 * expected)

    def test_the_prefix_is_read_as_one_more_micro_batch(self):
        read = {}
        for prefix in (0, 32):
            job = {"program": "train", "shapes": {
                "rows": 4, "row_length": 256, "param_dtype": "float32", "adapter": None,
                "micro_batches": 2, "prefix": prefix,
            }}  # fmt: skip
            kinds = {"parameters": 400, "optimizer": 800}
            read[prefix] = worker._hbm_bytes(job, TINY, kinds, self.mesh)
        activations = 1024 * TINY.embed_dim * TINY.num_layers * 4
        one = 3 * 400 + 2 * 4 * TINY.num_params + 2 * activations
        self.assertEqual(read[32] - read[0], one)
        self.assertEqual(read[0], 2 * one + 2 * 400 + 2 * 800 + 4 * TINY.num_params)

    def test_the_m_step_holds_the_policy_it_starts_from_and_the_best_one(self):
        program, size = self.train(), TINY.num_params
        self.assertEqual(program.held, {"base": 2 * size, "best policy": 4 * size})
        self.assertEqual(program.kinds["parameters"], 4 * size)
        with self.subTest("an adapter is trained on the policy's own weights"):
            adapter = dataclasses.asdict(Lora(rank=2))
            program = self.train(adapter=adapter, param_dtype="bfloat16")
            self.assertEqual(program.kinds["frozen"], 2 * size)
            self.assertEqual(program.held["base"], 0)
            self.assertEqual(program.held["best policy"], program.kinds["parameters"])
            self.assertLess(program.kinds["parameters"], 0.1 * size)
        with self.subTest("or on rounded ones beside them"):
            adapter = dataclasses.asdict(Lora(rank=2, base_dtype="int8"))
            program = self.train(adapter=adapter, param_dtype="bfloat16")
            self.assertAlmostEqual(program.kinds["frozen"] / size, 1, delta=0.02)
            self.assertAlmostEqual(program.held["base"] / size, 2, delta=0.01)


if __name__ == "__main__":
    absltest.main()
