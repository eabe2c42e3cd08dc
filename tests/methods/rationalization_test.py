"""STaR's hint is seen when sampling and never when training."""

import dataclasses
from unittest import mock

from absl.testing import absltest

from restem import methods
from restem.records import Problem, TaskCard
from restem.steps.select import select
from tests.helpers import tiny
from tests.helpers.solutions import A, sample


class STaRTest(absltest.TestCase):
    def test_the_hinted_query_gives_the_answer_and_the_example_does_not(self):
        hinted = methods.Rationalization().hinted(Problem("a", "train", "A {answer}?", answer="42"))
        self.assertIn("42", hinted)
        self.assertIn("A {answer}?", hinted)
        made = dataclasses.replace(sample("a", 3, 1.0, source="rationalization"), inputs=hinted)
        (example,) = select(problems=[A], samples=[made], iteration=1, seed=0).examples
        self.assertEqual(example.inputs, "A?")

    def test_a_hint_that_leaves_no_room_for_a_solution(self):
        asked = []

        class FakeRollout:
            card = TaskCard("t", prefix="P", max_new_tokens=10)
            max_new_tokens = None
            policy = mock.Mock(vocabulary=tiny.vocabulary(), config=tiny.config(max_length=96))

            def sample(self, problems, num_samples, **given):
                asked.extend(problems)
                return []

        long = dataclasses.replace(A, problem_id="long", inputs="x" * 80)
        with self.assertLogs(level="WARNING") as logs:
            methods.Rationalization()(
                rollout=FakeRollout(), problems=[A, long], samples=[], directory=mock.Mock()
            )
        self.assertEqual(asked, [A])
        self.assertIn("1 of 2 problems are not rationalized", logs.output[0])


if __name__ == "__main__":
    absltest.main()
