"""The plans in the documents are those of `benchmarks/plan/`, and their commands can be pasted."""

import json
import pathlib
import re
import runpy
import subprocess

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


class PlanTableTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.script = runpy.run_path(str(FOLDER / "plan_table.py"))

    def test_page(self):
        self.assertEqual(self.script["page"](), (FOLDER / "plan.md").read_text(encoding="utf-8"))

    def test_a_shell_reads_the_commands_of_the_page_as_they_were_run(self):
        lines = re.findall(r"^    (restem plan .*)$", self.script["page"](), re.M)
        shown = subprocess.run(
            ["sh"], input="\n".join(f"printf '%s\\n' {line}; echo" for line in lines),
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        run = [self.script["command"](case) for case in self.script["CASES"]]
        self.assertEqual([text.split("\n") for text in shown.strip().split("\n\n")], run)


class PodsTest(absltest.TestCase):
    def test_hours_of_many_problems_are_those_of_the_plan_in_proportion(self):
        """To the digits shown."""
        plan = json.loads((FOLDER / "plan/gemma3_27b-v5p_64.json").read_text())
        text = (ROOT / "docs/pods.md").read_text()
        self.assertIn("for gemma3_27b on v5p:4x4x4", text)
        table = text.split("| problems | samples | E-step, computed |")[1].split("\n\n")[0]
        rows = [[_number(cell) for cell in row.split(" | ")] for row in table.split("\n")[2:]]
        self.assertEqual([problems for problems, *_ in rows], [7_500, 100_000, 10_000_000])
        work = plan["work"]
        for problems, samples, *hours in rows:
            self.assertEqual(samples, problems * work["num_samples"])
            for step, found in zip(("e_step", "m_step"), hours, strict=True):
                expected = plan[step]["hours"] * problems / work["problems"]
                digits = len(f"{found:g}".replace(".", "").strip("0"))
                self.assertGreater(digits, 1)
                self.assertEqual(found, float(f"{expected:.{digits}g}"), (step, problems))


def _number(cell: str) -> float:
    """Returns the number in a cell such as "1,560 h" or "3.2 million"."""
    value = float(re.search(r"[\d,.]+", cell)[0].replace(",", ""))
    return value * (1e6 if "million" in cell else 1)


if __name__ == "__main__":
    absltest.main()
