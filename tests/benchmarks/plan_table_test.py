"""The page of plans is the one that its script writes, so that running it loses nothing."""

import pathlib
import runpy

from absl.testing import absltest

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


class PlanTableTest(absltest.TestCase):
    def test_page(self):
        page = runpy.run_path(str(FOLDER / "plan_table.py"))["page"]
        self.assertEqual(page(), (FOLDER / "plan.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    absltest.main()
