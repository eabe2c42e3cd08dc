"""What the settings of the steps imply."""

from absl.testing import absltest, parameterized

from restem.steps.settings import ImproveSettings


class ValidationTest(parameterized.TestCase):
    @parameterized.parameters(
        (4, 5, [5]), (4, 6, [4, 6]), (4, 8, [4, 8]), (4, 9, [4, 9]), (1, 3, [1, 2, 3]),
        (100, 3, [3]), (3, 3, [3]), (None, 6, [3, 6]),
    )  # fmt: skip
    def test_when(self, every, steps, validated):
        settings = ImproveSettings(validate_every=every)
        at = [i for i in range(1, steps + 1) if settings.is_validated(i, steps, i % 3 == 0)]
        self.assertEqual(at, validated)


if __name__ == "__main__":
    absltest.main()
