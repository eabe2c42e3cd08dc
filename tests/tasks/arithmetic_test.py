"""The generator of the task `arithmetic`."""

import collections
import re

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.tasks import arithmetic, shots
from restem.tasks import arithmetic_stories as stories

SPLITS = ("train", "validation", "test")
ALL = tuple(arithmetic.FAMILIES)
_SUM = re.compile(r"\$(-?[\d+\-/]+(?:\\cdot ?\d+)?)=(-?\d+)\$")


def generate(split, **options):
    return arithmetic.arithmetic(split, **options)


def question(record):
    return record["inputs"].removeprefix("Problem:\n").removesuffix("\n\nSolution:")


class ArithmeticTest(parameterized.TestCase):
    @parameterized.parameters(range(3))
    def test_default_sizes_families_and_unique_questions(self, seed):
        for split, least in (("train", 400), ("validation", 100), ("test", 200)):
            records = generate(split, seed=seed)
            self.assertGreaterEqual(len(records), least)
            self.assertLen({r["inputs"] for r in records}, len(records))
            self.assertLen({r["problem_id"] for r in records}, len(records))
            counts = collections.Counter(r["metadata"]["family"] for r in records)
            self.assertEqual(set(counts), {"add", "multiply", "sums"})
            self.assertLessEqual(max(counts.values()) - min(counts.values()), 1)

    def test_operands_are_disjoint_over_splits_families_and_seeds(self):
        sizes = dict.fromkeys(SPLITS, 330)
        seen = {split: set() for split in SPLITS}
        for seed in range(3):
            for split in SPLITS:
                for record in generate(split, families=ALL, sizes=sizes, seed=seed):
                    operands = tuple(sorted(record["metadata"]["operands"]))
                    self.assertEqual(arithmetic.split_of(operands), split)
                    seen[split].add(operands)
        for one, other in (SPLITS[:2], SPLITS[1:], SPLITS[::2]):
            self.assertEmpty(seen[one] & seen[other])
            self.assertNotEmpty(seen[one])

    def test_the_split_forgets_the_order_of_operands(self):
        for a in range(2, 30):
            for b in range(2, 30):
                self.assertEqual(arithmetic.split_of((a, b)), arithmetic.split_of((b, a)))

    @parameterized.parameters(*ALL)
    def test_questions_state_the_operands_and_solutions_compute_the_answer(self, family):
        for record in generate("train", families=(family,), sizes={"train": 120}, seed=7):
            self.assertEqual(record["metadata"]["family"], family)
            (solution,) = record["solutions"]
            self.assertTrue(solution.startswith("\n"))
            answer = record["answer"]
            self.assertEndsWith(
                solution,
                f"\nFinal Answer: The final answer is ${answer}$. I hope it is correct.",
            )
            if family != "equations":
                equations = _SUM.findall(solution)
                self.assertNotEmpty(equations, solution)
                for left, right in equations:
                    value = eval(left.replace("\\cdot", "*"))
                    self.assertEqual(value, int(right), solution)
                self.assertEqual(equations[-1][1], answer)
            else:
                equation = re.search(r"\$([^$]*) = (\d+)\$\.$", question(record))
                left = re.sub(r"(\d)([x(])", r"\1*\2", equation[1]).replace("x", answer)
                self.assertEqual(eval(left), int(equation[2]), record)
            self.assertGreater(int(answer), 0)
            numbers = collections.Counter(map(int, re.findall(r"\d+", question(record))))
            if family not in ("divide", "equations"):
                self.assertEqual(
                    numbers, collections.Counter(record["metadata"]["operands"]), record
                )

    def test_every_story_reads_like_a_sentence(self):
        records = generate("train", families=ALL, sizes={"train": 1100})
        for record in records:
            text = question(record)
            self.assertNotRegex(text, r"[{}]|  |\bhe's|\s[.,?]")
            self.assertRegex(text, r"[?.]$")
            for sentence in re.split(r"(?<=[.?]) ", text):
                self.assertRegex(sentence[0], r"[A-Z0-9]", text)
            people = re.findall(rf"\b({'|'.join(n for n, _ in stories.PEOPLE)})\b", text)
            pronouns = set(re.findall(r"\b(he|she|him|her|his)\b", text.lower()))
            if pronouns:
                gender = dict(stories.PEOPLE)[people[0]]
                self.assertContainsSubset(pronouns, set(stories.PRONOUNS[gender]), text)

    def test_stories_vary(self):
        records = generate("train", families=("varied_add",), sizes={"train": 120})
        blanks = "|".join((r"\d+", *stories.THINGS, *(name for name, _ in stories.PEOPLE)))
        shapes = {re.sub(blanks, "_", question(r).replace("She", "He")) for r in records}
        self.assertGreater(len(shapes), 12)
        used = {t for t in stories.THINGS if any(t in question(r) for r in records)}
        self.assertGreater(len(used), 20)

    def test_a_smaller_size_is_the_head_of_a_larger_one(self):
        small = generate("train", sizes={"train": 50})
        self.assertEqual(small, generate("train", sizes={"train": 200})[:50])
        self.assertEqual(small, generate("train", sizes={"train": 50}))

    def test_the_seed_changes_the_questions(self):
        one = {question(r) for r in generate("test", seed=0)}
        other = {question(r) for r in generate("test", seed=1)}
        self.assertLess(len(one & other), len(one) // 4)

    def test_the_same_problems_on_every_machine(self):
        self.assertEqual(
            [question(r) for r in generate("validation", sizes={"validation": 3})],
            GOLDEN,
        )

    def test_what_cannot_be_made_is_refused(self):
        with self.assertRaisesRegex(UserError, "no family 'adding.*add, multiply"):
            generate("train", families=("adding",))
        with self.assertRaisesRegex(UserError, "no family"):
            generate("train", families=())
        with self.assertRaisesRegex(UserError, "family 'products' has only .* choose a smaller"):
            generate("validation", families=("products",), sizes={"validation": 1000})

    def test_the_shots_are_training_operands_in_the_same_form(self):
        prefix = shots.own("arithmetic_4shot").prefix
        solved = prefix.strip().split("\n\nProblem:\n")
        self.assertLen(solved, 4)
        for shot in solved:
            asked, solution = shot.removeprefix("Problem:\n").split("\n\nSolution:\n")
            operands = tuple(int(n) for n in re.findall(r"\d+", asked))
            self.assertEqual(arithmetic.split_of(operands), "train", asked)
            ((left, right),) = _SUM.findall(solution.split("\nFinal")[0])
            self.assertEqual(eval(left.replace("\\cdot", "*")), int(right))
            self.assertEndsWith(
                solution, f"\nFinal Answer: The final answer is ${right}$. I hope it is correct."
            )
        asked = {q for split in SPLITS for q in map(question, generate(split))}
        self.assertEmpty([q for q in asked if q in prefix])


GOLDEN = [
    "Grace put 7 cookies on a shelf. Then she put 18 more there. "
    "How many cookies are on the shelf now?",
    "5 children have 11 postcards each. How many postcards do they have together?",
    "What is 28 + 19?",
]


if __name__ == "__main__":
    absltest.main()
