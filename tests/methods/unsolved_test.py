"""A problem is solved by a finished correct sample, and by nothing less."""

import dataclasses

from absl.testing import absltest

from restem.methods.unsolved import first_free_index, unsolved
from restem.records import Problem, Sample, Verdict

PROBLEMS = [Problem(name, "train", "?") for name in "abcd"]


def _sample(problem, index, reward, finish="eos"):
    return Sample(problem, index, "x", (1,), -1.0, finish, reward)


class UnsolvedTest(absltest.TestCase):
    def test_cut_off_and_wrong_samples_solve_nothing(self):
        samples = [
            _sample("a", 0, 0.0), _sample("a", 1, 1.0),
            _sample("b", 0, 1.0, finish="length"),
            _sample("c", 0, 0.0),
        ]  # fmt: skip
        found = unsolved(PROBLEMS, samples)
        self.assertEqual([p.problem_id for p in found], ["b", "c", "d"])

    def test_a_partial_reward_solves_nothing_unless_the_grader_says_so(self):
        graded = [
            dataclasses.replace(_sample(p, 0, 0.5), verdict=Verdict(0.5, correct=correct))
            for p, correct in (("a", True), ("b", False), ("c", None))
        ]
        found = unsolved(PROBLEMS, [*graded, _sample("d", 0, 0.9)])
        self.assertEqual([p.problem_id for p in found], ["b", "c", "d"])

    def test_the_free_index_is_above_all(self):
        self.assertEqual(first_free_index([]), 0)
        samples = [_sample("a", 2, 0.0), _sample("b", 7, 0.0), _sample("b", 1, 0.0)]
        self.assertEqual(first_free_index(samples), 8)


if __name__ == "__main__":
    absltest.main()
