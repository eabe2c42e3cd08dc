"""The history of an M-step, and what is kept of a long one."""

from unittest import mock

from absl.testing import absltest

from restem.steps import history
from restem.steps.history import History


class HistoryTest(absltest.TestCase):
    def trained(self, steps):
        seen = History()
        for step in range(1, steps + 1):
            seen.add_update(step, {"loss": step / 10, "target_tokens": 3}, 0.5)
        return seen

    def test_every_loss_of_a_short_training_is_kept(self):
        seen = self.trained(5)
        self.assertEqual(seen.loss, [[i, i / 10] for i in range(1, 6)])
        self.assertEqual((seen.steps, seen.tokens, seen.training_seconds), (5, 15, 2.5))

    def test_losses_of_a_long_training_thin_out_evenly(self):
        with mock.patch.object(history, "MOST_LOSSES", 8):
            seen = self.trained(100)
            again = History.from_dict(self.trained(50).to_dict(), began=0.0)
            for step in range(51, 101):
                again.add_update(step, {"loss": step / 10, "target_tokens": 3}, 0.5)
        self.assertEqual(seen.steps, 100)
        steps = [step for step, _ in seen.loss]
        self.assertEqual(steps, list(range(1, 101, 16)))
        self.assertEqual(again.loss, seen.loss)


if __name__ == "__main__":
    absltest.main()
