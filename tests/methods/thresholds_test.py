"""The thresholds of ReST rise over the Improve steps."""

from absl.testing import absltest

from restem import methods
from restem.steps.select import select
from restem.steps.settings import SelectSettings
from restem.steps.strategies import UnitWeight
from tests.helpers.solutions import A, sample


class ReSTTest(absltest.TestCase):
    def test_the_threshold_rises_over_the_improve_steps(self):
        samples = [sample("a", i, i / 10) for i in range(11)]
        keep = methods.RisingThreshold((0.0, 0.5, 0.9))
        kept = []
        for step in range(4):
            chosen = select(
                problems=[A],
                samples=samples,
                iteration=step + 1,
                seed=0,
                step=step,
                settings=SelectSettings(keep=keep, cap=None, weight=UnitWeight()),
            )
            kept.append([e.sample_index for e in chosen.examples])
        self.assertEqual(kept, [list(range(1, 11)), [6, 7, 8, 9, 10], [10], [10]])

    def test_binary_rewards_make_all_steps_the_same(self):
        # The remark of section 3 of the paper.
        samples = [sample("a", i, float(i % 2)) for i in range(6)]
        keep = methods.RisingThreshold((0.0, 0.5, 0.9))
        kept = [keep.at(step)(A, samples) for step in range(3)]
        self.assertEqual(kept[0], kept[1])
        self.assertEqual(kept[0], kept[2])

    def test_falling_thresholds_are_refused(self):
        with self.assertRaisesRegex(ValueError, "falls"):
            methods.RisingThreshold((0.5, 0.1))


if __name__ == "__main__":
    absltest.main()
