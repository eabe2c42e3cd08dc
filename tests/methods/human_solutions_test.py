"""Human solutions are samples beside the others."""

import dataclasses

from absl.testing import absltest

from restem import methods
from restem.errors import UserError
from restem.records import TaskCard
from restem.steps.select import select
from restem.steps.settings import SelectSettings
from restem.verify import Verifier
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

    def checked(self, problems, grader):
        with Verifier(grader=grader) as verifier:
            methods.HumanSolutions().check(
                card=TaskCard("letters", grader=grader), problems=problems, verifier=verifier
            )

    def test_a_form_that_the_grader_does_not_read_is_refused(self):
        problem = dataclasses.replace(A, answer="4", solutions=("2 + 2 = 4. The answer is 4.",))
        self.checked([problem], {"kind": "numeric", "extraction": "answer_is"})
        self.checked([problem], {"kind": "none"})
        with self.assertRaisesRegex(UserError, "accepts 0 of 2 human solutions"):
            self.checked([problem, B, problem], {"kind": "numeric", "extraction": "boxed"})

    def test_a_form_that_the_grader_seldom_reads_is_a_warning(self):
        problem = dataclasses.replace(A, answer="4", solutions=("The answer is 4.",))
        other = dataclasses.replace(A, answer="4", solutions=("It is 4.",))
        with self.assertLogs(level="WARNING") as logs:
            self.checked([problem, other, other], {"kind": "numeric", "extraction": "answer_is"})
        self.assertIn("accepts 1 of 3 human solutions", logs.output[0])

    def test_a_task_without_human_solutions_is_refused(self):
        with self.assertRaisesRegex(UserError, "none of its 2 training problems has a human"):
            self.checked([A, B], {"kind": "math"})


if __name__ == "__main__":
    absltest.main()
