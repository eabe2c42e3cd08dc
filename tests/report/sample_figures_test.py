"""Figures of one run's samples: who wrote them, and that nothing leaves its panel."""

import collections
import pathlib
import shutil
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from matplotlib.backends.backend_agg import FigureCanvasAgg

from restem.evaluation import metrics
from restem.report import plotting, sample_figures
from restem.report.report import read_samples
from restem.run.reader import StoredRun, read_run
from restem.run.sample_stats import NEVER, SampleStats
from restem.runtime import storage
from tests.helpers import synthetic_run

ROOT = pathlib.Path(tempfile.mkdtemp(prefix="restem_samples"))
SMALL = {"problems": 8, "samples": 4, "tests": 8, "n": 0, "transfer": (), "skills": (-0.8, 0.5)}


def setUpModule():
    for name in ("restem", "sft"):
        synthetic_run.write_run(ROOT / name, method=name, **SMALL)


def tearDownModule():
    shutil.rmtree(ROOT)


def mini_batches(count: int) -> dict[int, SampleStats]:
    """Counts of iterations that each sample 10 new problems and solve 6 of them."""
    easy = metrics.DIFFICULTIES[0]
    return {
        n: SampleStats(
            total=10,
            problems=10,
            difficulties=collections.Counter({NEVER: 4, easy: 6}),
            _solved=[np.arange(10 * n, 10 * n + 6, dtype=np.uint64)],
        )
        for n in range(1, count + 1)
    }


class SampleFiguresTest(parameterized.TestCase):
    def read(self, name: str, **settings) -> StoredRun:
        folder = pathlib.Path(self.create_tempdir().full_path) / name
        shutil.copytree(ROOT / name, folder)
        identity = storage.read_json(folder / "run.json") | {"settings": settings}
        storage.write_json(folder / "run.json", identity)
        return read_run(folder)

    def charts(self, run: StoredRun) -> list:
        (stats,) = read_samples([run], 0)
        return [f(run, stats, "") for f in (sample_figures.solved_problems, sample_figures.lengths)]

    @parameterized.product(count=(1, 2, 6), narrow=(False, True))
    def test_no_line_leaves_its_panel(self, count, narrow):
        run = self.read("restem")
        chart = sample_figures.solved_problems(run, mini_batches(count), "")
        self.assertEqual(
            [row[1:4] for row in chart.rows], [(10, 6, 6 * n + 6) for n in range(count)]
        )
        with plotting.style():
            figure = chart.draw(narrow)
        axis = figure.axes[0]
        _, top = axis.get_ylim()
        lines = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
        self.assertEqual(lines["sampled"], [10] * count)
        self.assertEqual(lines["ever solved"][-1], 6 * count)
        self.assertLess(max(map(max, lines.values())), top)

    @parameterized.parameters(False, True)
    def test_the_legend_stays_below_its_panel(self, narrow):
        run = self.read("restem")
        with plotting.style():
            figure = sample_figures.solved_problems(run, mini_batches(6), "").draw(narrow)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        renderer = canvas.get_renderer()
        left, right = figure.axes
        legend = left.get_legend().get_window_extent(renderer)
        panel = left.get_window_extent(renderer)
        self.assertGreaterEqual(legend.x0, panel.x0 - 1)
        self.assertLessEqual(legend.x1, panel.x1 + 1)
        self.assertLessEqual(legend.y1, left.xaxis.label.get_window_extent(renderer).y0)
        self.assertFalse(legend.overlaps(right.get_tightbbox(renderer)))

    def test_human_solutions_are_no_samples(self):
        for chart in self.charts(self.read("sft")):
            self.assertIsInstance(chart, plotting.Missing)
            self.assertIn("human solutions", chart.reason)

    def test_samples_that_are_not_compared_with_gold_are_not_called_incorrect(self):
        run = self.read("restem", **{"generate.grading": {"WithoutGold": {}}})
        solved, lengths = self.charts(run)
        self.assertEqual(solved.reason, sample_figures.BLIND)
        names = {row[1] for row in lengths.rows}
        self.assertIn("not compared with gold", names)
        self.assertNotIn("incorrect", names)

    def test_samples_are_those_of_the_teacher_if_there_is_one(self):
        for settings, who in (
            ({}, "by the policy that the iteration started from"),
            ({"Run.teacher": "hf:large"}, "by the teacher"),
        ):
            for chart in self.charts(self.read("restem", **settings)):
                self.assertIn(who, chart.caption)

    def test_unverified_samples_have_a_line_of_their_own(self):
        run = self.read("restem")
        lengths = {"correct": np.array([0, 2]), "unverified": np.array([0, 0, 3])}
        chart = sample_figures.lengths(run, {1: SampleStats(total=5, lengths=lengths)}, "")
        self.assertEqual([row[1:3] for row in chart.rows], [("correct", 2), ("unverified", 3)])
        with plotting.style():
            (legend,) = chart.draw(False).legends
        self.assertEqual([t.get_text() for t in legend.get_texts()], ["correct", "unverified"])


if __name__ == "__main__":
    absltest.main()
