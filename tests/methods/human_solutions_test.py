"""Human solutions are samples beside the others."""

import dataclasses

from absl.testing import absltest

from restem import methods
from restem.steps.select import select
from restem.steps.settings import SelectSettings
from tests.helpers.solutions import A, B, sample


class HumanSolutionsTest(absltest.TestCase):
    def made(self, problems, samples, **settings):
        return methods.HumanSolutions(**settings)(
            rollout=None, problems=problems, samples=samples, directory=None
        )

    def test_every_solution_is_a_sample_beside_the_others(self):
        problem = dataclasses.replace(A, solutions=("one", "two"))
        policy = [sample("a", i, 0.0) for i in range(3)]
        human = self.made([problem, B], policy)
        self.assertEqual([s.text for s in human], ["one", "two"])
        self.assertEqual([s.sample_index for s in human], [3, 4])
        chosen = select(problems=[problem, B], samples=policy + human, iteration=1, seed=0)
        self.assertEqual([(e.targets, e.target_ids) for e in chosen.examples],
                         [("one", ()), ("two", ())])  # fmt: skip
        self.assertLen(self.made([problem], [], max_per_problem=1), 1)

    def test_one_of_each_problem_that_the_policy_solves(self):
        problems = [dataclasses.replace(p, solutions=("one", "two")) for p in (A, B)]
        policy = [sample("a", 0, 0.0), sample("a", 1, 1.0), sample("b", 0, 0.0)]
        samples = policy + self.made(problems, policy)
        chosen = select(
            problems=problems,
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(keep=methods.HumanWhereSolved()),
        )
        self.assertEqual([(e.problem_id, e.targets) for e in chosen.examples], [("a", "one")])


if __name__ == "__main__":
    absltest.main()
