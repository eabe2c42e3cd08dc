"""SeqIO's metrics by the graders of a run."""

import numpy as np
from absl.testing import absltest, parameterized

from restem.data import metrics


class MetricsTest(parameterized.TestCase):
    @parameterized.parameters(
        {"example": {"answer": b"4", "problem_id": b"a", "has_answer": b"yes"}, "answer": "4"},
        {"example": {"answer": np.bytes_(b"4"), "problem_id": np.bytes_(b"a")}, "answer": "4"},
        {"example": {"answer": b"", "problem_id": b"a", "has_answer": b""}, "answer": None},
        {"example": {"problem_id": b"a"}, "answer": "target"},
    )
    def test_a_target_becomes_its_problem(self, example, answer):
        problem = metrics.postprocess("target", example=example, is_target=True)
        self.assertEqual((problem.problem_id, problem.answer), ("a", answer))

    def test_an_output_stays(self):
        self.assertEqual(metrics.postprocess(" 4", example={"answer": b"5"}), " 4")

    def test_accuracy_is_the_mean_reward_in_percent(self):
        accuracy = metrics.accuracy({"kind": "exact"})
        examples = [{"answer": text.encode(), "problem_id": text.encode()} for text in "abcd"]
        targets = [metrics.postprocess("", example=e, is_target=True) for e in examples]
        self.assertEqual(accuracy(targets, ["a", "b", "x", "d"]), {"accuracy": 75.0})
        self.assertEqual(accuracy([], []), {"accuracy": 0.0})


if __name__ == "__main__":
    absltest.main()
