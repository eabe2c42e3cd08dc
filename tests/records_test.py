"""Records survive Parquet without loss."""

import dataclasses

import pyarrow as pa
from absl.testing import absltest, parameterized

from restem import records

CARD = records.TaskCard(
    "t", prefix="P\n\n", stop=("Problem:",), stop_after=("end",), grader={"kind": "none"}
)


class RecordsTest(parameterized.TestCase):
    def test_problems_survive_parquet_with_their_card(self):
        problems = [
            records.Problem("p", "train", "q", "1", None, ("s", "t"), {"level": 3}),
            records.Problem("q", "test", "q", None, '{"inputs": []}'),
        ]
        table = records.problems_to_table(problems, CARD)
        self.assertEqual(records.problems_from_table(table), (CARD, problems))
        with self.assertRaisesRegex(ValueError, "no task card"):
            records.problems_from_table(pa.table({"x": [1]}))

    def test_samples_survive_parquet(self):
        verdict = records.Verdict(0.25, "tests", "x", None, "failed test 3")
        sample = records.Sample("p", 0, "text \u2028 é", (1, 2), -0.5, "stop", 0.25, verdict)
        of_other = dataclasses.replace(sample, inputs="hinted q", source="rationalization")
        raw = records.Sample("p", 1, "", (), 0.0, "length")
        samples = [sample, of_other, raw]
        table = records.samples_to_table(samples)
        self.assertEqual(records.samples_from_table(table), samples)

    @parameterized.parameters(True, False)
    def test_a_graders_own_word_on_correctness_survives(self, correct):
        verdict = records.Verdict(0.25, "function", correct=correct, passed=1, total=4)
        sample = records.Sample("p", 0, "t", (1,), -0.5, "eos", 0.25, verdict)
        (back,) = records.samples_from_table(records.samples_to_table([sample]))
        self.assertEqual(back, sample)
        self.assertEqual(back.correct, correct)

    def test_samples_of_version_0_1_are_correct_by_their_reward(self):
        for reward in (1.0, 0.5):
            verdict = records.Verdict(reward, "string")
            sample = records.Sample("p", 0, "t", (1,), -0.5, "eos", reward, verdict)
            (row,) = records.samples_to_table([sample]).to_pylist()
            del row["verdict"]["correct"]
            (back,) = records.samples_from_table(pa.Table.from_pylist([row]))
            self.assertEqual(back.correct, reward >= records.CORRECT_REWARD)

    @parameterized.parameters(0.125, -0.6, 1.0, 2.5)
    def test_weights_are_floats(self, weight):
        example = records.Example("p", 0, "q", "t", (5, 6), weight)
        table = records.examples_to_table([example])
        (back,) = records.examples_from_table(table)
        self.assertAlmostEqual(back.weight, weight, places=6)
        self.assertEqual(dataclasses.replace(back, weight=weight), example)
        self.assertEqual(table.schema.field("weight").type, pa.float32())

    def test_stable_key_is_stable(self):
        self.assertEqual(records.stable_key(0, "generate", 1), 2066379480)
        self.assertNotEqual(records.stable_key("a", "b"), records.stable_key("ab"))


if __name__ == "__main__":
    absltest.main()
