"""Problems put to an instruct model: the turns, and their tokens."""

import dataclasses

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.records import Chat, Example, Problem, TaskCard
from restem.rollout import conversation, prompts
from restem.steps.examples import token_examples
from tests.helpers import chat_templates, vocabularies

FORM = "Q: {problem}\nA:"
PREFIX = "Add.\n\nQ: What is 0+1?\nA: The answer is 1.\n\nQ: What is 2+2?\nA: The answer is 4.\n\n"
CARD = TaskCard("sums", prefix=PREFIX, opening="Q: What is ", chat=Chat(form=FORM))
QUERIES = [f"Q: What is {i}+{i}?\nA:" for i in (7, 12, 100)]


def changed(**changes) -> TaskCard:
    return dataclasses.replace(CARD, chat=dataclasses.replace(CARD.chat, **changes))


class MessagesTest(absltest.TestCase):
    def turns(self, card):
        return [(m["role"], m["content"]) for m in conversation.messages(card, QUERIES[0])]

    def test_shots_are_turns(self):
        self.assertEqual(
            self.turns(changed(system="Count.", query="{problem} Be brief.")),
            [
                ("system", "Count."),
                ("user", "Add.\n\nWhat is 0+1? Be brief."),
                ("assistant", "The answer is 1."),
                ("user", "What is 2+2? Be brief."),
                ("assistant", "The answer is 4."),
                ("user", "What is 7+7? Be brief."),
            ],
        )

    def test_shots_are_text(self):
        self.assertEqual(self.turns(changed(shots="text")), [("user", PREFIX + QUERIES[0])])

    def test_no_shots(self):
        card = dataclasses.replace(changed(query="{problem}\nBox it."), prefix="")
        self.assertEqual(self.turns(card), [("user", "What is 7+7?\nBox it.")])

    def test_a_query_of_another_form_is_shown_whole(self):
        turn = conversation.messages(dataclasses.replace(CARD, prefix=""), "(It is 14.) 7+7?")
        self.assertEqual(turn, [{"role": "user", "content": "(It is 14.) 7+7?"}])


class TokensTest(parameterized.TestCase):
    @parameterized.product(
        name=tuple(chat_templates.TEMPLATES), shots=("turns", "text"), prefix=(PREFIX, "")
    )
    def test_they_are_those_of_the_whole_conversation(self, name, shots, prefix):
        vocabulary = chat_templates.vocabulary(name)
        card = dataclasses.replace(changed(shots=shots), prefix=prefix)
        encoded = prompts.encode(card, QUERIES, vocabulary)
        for query, question in zip(QUERIES, encoded.questions, strict=True):
            text = vocabulary.chat_template.render(conversation.messages(card, query))
            self.assertEqual((*encoded.prefix, *question), tuple(vocabulary.encode(text)))
            alone = prompts.encode(card, [query], vocabulary)
            self.assertEqual((alone.prefix, alone.questions), (encoded.prefix, (question,)))
        shared = vocabulary.decode(encoded.prefix)
        self.assertIn("The answer is 4." if prefix else "", shared)
        self.assertNotIn("7+7", shared)

    def test_the_date_of_the_card_is_written(self):
        vocabulary = chat_templates.vocabulary("llama3")
        card = changed(date="2026-01-31")
        self.assertIn("31 Jan 2026", prompts.prompt_text(card, QUERIES[0], vocabulary))

    def test_a_model_without_a_template_is_refused(self):
        with self.assertRaisesRegex(UserError, "no chat template.*Run.chat = False"):
            prompts.encode(CARD, QUERIES, vocabularies.of_kind("gguf_smollm"))

    @parameterized.parameters(*chat_templates.TEMPLATES)
    def test_training_follows_the_prompt_and_ends_the_turn(self, name):
        vocabulary = chat_templates.vocabulary(name)
        end = vocabulary.turn_end_id
        text = "It is four, the answer."
        ids = tuple(vocabulary.encode(text))
        examples = [
            Example("p", 0, QUERIES[0], text, (*ids, end), 1.0),
            Example("p", 1, QUERIES[0], f" {text}\n", (), 1.0),  # of a human
        ]
        prefix, made = token_examples(CARD, examples, vocabulary)
        prompt = prompts.prompt_ids(CARD, QUERIES[0], vocabulary)
        for example in made:
            self.assertEqual((*prefix, *example.input_ids), prompt)
            self.assertEqual(example.target_ids[-1], end)
            self.assertEqual(vocabulary.decode(example.target_ids).strip(), text)
        self.assertEqual(made[0].target_ids, (*ids, end))
        turns = [*conversation.messages(CARD, QUERIES[0]), {"role": "assistant", "content": text}]
        whole = vocabulary.chat_template.render(turns, add_generation_prompt=False)
        written = tuple(vocabulary.encode(whole, opening=True))
        trained = (*prompt, *made[1].target_ids)
        self.assertEqual(trained, written[: len(trained)])

    def test_a_turn_ends_where_a_text_otherwise_does_not(self):
        vocabulary = chat_templates.vocabulary("chatml")
        self.assertIs(prompts.of_task(TaskCard("t"), vocabulary), vocabulary)
        added = prompts.of_task(CARD, vocabulary).eos_ids - vocabulary.eos_ids
        self.assertEqual(added, {vocabulary.turn_end_id})
        self.assertEqual(prompts.closing_id(TaskCard("t"), vocabulary), min(vocabulary.eos_ids))

    def test_long_questions_are_beyond_the_limit(self):
        problems = [Problem(str(i), "train", q) for i, q in enumerate(QUERIES)]
        vocabulary = chat_templates.vocabulary("chatml")
        sizes = list(map(len, prompts.encode(CARD, QUERIES, vocabulary).questions))
        self.assertLess(sizes[0], sizes[2])
        within = prompts.are_within(CARD, problems, vocabulary, sizes[0])
        self.assertEqual(within, [True, True, False])


if __name__ == "__main__":
    absltest.main()
