"""What the settings of the steps imply."""

from absl.testing import absltest, parameterized

from restem.run import identity
from restem.steps.settings import ImproveSettings, Settings


class ValidationTest(parameterized.TestCase):
    @parameterized.parameters(
        (4, 5, [5]), (4, 6, [4, 6]), (4, 8, [4, 8]), (4, 9, [4, 9]), (1, 3, [1, 2, 3]),
        (100, 3, [3]), (3, 3, [3]), (None, 6, [3, 6]),
    )  # fmt: skip
    def test_when(self, every, steps, validated):
        settings = ImproveSettings(validate_every=every)
        at = [i for i in range(1, steps + 1) if settings.is_validated(i, steps, i % 3 == 0)]
        self.assertEqual(at, validated)


class ResumeTest(parameterized.TestCase):
    @parameterized.parameters(
        {"rows_per_batch": 2}, {"micro_batch_tokens": 512}, {"remat": "full"}, {"remat": "none"}
    )
    def test_what_sets_the_memory_of_a_step_may_change(self, **changes):
        of = lambda settings: identity.settings_of(Settings(improve=settings))
        self.assertEqual(of(ImproveSettings(**changes)), of(ImproveSettings()))

    def test_a_row_length_leaves_examples_out_and_may_not(self):
        found = identity.settings_of(Settings(improve=ImproveSettings(row_length=64)))
        self.assertEqual(found["improve.row_length"], 64)


if __name__ == "__main__":
    absltest.main()
