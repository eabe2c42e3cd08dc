"""Prompts have the tokens of their whole text, under every vocabulary and for every task."""

import functools
import itertools

from absl.testing import absltest, parameterized

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.checkpoints import pypi
from restem.data import registry
from restem.records import Example, Problem, TaskCard
from restem.rollout import prompts
from restem.steps.examples import token_examples
from tests.helpers import packaged, tiny, vocabularies

QUERIES = (
    "Problem:\nWhat is $1+1$?\n\nSolution:",
    "Q: How many?\nA:",
    *vocabularies.TEXTS.values(),
    "\u0301 combines with what precedes it",
    "\n\nbegins with white space",
)


@functools.cache
def few_shot_prompts() -> list[str]:
    """Returns the ends of the prompts of all tasks, and some that end within a word or a line."""
    found = {"", "What is", "It is 5.", "a ", "x\n"}
    for name in registry.names():
        spec = registry.get(name)
        if spec.groups:  # BIG-Bench Hard's prompts are data; they have this form
            found.add("So the answer is False.\n\n")
        else:
            found.add(spec.read_prompt(None).prefix[-300:])
    return sorted(found)


class WholeTextTest(parameterized.TestCase):
    def assert_whole(self, vocabulary, prefix, queries, opening=""):
        card = TaskCard("t", prefix=prefix, opening=opening)
        encoded = prompts.encode(card, queries, vocabulary)
        for query, question in zip(queries, encoded.questions, strict=True):
            whole = (*vocabulary.start_ids, *vocabulary.encode(prefix + query, opening=True))
            self.assertEqual((*encoded.prefix, *question), whole)
            if whole:
                self.assertNotEmpty(question)

    @parameterized.parameters(*vocabularies.KINDS)
    def test_every_kind_of_vocabulary_and_every_task(self, kind):
        vocabulary = vocabularies.of_kind(kind)
        for prefix in few_shot_prompts():
            with self.subTest(prefix[:20]):
                self.assert_whole(vocabulary, prefix, QUERIES)
                self.assert_whole(vocabulary, prefix, QUERIES[:1])

    @parameterized.parameters(*pypi.MODELS)
    def test_vocabularies_of_real_models(self, package):
        packaged.require(self, package)
        for prefix in few_shot_prompts():
            self.assert_whole(packaged.vocabulary(package), prefix, QUERIES)

    def test_the_seam_is_not_where_the_texts_meet(self):
        """The tokens of prefix and query apart are others, in the vocabularies where it matters."""
        found = set()
        for kind in vocabularies.KINDS:
            vocabulary = vocabularies.of_kind(kind)
            prefix, query = "It is 5.\n\n", QUERIES[0]
            apart = vocabulary.encode(prefix, opening=True) + vocabulary.encode(query)
            if (*vocabulary.start_ids, *apart) != vocabulary.prompt_ids(prefix + query):
                found.add(kind)
        self.assertContainsSubset({"gguf_smollm"}, found)


class PrefixTest(parameterized.TestCase):
    @parameterized.parameters(*vocabularies.KINDS)
    def test_it_depends_on_the_card_and_not_on_the_problems(self, kind):
        vocabulary = vocabularies.of_kind(kind)
        texts = ("What is 1+1?", "Find x.", "$x$ is 5", "1 and 2", "(a) or (b)?", "数は？")
        queries = [f"Problem:\n{text}\n\nSolution:" for text in texts]
        prefix = "Problem:\nWhat is 0?\n\nSolution:\n0.\n\n"
        card = TaskCard("t", prefix=prefix, opening="Problem:\n")
        expected = prompts.prefix_ids(card, vocabulary)
        for n in (1, 2):
            for some in itertools.combinations(queries, n):
                self.assertEqual(prompts.encode(card, some, vocabulary).prefix, expected)
        # It holds all but the few tokens that text after it may change.
        text = vocabulary.decode(expected)
        self.assertStartsWith((prefix + "Problem:\n"), text.lstrip())
        self.assertGreater(len(text.lstrip()), len(prefix))

    def test_a_query_of_another_form_shortens_it(self):
        vocabulary = tiny.vocabulary()  # one token per byte
        card = TaskCard("t", prefix="shots\n", opening="Q: ")
        own = prompts.encode(card, ["Q: a", "Q: b"], vocabulary)
        self.assertEqual(vocabulary.decode(own.prefix), "shots\nQ: ")
        hinted = prompts.encode(card, ["(5) Q: a", "(6) Q: b"], vocabulary)
        self.assertEqual(vocabulary.decode(hinted.prefix), "shots\n")

    def test_a_task_of_one_problem_keeps_a_token_for_the_question(self):
        vocabulary = tiny.vocabulary()
        card = TaskCard("t", prefix="shots\n", opening="Q: a")
        (question,) = prompts.encode(card, ["Q: a"], vocabulary).questions
        self.assertEqual(vocabulary.decode(question), "a")


class LengthLimitTest(absltest.TestCase):
    def test_questions_beyond_the_limit(self):
        # One token per byte.
        problems = [Problem(str(n), "train", "x" * n) for n in (3, 9, 10, 11, 4)]
        card = TaskCard(task="letters", prefix="", grader={})
        within = prompts.are_within(card, problems, tiny.vocabulary(), 10)
        self.assertEqual(within, [True, True, True, False, True])


class TargetsTest(parameterized.TestCase):
    @parameterized.parameters(*vocabularies.KINDS)
    def test_what_is_trained_follows_what_is_sampled_after(self, kind):
        vocabulary = vocabularies.of_kind(kind)
        card = TaskCard("t", prefix="Q: 0?\nA: 0\n\n", opening="Q: ")
        for solution in ("\n\n5", " 5", "5.\n", "\nthe answer is four", *QUERIES[2:]):
            for query in ("Q: 1?\nA:", "Q: 1?\n", "Q: 12"):
                example = Example("p", 0, query, solution, (), 1.0)
                prefix, (made,) = token_examples(card, [example], vocabulary)
                prompt = vocabulary.prompt_ids(card.prefix + query)
                self.assertEqual((*prefix, *made.input_ids), prompt)
                *targets, eos = made.target_ids
                self.assertEqual(eos, min(vocabulary.eos_ids))
                if kind != "gguf_qwen2" or "\u0301" not in solution:  # it normalises to NFC
                    self.assertEqual(vocabulary.decode(targets), solution)
                whole = vocabulary.prompt_ids(card.prefix + query + solution)
                if whole[: len(prompt)] == prompt:
                    self.assertEqual(tuple(targets), whole[len(prompt) :])

    def test_a_token_across_the_seam_is_divided(self):
        vocabulary = vocabularies.of_kind("gguf_llama-bpe")
        self.assertLen(vocabulary.encode("\n\n"), 1)
        card = TaskCard("t")
        prompt = vocabulary.prompt_ids("four\n")
        whole = vocabulary.prompt_ids("four\n\nthe problem")
        self.assertNotEqual(whole[: len(prompt)], prompt)
        targets = prompts.target_ids(card, "four\n", "\nthe problem", vocabulary)
        self.assertEqual(targets[:1], tuple(vocabulary.encode("\n")))
        self.assertEqual(targets[1:], whole[-len(targets) + 1 :])


if __name__ == "__main__":
    absltest.main()
