"""The report and the summary of a folder, read after every file that a run writes to it."""

from unittest import mock

from absl.testing import absltest
from etils import epath

from restem.report import browser, paper_figures, run_figures
from restem.report.headline import headline
from restem.report.report import read_runs, read_samples, report
from restem.run import summary
from restem.runtime import storage
from tests.helpers import synthetic_run


class LiveTest(absltest.TestCase):
    def test_a_run_can_be_read_whenever_it_writes(self):
        path = epath.Path(self.create_tempdir().full_path)
        states = []
        write = storage.write_bytes

        def read():
            if not (path / "run.json").exists():
                return
            (run,) = runs = read_runs([str(path)], None)
            stats = read_samples(runs, 5)
            headline(runs)
            charts = [*paper_figures.charts(runs), *run_figures.charts(run, stats[0])]
            embedded = browser.embed(runs, stats, limit=20, characters=100)
            found = summary.summarize(run)
            samples = sum(s.total for s in stats[0].values())
            states.append((samples, len(charts), embedded.total, len(found["iterations"])))

        def write_and_read(target, data):
            # Both while a file has its temporary name and once it is there.
            target.parent.mkdir(parents=True, exist_ok=True)
            half = target.parent / f".{target.name}.0123.tmp"
            half.write_bytes(data[: len(data) // 2])
            read()
            half.unlink()
            write(target, data)
            read()

        with mock.patch.object(storage, "write_bytes", write_and_read):
            synthetic_run.write_run(
                path, problems=6, samples=3, tests=8, n=2, transfer=(), skills=(-0.5, 0.5)
            )
        self.assertGreater(len(states), 20)
        self.assertEqual({samples for samples, *_ in states}, {0, 9, 18})
        self.assertEqual(states[-1][3], 2)
        self.assertEqual(states, sorted(states))  # nothing that was seen is gone later
        self.assertTrue(epath.Path(report(workdirs=[str(path)])).exists())


if __name__ == "__main__":
    absltest.main()
