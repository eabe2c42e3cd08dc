"""Trackers: what is logged, that a resume repeats nothing, and each backend without a network."""

import errno
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import unittest
from unittest import mock

from absl.testing import absltest
from etils import epath

from restem import records
from restem.errors import UserError
from restem.run import trackers
from restem.run.layout import Workdir
from restem.run.run import Run
from restem.run.settings import RunSettings
from restem.runtime import storage


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class TrackersTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.files = Workdir(pathlib.Path(self.create_tempdir().full_path) / "run")
        self.addCleanup(trackers.stop)

    def lines(self) -> list[dict]:
        text = (self.files.path / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def test_lines_are_readable_at_once(self):
        trackers.start(self.files, ())
        trackers.log(1, {"loss": 0.5, "nothing": None})
        (line,) = self.lines()
        self.assertEqual({k: line[k] for k in line if k != "time"}, {"step": 1, "loss": 0.5})
        trackers.stop()
        trackers.log(2, {"loss": 0.4})  # no run: goes nowhere
        self.assertLen(self.lines(), 1)

    def test_a_resume_repeats_no_point(self):
        trackers.start(self.files, ())
        for step in (1, 2, 3):
            trackers.log(step, {"loss": 1 / step})
        with (self.files.path / "metrics.jsonl").open("a") as f:
            f.write('{"step": 4, "lo')  # killed while it wrote
        trackers.start(self.files, ())
        for step in (2, 3, 4):
            trackers.log(step, {"loss": 1 / step, "other": 0.0})
        trackers.stop()
        last = trackers.jsonl.JsonLines(self.files)
        self.addCleanup(last.close)
        self.assertEqual(last.last_steps(), {"loss": 4, "other": 4})
        text = (self.files.path / "metrics.jsonl").read_text()
        self.assertEqual(text.count('"loss"'), 4)
        self.assertEqual(text.count('"other"'), 3)

    def test_numbers_that_json_lacks_are_null(self):
        trackers.start(self.files, ())
        trackers.log(1, {"loss": float("nan"), "norm": float("inf"), "rate": 0.5})
        trackers.stop()
        refuse = mock.Mock(side_effect=AssertionError)
        text = (self.files.path / "metrics.jsonl").read_text()
        line = json.loads(text, parse_constant=refuse)
        self.assertEqual((line["loss"], line["norm"], line["rate"]), (None, None, 0.5))
        trackers.start(self.files, ())
        trackers.log(1, {"loss": 2.0})  # logged already
        self.assertLen(self.lines(), 1)

    def opened(self, name: str, folder) -> mock.Mock:
        """Logs to a stand-in for a service; returns it."""
        service = mock.MagicMock()
        for module in ("wandb", "mlflow"):
            sys.modules.pop(f"restem.run.trackers.{module}", None)
            self.addCleanup(sys.modules.pop, f"restem.run.trackers.{module}", None)
        service.search_runs.return_value = []
        with mock.patch.dict("sys.modules", {name: service}):
            trackers.start(Workdir(folder), [name])
            trackers.log(1, {"loss": 0.5})
            trackers.stop()
        return service

    def wandb_id(self, folder) -> str:
        return self.opened("wandb", folder).init.call_args.kwargs["id"]

    def test_runs_of_equal_relative_paths_have_ids_of_their_own(self):
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        found = []
        for _ in range(2):  # as on two machines
            os.chdir(self.create_tempdir().full_path)
            found.append(self.wandb_id("runs/math"))
            self.assertEqual(self.wandb_id(os.path.abspath("runs/math")), found[-1])
        self.assertNotEqual(*found)

    def test_runs_of_earlier_versions_keep_their_ids(self):
        folder = self.files.path
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"step": 1, "time": 0, "loss": 0.5}\n')
        old = f"restem-{records.stable_key(str(folder)):08x}"
        self.assertEqual(self.wandb_id(folder), old)
        self.assertEqual(storage.read_json(self.files.tracker_id), {"id": old})

    def test_an_id_is_made_before_a_service_is_named(self):
        """Or the run would pass for one of an earlier version once it names one."""
        trackers.start(self.files, ())
        trackers.log(1, {"loss": 0.5})
        trackers.stop()
        made = storage.read_json(self.files.tracker_id)["id"]
        self.assertNotEqual(made, f"restem-{records.stable_key(str(self.files.path)):08x}")
        self.assertEqual(self.wandb_id(self.files.path), made)

    def test_mlflow_finds_a_run_by_its_id(self):
        folder = self.files.path
        first = self.opened("mlflow", folder).start_run.call_args.kwargs
        made = storage.read_json(self.files.tracker_id)["id"]
        self.assertIsNone(first["run_id"])
        self.assertEqual(first["tags"], {"workdir": str(folder), "restem_id": made})
        service = self.opened("mlflow", folder)
        queries = [c.kwargs["filter_string"] for c in service.search_runs.mock_calls]
        self.assertEqual(queries, [f"tags.restem_id = '{made}'"])

    def test_mlflow_finds_a_run_of_an_earlier_version_by_its_folder(self):
        folder = self.files.path
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"step": 1, "time": 0, "loss": 0.5}\n')
        service = self.opened("mlflow", folder)
        queries = [c.kwargs["filter_string"] for c in service.search_runs.mock_calls]
        self.assertEqual(queries[1:], [f"tags.workdir = '{folder}'"])

    def test_tensorboard_of_a_bucket_is_copied(self):
        target = epath.Path(self.create_tempdir().full_path)
        bucket = mock.Mock(path=_Bucket(target))
        tracker = trackers.Trackers(bucket, ["tensorboard"])
        tracker.log(1, {"evaluate/math/pass@1": 0.25})
        tracker.close()
        (events,) = (target / "tensorboard").glob("events*")
        self.assertIn(b"evaluate/math/pass", events.read_bytes())
        self.assertIn("pass@1", (target / "metrics.jsonl").read_text())

    @unittest.skipUnless(has("torch"), "PyTorch is not installed")
    def test_tensorboard_does_not_load_pytorch(self):
        code = "import sys, restem.run.trackers.tensorboard as t; print('torch' in sys.modules)"
        found = subprocess.check_output([sys.executable, "-c", code], text=True)
        self.assertEqual(found, "False\n")

    def test_a_missing_package_is_named(self):
        with mock.patch.dict("sys.modules", {"wandb": None}):
            sys.modules.pop("restem.run.trackers.wandb", None)
            with self.assertRaisesRegex(UserError, r"restem\[wandb\]"):
                trackers.start(self.files, ["wandb"])

    def test_a_missing_package_is_named_before_a_folder_is_claimed(self):
        with (
            mock.patch.dict("sys.modules", {"mlflow": None}),
            self.assertRaisesRegex(UserError, r"restem\[mlflow\]"),
        ):
            Run(str(self.files.path), RunSettings(base="b", task="t", trackers=("mlflow",)))

    def test_a_service_that_cannot_be_opened_is_an_error_in_one_line(self):
        service = mock.MagicMock()
        service.init.side_effect = RuntimeError("api_key not configured (no-tty)")
        sys.modules.pop("restem.run.trackers.wandb", None)
        self.addCleanup(sys.modules.pop, "restem.run.trackers.wandb", None)
        with (
            mock.patch.dict("sys.modules", {"wandb": service}),
            self.assertRaisesRegex(UserError, "'wandb' cannot be opened .*api_key.*WANDB_MODE"),
        ):
            trackers.start(self.files, ["wandb"])

    def test_a_service_that_fails_later_does_not_end_the_run(self):
        service = mock.MagicMock()
        service.search_runs.return_value = []
        service.log_metrics.side_effect = RuntimeError("502 Bad Gateway")
        service.end_run.side_effect = RuntimeError("502 Bad Gateway")
        sys.modules.pop("restem.run.trackers.mlflow", None)
        self.addCleanup(sys.modules.pop, "restem.run.trackers.mlflow", None)
        with mock.patch.dict("sys.modules", {"mlflow": service}), self.assertLogs() as logs:
            trackers.start(self.files, ["mlflow"])
            for step in (1, 2, 3):
                trackers.log(step, {"loss": 1.0})
            trackers.stop()
        self.assertLen([line for line in logs.output if "502 Bad Gateway" in line], 1)
        self.assertEqual(service.log_metrics.call_count, 1)
        self.assertLen(self.lines(), 3)

    def test_a_full_disk_ends_tensorboard_and_not_the_run(self):
        trackers.start(self.files, ["tensorboard"])
        fault = OSError(errno.ENOSPC, "No space left on device")
        writer = trackers.tensorboard.event_file_writer.EventsWriter
        with (
            mock.patch.object(writer, "write_event", side_effect=fault),
            self.assertLogs(level="WARNING") as logs,
        ):
            for step in range(1, 30):  # more than tensorboardX's own queue holds
                trackers.log(step, {"loss": 1.0})
            trackers.stop()
        self.assertIn("tensorboard gets no more scalars", logs.output[0])
        self.assertLen(self.lines(), 29)

    @unittest.skipUnless(has("wandb"), "restem[wandb] is not installed")
    def test_wandb_offline(self):
        with mock.patch.dict(os.environ, {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}):
            trackers.start(self.files, ["wandb"])
            trackers.log(1, {"loss": 0.5})
            trackers.stop()
        (data,) = self.files.path.glob("wandb/offline-run-*/*.wandb")
        self.assertIn(b"loss", data.read_bytes())

    @unittest.skipUnless(has("mlflow"), "restem[mlflow] is not installed")
    def test_mlflow_in_files(self):
        folder = pathlib.Path(self.create_tempdir().full_path)
        self.enter_context(mock.patch.dict(os.environ, {"MLFLOW_ALLOW_FILE_STORE": "true"}))
        import mlflow

        mlflow.set_tracking_uri((folder / "mlruns").as_uri())
        self.addCleanup(mlflow.set_tracking_uri, None)
        for step in (1, 2):  # the second is a resume
            trackers.start(self.files, ["mlflow"])
            trackers.log(step, {"evaluate/math/pass@1": step / 4})
            trackers.stop()
        (metrics,) = folder.rglob("pass_at_1")
        self.assertEqual([line.split()[1:] for line in metrics.read_text().splitlines()],
                         [["0.25", "1"], ["0.5", "2"]])  # fmt: skip


class _Bucket:
    """A local folder whose name is that of a bucket."""

    def __init__(self, path: epath.Path):
        self._path = path

    def __str__(self) -> str:
        return f"gs://{self._path}"

    def __truediv__(self, name: str):
        inner = self._path / name
        return inner if "." in name or "/" in name else _Bucket(inner)

    def exists(self) -> bool:
        return self._path.exists()


if __name__ == "__main__":
    absltest.main()
