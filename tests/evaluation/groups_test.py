"""Groups of tasks and their macro averages."""

import numpy as np
from absl.testing import absltest

from restem.evaluation import groups, intervals, metrics
from restem.tasks import bbh


class GroupTest(absltest.TestCase):
    def test_parts_count_once_and_the_interval_keeps_its_level(self):
        rates = [0.3, 0.6, 0.9, 0.5]
        bounds = [intervals.wilson(round(100 * r), 100) for r in rates]
        mean, (low, high) = metrics.macro_average(rates, bounds, ["x", "x", "x", "y"])
        self.assertAlmostEqual(mean, (0.6 + 0.5) / 2)
        rng = np.random.default_rng(0)
        weights = np.array([1 / 6, 1 / 6, 1 / 6, 1 / 2])
        drawn = rng.binomial(100, rates, size=(20_000, 4)) / 100 @ weights
        # Wilson's interval is near the normal one here: as wide as the middle 95% of estimates.
        self.assertAlmostEqual(high - low, np.ptp(np.quantile(drawn, [0.025, 0.975])), delta=0.01)
        covered = 0
        for counts in rng.binomial(100, rates, size=(2000, 4)):
            found = [intervals.wilson(int(c), 100) for c in counts]
            _, (a, b) = metrics.macro_average(list(counts / 100), found, ["x", "x", "x", "y"])
            covered += a <= 0.55 <= b
        self.assertBetween(covered / 2000, 0.93, 0.97)

    def test_a_group_counts_once_all_of_it_is_there(self):
        rates = dict.fromkeys(bbh.FILES, 0.0)
        rates |= {"snarks": 0.46, "logical_deduction_five_objects": 0.69}  # one of three files
        reports = {
            bbh.task_name("cot", file): {"pass@1": rate, "ci95": [rate, rate + 0.1], "n": 10}
            for file, rate in rates.items()
        }
        found = groups.averages({**reports, "math": reports["bbh_cot_snarks"]})
        self.assertEqual(list(found), ["bbh_cot"])
        self.assertAlmostEqual(found["bbh_cot"]["pass@1"], (0.46 + 0.69 / 3) / 23)
        self.assertAlmostEqual(found["bbh_cot"]["tasks"]["bbh_cot_logical_deduction"], 0.23)
        self.assertLen(found["bbh_cot"]["tasks"], 23)
        self.assertEqual((found["bbh_cot"]["n"], len(found["bbh_cot"]["members"])), (270, 27))
        reports.pop("bbh_cot_snarks")
        self.assertEmpty(groups.averages(reports))

    def test_the_group_of_a_task_is_its_first(self):
        self.assertEqual(groups.group_of("bbh_cot_snarks"), "bbh_cot")
        self.assertIsNone(groups.group_of("gsm8k"))
        self.assertIsNone(groups.group_of("no such task"))
        self.assertEqual(
            groups.label("bbh_cot_date_understanding", "bbh_cot"), "Date understanding"
        )


if __name__ == "__main__":
    absltest.main()
