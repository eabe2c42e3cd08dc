"""Matching of rows of outputs to problems, and where an output is cut."""

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.evaluation import completions, matching
from restem.records import Problem, TaskCard
from restem.sampling.stopping import Stops


def ask(problem_id: str, inputs: str, answer: str | None = None) -> Problem:
    return Problem(problem_id, "test", inputs, answer)


def row(query=None, problem_id=None, outputs=("x",), target=None) -> completions.Completion:
    return completions.Completion("f, line 1", problem_id, query, tuple(outputs), "", target)


class MatcherTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        found = [
            ask("train-0007", "Q: What is 3 + 4?\nA:"),
            ask("train-0012", "Q: What is 13 + 4?\nA:"),
            ask("twin-a", "Q: Same words?\nA:"),
            ask("twin-b", "Q: Same  words?\nA:"),
        ]
        self.problems = {("t", p.problem_id): p for p in found}

    def find(self, *rows):
        matcher = matching.Matcher(self.problems, rows)
        return [key and key[1] for key in map(matcher.find, rows)]

    @parameterized.named_parameters(
        ("the id", row(problem_id="train-0012"), "train-0012"),
        ("the number in the id", row(problem_id="7"), "train-0007"),
        ("the query", row("Q: What is 3 + 4?\nA:"), "train-0007"),
        ("other white space", row(" Q:  What is 3 + 4?\n\nA: "), "train-0007"),
        ("the end of a prompt", row("Q: 1 + 1?\nA: 2\n\nQ: What is 3 + 4?\nA:"), "train-0007"),
        ("the question alone", row("What is 13 + 4?"), "train-0012"),
        ("no such id", row(problem_id="8"), None),
        ("another question", row("What is 5 + 4?"), None),
        ("a part of a question", row("is 13 + 4?"), None),
        ("the end of a longer word", row("XQ: What is 3 + 4?\nA:"), None),
    )
    def test_finds_by(self, asked, problem_id):
        self.assertEqual(self.find(row("What is 3 + 4?"), asked)[1], problem_id)

    def test_problems_of_the_same_words_take_the_rows_in_turn(self):
        twin = row("Same words?")
        self.assertEqual(self.find(twin, twin, twin), ["twin-a", "twin-b", "twin-a"])

    def test_an_id_that_several_tasks_have_is_decided_by_the_query(self):
        problems = {("a", "1"): ask("1", "Q: red?"), ("b", "1"): ask("1", "Q: blue?")}
        matcher = matching.Matcher(problems, [])
        self.assertIsNone(matcher.find(row(problem_id="1")))
        self.assertEqual(matcher.find(row("Q: blue?", "1")), ("b", "1"))

    def test_a_damaged_statement_is_what_its_neighbours_leave_open(self):
        problems = {("t", str(i)): ask(str(i), f"Q: number {i}", "(A)") for i in range(1, 5)}
        problems["t", "2"] = ask("2", "Q: num", "(A)")
        cards = {"t": TaskCard("t")}
        rows = [row(f"Q: number {i}", target="(A)") for i in range(1, 5)]
        matched = matching.match(rows, problems, cards, what="problem")
        self.assertEqual([s.problem_id for s in matched["t"]], ["1", "2", "3", "4"])
        for wrong in (
            [*rows[:1], row("Q: number 2", target="(B)"), *rows[2:]],  # another gold
            rows[:2],  # no neighbour after it
            [rows[0], rows[1], rows[3]],  # two problems lie between its neighbours
        ):
            with self.assertRaisesRegex(UserError, "1 of . rows are about no problem"):
                matching.match(wrong, problems, cards, what="problem")


class CutTest(parameterized.TestCase):
    @parameterized.parameters(
        (" True\n\nQ: next", ("\n",), (), " True"),
        ("\n\n True\nmore", ("\n",), (), "\n\n True"),
        ("It is so. I hope. And", (), ("I hope.",), "It is so. I hope."),
        ("whole", ("\n",), (), "whole"),
        ("élan\nx", ("\n",), (), "élan"),
    )
    def test_ends_where_sampling_would(self, text, stop, stop_after, expected):
        self.assertEqual(matching.cut(text, Stops.of(stop, stop_after)), expected)


if __name__ == "__main__":
    absltest.main()
