"""A problem is solved by a finished sample of positive reward, and by nothing less."""

from absl.testing import absltest

from restem.methods.unsolved import first_free_index, unsolved
from restem.records import Problem, Sample

PROBLEMS = [Problem(name, "train", "?") for name in "abcd"]


def _sample(problem, index, reward, finish="eos"):
    return Sample(problem, index, "x", (1,), -1.0, finish, reward)


class UnsolvedTest(absltest.TestCase):
    def test_cut_off_and_wrong_samples_solve_nothing(self):
        samples = [
            _sample("a", 0, 0.0), _sample("a", 1, 0.5),
            _sample("b", 0, 1.0, finish="length"),
            _sample("c", 0, 0.0),
        ]  # fmt: skip
        found = unsolved(PROBLEMS, samples)
        self.assertEqual([p.problem_id for p in found], ["b", "c", "d"])

    def test_the_free_index_is_above_all(self):
        self.assertEqual(first_free_index([]), 0)
        samples = [_sample("a", 2, 0.0), _sample("b", 7, 0.0), _sample("b", 1, 0.0)]
        self.assertEqual(first_free_index(samples), 8)


if __name__ == "__main__":
    absltest.main()
