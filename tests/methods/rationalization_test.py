"""STaR's hint is seen when sampling and never when training."""

import dataclasses

from absl.testing import absltest

from restem import methods
from restem.records import Problem
from restem.steps.select import select
from tests.helpers.solutions import A, sample


class STaRTest(absltest.TestCase):
    def test_the_hinted_query_gives_the_answer_and_the_example_does_not(self):
        hinted = methods.Rationalization().hinted(Problem("a", "train", "A {answer}?", answer="42"))
        self.assertIn("42", hinted)
        made = dataclasses.replace(sample("a", 3, 1.0, source="rationalization"), inputs=hinted)
        (example,) = select(problems=[A], samples=[made], iteration=1, seed=0).examples
        self.assertEqual(example.inputs, "A?")


if __name__ == "__main__":
    absltest.main()
