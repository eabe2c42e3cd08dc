"""Shapes of micro-batches, on numpy alone."""

import numpy as np
from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.models import ModelConfig
from restem.training import TokenExample, packing
from restem.training.shape import Shape, choose_shape, sizes_of

CONFIG = ModelConfig(
    vocab_size=99, num_layers=1, embed_dim=64, num_heads=2, num_kv_heads=1, head_dim=32,
    mlp_dim=128,
)  # fmt: skip
GEMMA_27B = CONFIG.replace(
    embed_dim=5376, num_heads=32, num_kv_heads=16, head_dim=128, mlp_dim=21504
)


def examples_like_math(count):
    """Questions and solutions with the lengths of MATH: means of 97 and 200 tokens, long tails."""
    rng = np.random.default_rng(0)
    questions = np.clip(rng.lognormal(4.3, 0.7, count), 15, 1900)
    questions[0] = 1900
    solutions = np.clip(rng.lognormal(5.1, 0.65, count), 15, 512)
    return [
        TokenExample([1] * int(q), [1] * int(s)) for q, s in zip(questions, solutions, strict=True)
    ]


def packed(examples, shape, batch_examples):
    return packing.pack(
        examples, row_length=shape.row_length, rows_per_batch=shape.rows_per_batch,
        batch_examples=batch_examples,
    )  # fmt: skip


class ChooseShapeTest(parameterized.TestCase):
    @parameterized.parameters((64, 4096, 1), (8, 64, 1), (30, 50, 4))
    def test_no_worse_than_the_obvious_choice(self, batch_examples, max_tokens, data):
        rng = np.random.default_rng(0)
        examples = [
            TokenExample([1] * int(rng.integers(1, 9)), [1] * int(rng.integers(1, 12)))
            for _ in range(90)
        ]

        def computed(shape):
            epoch = packed(examples, shape, batch_examples)
            self.assertEqual(epoch.too_long, 0)
            return sum(int(b.num_micro) for b in epoch) * shape.rows_per_batch * shape.row_length

        shape = choose_shape(
            sizes_of(examples), config=CONFIG, batch_examples=batch_examples, prefix_length=30,
            max_tokens=max_tokens, mesh={"data": data, "fsdp": 1, "tensor": 1}, multiple=8,
        )  # fmt: skip
        length, rows = shape.row_length, shape.rows_per_batch
        longest = max(e.length for e in examples)
        self.assertGreaterEqual(length, longest)
        row_parts = data // shape.length_parts
        self.assertEqual(rows % row_parts, 0)
        fitting = -(-longest // 8) * 8
        self.assertLessEqual(length * rows, max(max_tokens * data, fitting * row_parts))
        # Rows that hold the longest example, as many as fit.
        many = max(data, max_tokens // fitting * data)
        self.assertLessEqual(computed(shape), 1.02 * computed(Shape(fitting, many)))

    @parameterized.parameters((16, 4), (32, 8), (64, 8))
    def test_rows_of_lengths_like_those_of_math_are_full_on_large_meshes(self, fsdp, tensor):
        """64 examples have 19,000 tokens: 32 rows of the longest would be full to a quarter."""
        examples = examples_like_math(2000)
        mesh = {"data": 1, "fsdp": fsdp, "tensor": tensor}
        shape = choose_shape(
            sizes_of(examples), config=GEMMA_27B, batch_examples=64, prefix_length=768,
            max_tokens=16384, mesh=mesh,
        )  # fmt: skip
        self.assertEqual(packed(examples, shape, 64).too_long, 0)
        self.assertGreaterEqual(packed(examples, shape, 64).efficiency(), 0.8)
        self.assertEqual(shape.row_length % shape.length_parts, 0)
        rows = Shape(-(-max(sizes_of(examples)) // 32) * 32, fsdp)
        self.assertLess(packed(examples, rows, 64).efficiency(), 9 / fsdp)

    def test_whole_rows_are_kept_where_they_are_full(self):
        sizes = [100] * 512
        shape = choose_shape(
            sizes, config=GEMMA_27B, batch_examples=64, multiple=20,
            mesh={"data": 1, "fsdp": 16, "tensor": 1},
        )  # fmt: skip
        self.assertEqual(shape.length_parts, 1)
        self.assertEqual(shape.rows_per_batch % 16, 0)

    def test_a_cpu_takes_few_short_rows_at_a_time(self):
        """Lengths like those of programs for MBPP with their questions; a 0.5B policy."""
        rng = np.random.default_rng(0)
        sizes = np.clip(rng.lognormal(4.97, 0.42, 598), 60, 402).astype(int).tolist()
        examples = [TokenExample([1] * n, [1]) for n in sizes]
        qwen = CONFIG.replace(
            embed_dim=896, num_heads=14, num_kv_heads=2, head_dim=64, mlp_dim=4864
        )
        given = dict(config=qwen, batch_examples=16, prefix_length=420)
        other, cpu = (choose_shape(sizes, adapter_on_cpu=one, **given) for one in (False, True))
        self.assertEqual(cpu.rows_per_batch, 1)
        self.assertLessEqual(cpu.row_length, 448)
        self.assertGreater(other.row_length * other.rows_per_batch, 2048)
        full = packed(examples, cpu, 16).efficiency()
        self.assertGreater(full, packed(examples, other, 16).efficiency() + 0.05)
        # Where rows are full and short, all of them are computed at once.
        self.assertEqual(choose_shape([32] * 64, adapter_on_cpu=True, **given).rows_per_batch, 16)
        # What is given, and rows longer than `max_tokens`, are kept.
        self.assertEqual(
            choose_shape(sizes, adapter_on_cpu=True, rows_per_batch=5, **given).rows_per_batch, 5
        )
        self.assertEqual(
            choose_shape(sizes, adapter_on_cpu=True, max_tokens=64, **given), Shape(416, 1)
        )
        self.assertEqual(
            choose_shape(sizes, adapter_on_cpu=True, row_length=64, **given).row_length, 64
        )

    def test_given_sizes_are_kept(self):
        choose = lambda **given: choose_shape([30] * 64, config=CONFIG, batch_examples=16, **given)
        self.assertEqual(choose(row_length=40).row_length, 40)
        self.assertEqual(choose(rows_per_batch=3).rows_per_batch, 3)
        # 12 rows do not divide over 8 parts, but over 2 groups of 4 that share rows.
        mesh = {"data": 2, "fsdp": 4, "tensor": 1}
        self.assertIn(choose(rows_per_batch=12, mesh=mesh).length_parts, (4, 8))
        # Nothing divides; the trainer names the setting.
        shape = choose(rows_per_batch=3, row_length=41, mesh={"data": 2, "fsdp": 4, "tensor": 1})
        self.assertEqual(shape, Shape(41, 3))

    def test_where_no_example_fits_packing_says_so(self):
        examples = [TokenExample([1] * n, [1]) for n in (100, 200)]
        for mesh in (None, {"data": 2, "fsdp": 4, "tensor": 1}):
            shape = choose_shape(
                sizes_of(examples), config=CONFIG, batch_examples=4, row_length=64, mesh=mesh
            )
            self.assertEqual(shape, Shape(64, 8 if mesh else 1))
        with self.assertRaisesRegex(UserError, "none of the 2 .* fits in row_length=64"):
            packed(examples, shape, 4)

    def test_nothing_to_train_on_is_told(self):
        with self.assertRaisesRegex(UserError, "no training examples with targets"):
            choose_shape([], config=CONFIG, batch_examples=4)


if __name__ == "__main__":
    absltest.main()
