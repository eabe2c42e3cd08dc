"""Prompts in tokens, and questions that are too long."""

from absl.testing import absltest

from restem.records import Problem, TaskCard
from restem.rollout import prompts
from tests.helpers import tiny


class SetAsideTest(absltest.TestCase):
    def test_questions_beyond_the_limit(self):
        # One token per byte.
        problems = [Problem(str(n), "train", "x" * n) for n in (3, 9, 10, 11, 4)]
        card = TaskCard(task="letters", prefix="", grader={})
        kept, aside = prompts.set_aside(card, problems, tiny.vocabulary(), 10)
        self.assertEqual([p.problem_id for p in kept], ["3", "9", "10", "4"])
        self.assertEqual([p.problem_id for p in aside], ["11"])
        self.assertEqual(prompts.set_aside(card, problems, tiny.vocabulary(), None), (problems, []))


if __name__ == "__main__":
    absltest.main()
