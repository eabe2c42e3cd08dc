"""Rates and times left of a step leave out its waits."""

import io
import itertools
from unittest import mock

import rich.console
from absl.testing import absltest

from restem.runtime import progress


class RateTest(absltest.TestCase):
    def test_compilation_is_left_out(self):
        rate = progress.Rate()
        self.assertIsNone(rate.per_second)
        rate.add(1, 60.0)  # the first unit comes after a minute of compilation
        self.assertIsNone(rate.per_second)
        rate.add(2, 61.0)
        rate.add(2, 62.0)
        self.assertEqual(rate.per_second, 2.0)
        rate.pause()
        rate.add(8, 100.0)
        rate.add(2, 101.0)
        self.assertEqual(rate.per_second, 2.0)

    def test_the_last_units_are_slow(self):
        rate = progress.Rate()
        self.assertIsNone(rate.seconds_for(10))
        for second in range(101):
            rate.add(10, float(second))
        self.assertEqual(rate.seconds_for(5000), 500.0)  # more than were counted
        self.assertEqual(rate.seconds_for(50), 5.0)
        rate.add(0, 160.0)
        self.assertEqual(rate.seconds_for(10), 61.0)  # the last 10 took a second and the wait
        for second in range(170, 250, 10):
            rate.add(1, float(second))
        self.assertEqual(rate.seconds_for(2), 20.0)

    def test_units_that_come_together(self):
        """Nothing passed between the last two, so the average counts."""
        rate = progress.Rate()
        for second in (0.0, 10.0, 10.0, 10.0):
            rate.add(5, second)
        self.assertAlmostEqual(rate.seconds_for(5), 5 * 10 / 15)


class ProgressTest(absltest.TestCase):
    def lines(self, *, every: float) -> list[str]:
        """The log of 10 units, one per second after a minute, with another wait after 5."""
        ticks = itertools.count()
        now = [0.0]
        shown = []
        with (
            mock.patch.object(progress.time, "monotonic", lambda: now[0]),
            mock.patch.object(progress, "SECONDS_BETWEEN_LINES", every),
            mock.patch.object(progress.logging, "info", lambda form, *a: shown.append(form % a)),
            progress.progress("sampling", total=10, unit="samples") as bar,
        ):
            bar.wait("compiling program 1: decode")
            now[0] = 60.0
            for unit in range(10):
                if unit == 5:
                    bar.wait("compiling program 2: decode")
                    now[0] += 90.0
                now[0] += 1.0
                bar.advance(1, note=f"{next(ticks)} correct")
        return shown

    def test_lines(self):
        shown = self.lines(every=0.0)
        self.assertEqual(shown[0], "sampling: compiling program 1: decode")
        self.assertEqual(shown[1], "sampling: 1/10 samples, 0 correct")
        self.assertEqual(shown[2], "sampling: 2/10 samples, 1/s, 8 s left, 1 correct")
        self.assertEqual(shown[7], "sampling: 6/10 samples, 1/s, 4 s left, 5 correct")
        self.assertEqual(shown[-1], "sampling: 10/10 samples, 1/s, 9 correct")

    def test_few_lines_without_a_terminal(self):
        shown = [line for line in self.lines(every=15.0) if "compiling" not in line]
        self.assertEqual([line.partition(" samples")[0] for line in shown],
                         ["sampling: 1/10", "sampling: 6/10", "sampling: 10/10"])  # fmt: skip

    def test_a_bar(self):
        console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=120)
        now = [0.0]
        with (
            mock.patch.object(progress, "CONSOLE", console),
            mock.patch.object(progress, "is_quiet", lambda: False),
            mock.patch.object(progress.time, "monotonic", lambda: now[0]),
            progress.progress("training", total=100, unit="steps") as bar,
        ):
            now[0] = 300.0
            bar.advance(1)
            now[0] = 301.0
            bar.advance(1, note="loss 0.5")
        self.assertIn("0:01:38 left", console.file.getvalue())


if __name__ == "__main__":
    absltest.main()
