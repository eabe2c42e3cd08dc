"""Scoring of outputs without a model."""

import collections
import json
import os
import pathlib
import unittest
from unittest import mock

import gin
from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.cli.main import main
from restem.data import registry
from restem.errors import UserError
from restem.evaluation import results, scoring
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.run import layout
from restem.runtime import storage
from restem.tasks import bbh
from restem.verify import close_shared
from tests.helpers import run_files

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


class ScoreTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.tasks: dict[str, tuple[TaskCard, list[Problem]]] = {}

        def write(requests, *, modules):
            for path, request in requests.items():
                card, problems = self.tasks[request["task"]]
                run_files.write_problems(layout.Workdir(path.parent.parent), card, problems)

        # Without SeqIO, which would ask the data folder: `data_sets_test` does.
        self.enter_context(mock.patch.object(scoring, "materialize", write))

    def file(self, rows, name="outputs.jsonl") -> str:
        path = self.folder / name
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return str(path)

    def score(self, rows, *tasks, **options):
        return scoring.score(
            files=[self.file(rows)], tasks=tasks, output=str(self.folder / "scores"), **options
        )

    def test_an_edited_task_is_read_anew(self):
        row = {"task": "toy", "problem_id": "a", "output": "The answer is 4."}
        grader = {"kind": "math", "extraction": "answer_is"}
        for answer, right in (("5", 0.0), ("4", 1.0)):
            self.tasks["toy"] = (TaskCard("toy", "", grader=grader), [ask("a", "q", answer)])
            with mock.patch.object(scoring.registry, "expand", lambda names: list(names)):
                self.assertEqual(self.score([row], "toy")["toy"]["pass@1"], right)

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
        group = storage.read_json(epath.Path(self.folder / f"scores/bbh_{style}.json"))
        self.assertAlmostEqual(group["pass@1"], expected)
        self.assertLen(group["tasks"], 23)
        self.assertEqual(group["n"], 27 * 6)
        self.assertBetween(group["pass@1"], *group["ci95"])
        self.assertIn("macro average", str(list(scoring.table(reports).columns[0].cells)))

    def test_several_outputs_a_problem(self):
        self.tasks["gsm8k"] = (card_of("gsm8k"), [ask(c, f"Q: {c}?\nA:", "4") for c in "abc"])
        outputs = [" The answer is 4.", " The answer is 5.", " The answer is 4.\n\nQ: and 5?"]
        rows = [{"question": "a?", "outputs": outputs}]
        rows += [{"problem_id": "b", "text": text} for text in [" no", *outputs[1:]]]
        report = self.score(rows, "gsm8k")["gsm8k"]
        self.assertAlmostEqual(report["pass@1"], (2 / 3 + 1 / 3) / 2)
        self.assertAlmostEqual(report["pass@k"]["2"], (1 + 2 / 3) / 2)
        self.assertEqual((report["n"], report["missing"], report["num_samples"]), (2, 1, 3))
        self.assertIsNone(report["truncated"])

    def test_problems_with_different_numbers_of_outputs(self):
        """No output is discarded: 1 of 1 and 3 of 4 are right."""
        self.tasks["gsm8k"] = (card_of("gsm8k"), [ask(c, f"Q: {c}?\nA:", "4") for c in "ab"])
        right, wrong = " The answer is 4.", " The answer is 5."
        rows = [{"question": "a?", "output": right}]
        rows += [{"question": "b?", "outputs": [wrong, right, right, right]}]
        report = self.score(rows, "gsm8k")["gsm8k"]
        self.assertAlmostEqual(report["pass@1"], 0.875)
        self.assertAlmostEqual(report["average_success"], 0.875)
        self.assertEqual(report["num_samples"], 1)
        self.assertEqual(report["pass@k"], {"1": 0.875})
        self.assertAlmostEqual(report["maj@k"]["1"], 0.875)

    def test_shares_of_several_outputs_count_all_of_them(self):
        right, wrong, none = (
            Verdict(1.0, "numeric", "4", "4"), Verdict(0.0, "numeric", "5", "5"),
            Verdict(0.0, "none"),
        )  # fmt: skip
        verdicts, reasons = (wrong, right, none, none), ("stop", "length", "length", "stop")
        outputs = [
            Sample(p, i, "", (), 0.0, reasons[i], v.reward, v)
            for p in "ab"
            for i, v in enumerate(verdicts)
        ]
        report = scoring.report_of(outputs, TaskCard("t", grader={"kind": "numeric"}))
        self.assertEqual((report["n"], report["num_samples"]), (2, 4))
        self.assertEqual(report["pass@1"], 0.25)
        self.assertEqual(report["correct"], 0.25 * 2)
        self.assertEqual((report["truncated"], report["unformatted"]), (0.5, 0.5))
        self.assertEqual((report["mean_reward"], report["binary"]), (0.25, True))

    @parameterized.parameters(
        ({"kind": "program"}, Verdict(1.0, "tests", "f = 1", "f = 1"), False),
        ({"kind": "function"}, Verdict(1.0, "reward"), False),
        ({"kind": "function"}, Verdict(1.0, "reward", "4"), True),
        ({"kind": "numeric"}, Verdict(1.0, "numeric", "4", "4"), True),
    )
    def test_only_final_answers_are_votes(self, grader, verdict, voted):
        samples = [Sample("a", i, "", (), 0.0, "eos", 1.0, verdict) for i in range(3)]
        self.assertEqual("maj@k" in scoring.report_of(samples, TaskCard("t", grader=grader)), voted)
        folder = epath.Path(self.folder)
        table = records.samples_to_table(samples)
        report = results.write(
            folder / "mine", card=TaskCard("mine", grader=grader), problems=[ask("a", "a?")],
            greedy=[table.slice(0, 1)], sampled=[table.slice(1)], policy="p", timing={},
        )  # fmt: skip
        self.assertEqual("maj@k" in report, voted)
        self.assertEqual(report["pass@k"], {"1": 1.0, "2": 1.0})

    @parameterized.parameters(
        (None, {"easy": 1, "very hard": 1}),
        ({"a": 0.5, "b": 0.3}, {"medium": 1, "hard": 1}),
        ({}, None),
    )
    def test_difficulty_is_that_for_the_base_policy(self, of_base, buckets):
        rewards = {"a": 1.0, "b": 0.0}
        samples = [Sample(p, i, "", (), 0.0, "eos", rewards[p]) for p in "ab" for i in range(3)]
        table = records.samples_to_table(samples)
        report = results.write(
            epath.Path(self.folder) / "mine", card=TaskCard("mine", grader={"kind": "program"}),
            problems=[ask("a", "a?"), ask("b", "b?")], greedy=[table.take([0, 3])],
            sampled=[table.take([1, 2, 4, 5])], of_base=of_base, policy="p", timing={},
        )  # fmt: skip
        found = report.get("difficulty")
        if found is not None:
            found = {name: bucket["n"] for name, bucket in found.items() if bucket["n"]}
        self.assertEqual(found, buckets)

    def test_an_ungraded_task_gives_a_sheet(self):
        self.tasks["hungarian"] = (card_of("hungarian"), [ask("hungarian-01", "Problem:\nGive 2.")])
        report = self.score([{"problem": "Give 2.", "output": "2"}], "hungarian")["hungarian"]
        self.assertIsNone(report["pass@1"])
        self.assertIn("hungarian-01", (self.folder / "scores" / report["sheet"]).read_text())

    def test_an_ungraded_task_has_no_scores_of_samples(self):
        self.tasks["hungarian"] = (card_of("hungarian"), [ask("h", "Problem:\nGive 2.")])
        of_outputs = self.score([{"problem_id": "h", "outputs": ["2", "3"]}], "hungarian")
        ungraded = Verdict(0.0, "ungraded")
        samples = [Sample("h", i, "2", (), 0.0, "eos", 0.0, ungraded) for i in range(3)]
        table = records.samples_to_table(samples)
        of_run = results.write(
            epath.Path(self.folder) / "exam", card=TaskCard("exam", grader={"kind": "none"}),
            problems=[ask("h", "h?")], greedy=[table.slice(0, 1)], sampled=[table.slice(1)],
            policy="p", timing={},
        )  # fmt: skip
        for report in (of_outputs["hungarian"], of_run):
            self.assertEqual(report["n"], 1)
            for name in ("pass@1", "ci95", "correct", "mean_reward"):
                self.assertIsNone(report[name], name)
            for name in ("pass@k", "maj@k", "average_success", "num_samples", "difficulty"):
                self.assertNotIn(name, report)
        self.assertEqual(storage.read_table(epath.Path(self.folder / "exam.parquet")).num_rows, 3)

    def test_points_survive_the_same_command(self):
        questions = [ask(c, f"Problem:\n{c}?") for c in "ab"]
        self.tasks["hungarian"] = (card_of("hungarian"), questions)
        self.tasks["gsm8k"] = (card_of("gsm8k"), [ask("c", "Q: c?\nA:", "4")])
        rows = [{"problem_id": c, "output": f"so {c}"} for c in "ab"]
        self.score(rows, "hungarian")
        scores = self.folder / "scores"
        sheet = scores / "hungarian.sheet.csv"
        sheet.write_text(
            "task;problem_id;points;max_points;comment;problem;completion;grader\n"
            'hungarian;a;2,5;4;;"Problem:\r\na?";so a;Ana\n'
            'hungarian;b;1;4;good;"Problem:\r\nb?";so b;Ana\n'
        )
        self.assertEqual(main(["score", f"--grades={sheet}"]), 0)
        filled_in, totals = sheet.read_bytes(), (scores / "hungarian.json").read_bytes()
        self.assertEqual(json.loads(totals)["score"], 3.5 / 8)

        report = self.score(rows, "hungarian")["hungarian"]
        self.assertEqual((report["pass@1"], report["score"]), (None, 3.5 / 8))
        self.assertEqual(sheet.read_bytes(), filled_in)
        self.assertEqual((scores / "hungarian.json").read_bytes(), totals)
        self.assertIn('value="2.5"', (scores / "hungarian.sheet.html").read_text())

        others = [
            *rows[:1],
            {"problem_id": "b", "output": "no"},
            {"problem_id": "c", "output": "4"},
        ]
        before = {path.name: path.read_bytes() for path in scores.glob("*.*")}
        with self.assertRaisesRegex(UserError, r"sheet.csv: has points .* \(b\); move it"):
            self.score(others, "gsm8k", "hungarian")
        after = {path.name: path.read_bytes() for path in scores.glob("*.*")}
        self.assertEqual(after, before)

    def test_by_the_command_line(self):
        self.tasks["gsm8k"] = (card_of("gsm8k"), [ask(c, f"Q: {c}?\nA:", "4") for c in "ab"])
        file = self.file([{"question": "a?", "output": " The answer is 4."}])
        command = ["score", str(file), "--task=gsm8k"]
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
        reports = scoring.score(
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
