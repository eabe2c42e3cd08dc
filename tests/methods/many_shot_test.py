"""Reinforced ICL rewrites the prompt out of whole solutions."""

from unittest import mock

from absl.testing import absltest

from restem.errors import UserError
from restem.methods import many_shot
from restem.methods.many_shot import ManyShot, as_prefix
from restem.records import Chat, Example, TaskCard
from restem.steps.select import select
from tests.helpers.solutions import A, B, sample


class ManyShotTest(absltest.TestCase):
    def test_shots_are_whole_blocks_of_the_prompt(self):
        chosen = select(
            problems=[A, B], samples=[sample("a", 0, 1.0, " x\n"), sample("b", 0, 1.0, " y")],
            iteration=1, seed=0,
        )  # fmt: skip
        self.assertEqual(as_prefix(chosen.examples, "\n\n"), "A? x\n\nB? y\n\n")

    def shots(self, form, *solutions):
        """The targets that a chat with queries of this form shows."""
        rollout = mock.Mock(
            card=TaskCard("t", chat=Chat(form=form)), key=0,
            policy=mock.Mock(config=mock.Mock(max_length=10_000)),
        )  # fmt: skip
        examples = [
            Example(f"p{i}", 0, form.replace("{problem}", f"{i}?"), text, (), 1.0)
            for i, text in enumerate(solutions)
        ]
        no_text = dict(prefix_ids=lambda *_: (), encode=lambda *_: mock.Mock(questions=[]))
        with mock.patch.multiple(many_shot.prompts, **no_text):
            return {s.targets for s in ManyShot()._shots(rollout, examples, [])}

    def test_a_chat_shows_no_solution_that_would_be_cut(self):
        shots = self.shots("Q: {problem}\nA:", " one", " two\n\nQ: more", " three")
        self.assertEqual(shots, {" one", " three"})

    def test_a_form_without_ends_cannot_become_turns(self):
        card = TaskCard("t", chat=Chat(form="{problem}"))
        with self.assertRaisesRegex(UserError, "cannot become the turns of a chat"):
            ManyShot()(
                rollout=mock.Mock(card=card), examples=[], validation=[], directory=mock.Mock()
            )


if __name__ == "__main__":
    absltest.main()
