"""Reinforced ICL rewrites the prompt out of whole solutions."""

from absl.testing import absltest

from restem.steps.select import select
from tests.helpers.solutions import A, B, sample


class ManyShotTest(absltest.TestCase):
    def test_shots_are_whole_blocks_of_the_prompt(self):
        chosen = select(
            problems=[A, B], samples=[sample("a", 0, 1.0, " x\n"), sample("b", 0, 1.0, " y")],
            iteration=1, seed=0,
        )  # fmt: skip
        from restem.methods.many_shot import as_prefix

        self.assertEqual(as_prefix(chosen.examples, "\n\n"), "A? x\n\nB? y\n\n")


if __name__ == "__main__":
    absltest.main()
