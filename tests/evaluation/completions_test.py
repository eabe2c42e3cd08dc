"""Scoring of outputs without a model: what a row is about, and that scores are the right ones."""

import collections
import json
import os
import pathlib
import unittest
from unittest import mock

import gin
from absl.testing import absltest, parameterized

from restem.cli.main import main
from restem.data import registry
from restem.errors import UserError
from restem.evaluation import completions
from restem.records import Problem, TaskCard
from restem.run import layout
from restem.runtime import storage
from restem.sampling.stopping import Stops
from restem.tasks import bbh
from restem.verify import close_shared

DATA = os.environ.get("RESTEM_DATA_DIR", "")
PUBLISHED = pathlib.Path(DATA) / "code-davinci-002-outputs"


def tearDownModule():
    close_shared()


def card_of(task: str, prefix: str = "") -> TaskCard:
    spec = registry.get(task)
    return TaskCard(
        task, prefix, spec.stop, spec.stop_after, dict(spec.grader), temperature=spec.temperature
    )


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
        matcher = completions.Matcher(self.problems, rows)
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
        matcher = completions.Matcher(problems, [])
        self.assertIsNone(matcher.find(row(problem_id="1")))
        self.assertEqual(matcher.find(row("Q: blue?", "1")), ("b", "1"))

    def test_a_damaged_statement_is_what_its_neighbours_leave_open(self):
        problems = {("t", str(i)): ask(str(i), f"Q: number {i}", "(A)") for i in range(1, 5)}
        problems["t", "2"] = ask("2", "Q: num", "(A)")
        cards = {"t": TaskCard("t")}
        rows = [row(f"Q: number {i}", target="(A)") for i in range(1, 5)]
        matched = completions.match(rows, problems, cards, what="problem")
        self.assertEqual([s.problem_id for s in matched["t"]], ["1", "2", "3", "4"])
        for wrong in (
            [*rows[:1], row("Q: number 2", target="(B)"), *rows[2:]],  # another gold
            rows[:2],  # no neighbour after it
            [rows[0], rows[1], rows[3]],  # two problems lie between its neighbours
        ):
            with self.assertRaisesRegex(UserError, "1 of . rows are about no problem"):
                completions.match(wrong, problems, cards, what="problem")


class CutTest(parameterized.TestCase):
    @parameterized.parameters(
        (" True\n\nQ: next", ("\n",), (), " True"),
        ("\n\n True\nmore", ("\n",), (), "\n\n True"),
        ("It is so. I hope. And", (), ("I hope.",), "It is so. I hope."),
        ("whole", ("\n",), (), "whole"),
        ("élan\nx", ("\n",), (), "élan"),
    )
    def test_ends_where_sampling_would(self, text, stop, stop_after, expected):
        self.assertEqual(completions.cut(text, Stops.of(stop, stop_after)), expected)


class ScoreTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.tasks: dict[str, tuple[TaskCard, list[Problem]]] = {}

        def write(requests, *, modules):
            for path, request in requests.items():
                card, problems = self.tasks[request["task"]]
                layout.Workdir(path.parent.parent).write_problems(card, problems)

        # Without SeqIO, which would ask the data folder: `data_sets_test` does.
        self.enter_context(mock.patch.object(completions, "materialize", write))

    def file(self, rows, name="outputs.jsonl") -> str:
        path = self.folder / name
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return str(path)

    def score(self, rows, *tasks, **options):
        return completions.score(
            files=[self.file(rows)], tasks=tasks, output=str(self.folder / "scores"), **options
        )

    @parameterized.parameters(*bbh.STYLES)
    def test_bbh_made_from_gold_in_known_proportion(self, style):
        """Each file has 6 problems, of which (its place modulo 7) are answered rightly."""
        right, rows = {}, []
        for place, file in enumerate(bbh.FILES):
            task = bbh.task_name(style, file)
            opening = " Let's think step by step." if style == "cot" else ""
            problems = [
                ask(f"{file}-{i:03d}", f"Q: {file} {i}?\nA:{opening}", f"({'ABCDEF'[i]})")
                for i in range(6)
            ]
            card = card_of(task, f"Describe {file}.\n\nQ: shot?\nA:{opening} (C)\n\n")
            self.tasks[task] = (card, problems)
            right[task] = place % 7
            for i, problem in enumerate(problems):
                answer = problem.answer if i < right[task] else "(Z)"
                text = f"\nThink. So the answer is {answer}." if style == "cot" else f" {answer}"
                rows.append({"input": card.prefix + problem.inputs, "prediction": text})
        reports = self.score(rows, f"bbh_{style}")
        for task, count in right.items():
            self.assertEqual(reports[task]["correct"], count, task)
            self.assertEqual((reports[task]["n"], reports[task]["missing"]), (6, 0))
        rate = {task: count / 6 for task, count in right.items()}
        of_task = collections.defaultdict(list)
        for task, files in bbh.TASKS.items():
            of_task[task] = [rate[bbh.task_name(style, file)] for file in files]
        expected = sum(sum(rates) / len(rates) for rates in of_task.values()) / 23
        group = storage.read_json(completions.epath.Path(self.folder / f"scores/bbh_{style}.json"))
        self.assertAlmostEqual(group["pass@1"], expected)
        self.assertAlmostEqual(group["pass@1"], bbh.macro_average(rate))
        self.assertLen(group["tasks"], 23)
        self.assertEqual(group["n"], 27 * 6)
        self.assertBetween(group["pass@1"], *group["ci95"])
        self.assertIn("macro average", str(list(completions.table(reports).columns[0].cells)))

    def test_several_outputs_a_problem(self):
        self.tasks["gsm8k"] = (card_of("gsm8k"), [ask(c, f"Q: {c}?\nA:", "4") for c in "abc"])
        outputs = [" The answer is 4.", " The answer is 5.", " The answer is 4.\n\nQ: and 5?"]
        rows = [{"question": "a?", "outputs": outputs}]
        rows += [{"problem_id": "b", "output": text} for text in [" no", *outputs[1:]]]
        report = self.score(rows, "gsm8k")["gsm8k"]
        self.assertAlmostEqual(report["pass@1"], (2 / 3 + 1 / 3) / 2)
        self.assertAlmostEqual(report["pass@k"]["2"], (1 + 2 / 3) / 2)
        self.assertEqual((report["n"], report["missing"], report["num_samples"]), (2, 1, 3))
        self.assertIsNone(report["truncated"])

    def test_an_ungraded_task_gives_a_sheet(self):
        self.tasks["hungarian"] = (card_of("hungarian"), [ask("hungarian-01", "Problem:\nGive 2.")])
        report = self.score([{"problem": "Give 2.", "output": "2"}], "hungarian")["hungarian"]
        self.assertIsNone(report["pass@1"])
        self.assertIn("hungarian-01", (self.folder / "scores" / report["sheet"]).read_text())

    def test_by_the_command_line(self):
        self.tasks["gsm8k"] = (card_of("gsm8k"), [ask(c, f"Q: {c}?\nA:", "4") for c in "ab"])
        file = self.file([{"question": "a?", "output": " The answer is 4."}])
        command = ["evaluate", f"--completions={file}", "--task=gsm8k"]
        self.assertEqual(main([*command, f"--output={self.folder}/out"]), 0)
        report = json.loads((self.folder / "out" / "gsm8k.json").read_text())
        self.assertEqual((report["pass@1"], report["missing"]), (1.0, 1))
        self.assertEqual(main(command), 2)  # where to?
        self.assertEqual(main([*command[:2], f"--output={self.folder}/out"]), 2)  # which task?

    @parameterized.parameters(
        ({"question": "c?", "output": "4"}, r"1 of 2 rows .* gsm8k \(.*, line 2: 'c\?'\)"),
        ({"question": "a?"}, "line 2: no output"),
        ({"question": "a?", "output": [1]}, "line 2: no output"),
        ({"output": "4"}, "line 2: does not say what was asked"),
    )
    def test_a_bad_row_is_named(self, bad, message):
        self.tasks["gsm8k"] = (card_of("gsm8k"), [ask("a", "Q: a?\nA:", "4")])
        with self.assertRaisesRegex(UserError, message):
            self.score([{"question": "a?", "output": "4"}, bad], "gsm8k")
        self.assertFalse((self.folder / "scores" / "gsm8k.json").exists())


@unittest.skipUnless(PUBLISHED.is_dir(), "RESTEM_DATA_DIR has no code-davinci-002-outputs")
class PublishedOutputsTest(parameterized.TestCase):
    """The outputs and accuracies in BIG-Bench Hard's own repository, which is no part of ours."""

    @parameterized.parameters(("cot", 73.9), ("direct", 56.6))
    def test_every_accuracy_is_the_published_one(self, style, average):
        folder = PUBLISHED / f"code-davinci-002-{style}"
        files = sorted(folder.glob("*_few_shot_template_0-255000.json"))
        self.assertLen(files, 27)
        reports = completions.score(
            files=list(map(str, files)),
            tasks=[f"bbh_{style}"],
            output=self.create_tempdir().full_path,
        )
        for file in files:
            metrics = json.loads(file.with_name(f"{file.stem}_eval_metrics.jsonl").read_text())
            name = bbh.task_name(style, file.name.partition("_few_shot")[0])
            self.assertAlmostEqual(100 * reports[name]["pass@1"], metrics["accuracy"], msg=name)
        # Suzgun et al. 2022, table 2, Codex.
        self.assertEqual(round(100 * reports[f"bbh_{style}"]["pass@1"], 1), average)


if __name__ == "__main__":
    absltest.main()
