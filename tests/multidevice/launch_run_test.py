"""A run on a slice of two hosts, by the commands and the script of Cloud TPU VMs.

The hosts are processes of this machine that meet over loopback. The run is preempted, then its
slice is taken away, and it ends all the same.
"""

import contextlib
import io
import os
import pathlib
import signal
import socket
import tempfile
import threading
import time

from absl.testing import absltest
from etils import epath

from launch.config import Config
from launch.jobs import Job, Resources
from launch.tpu_vm import TpuVm
from restem.plan.chips import Slice
from restem.run import layout, reader
from tests.helpers import tiny, xla
from tests.helpers.cloud import Cloud

ROOT = pathlib.Path(__file__).parents[2]


class LaunchRunTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.file = tiny.write_run(self.folder)
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        self.cloud = Cloud(self.folder / "cloud", hosts=2, port=port)
        self.enter_context(absltest.mock.patch.dict(os.environ, self.cloud.environment))

    def arguments(self, workdir: pathlib.Path) -> tuple[str, ...]:
        return (
            "run", f"--gin_file={self.file}", "--gin.em.iterations=1", f"--workdir={workdir}",
            "--gin.initialize.heartbeat_timeout_s=15",
        )  # fmt: skip

    def wait_for(self, workdir: pathlib.Path, sign: str) -> None:
        while not any(workdir.glob(sign)):
            self.assertTrue(self.thread.is_alive(), self.output.getvalue() + self.logs())
            time.sleep(0.02)

    def logs(self) -> str:
        return "\n".join(p.read_text() for p in self.cloud.folder.glob("host*/restem.log"))

    def run_slice(self, slice_: TpuVm) -> None:
        with contextlib.redirect_stdout(self.output):
            self.code = slice_.run(detach=False, keep=True, poll_s=0.2)

    def test_preempted_and_taken_away(self):
        workdir = self.folder / "run"
        where = Slice.parse("v5p:2x2x2")
        job = Job(
            "tiny-1", self.arguments(workdir), str(workdir), Resources(where.hosts, slice=where),
            {
                "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "XLA_FLAGS": xla.flags(), "PYTHONPATH": str(ROOT), "RESTEM_PAUSE_S": "0",
            },
        )  # fmt: skip
        config = Config(project="p", zone="us-east5-a")
        self.code, self.output = None, io.StringIO()
        self.thread = threading.Thread(
            target=self.run_slice, args=(TpuVm(job, config, image_name=None, models=False),)
        )
        self.thread.start()
        try:
            self.wait_for(workdir, "iteration_001/samples/*.parquet")
            os.kill(int((self.cloud.host(1) / "restem.pid").read_text()), signal.SIGTERM)
            while "they start again" not in self.output.getvalue():
                self.assertTrue(self.thread.is_alive(), self.output.getvalue() + self.logs())
                time.sleep(0.05)
            self.assertIn("restem ended with exit code 75", self.logs())
            self.wait_for(workdir, "iteration_001/selection.json")
            self.cloud.take_away()
        finally:
            self.thread.join()
        self.assertEqual(self.code, 0, self.output.getvalue() + self.logs())
        created = [call for call in self.cloud.calls() if "create" in call]
        self.assertLen(created, 2)
        self.assertTrue((workdir / "summary.json").exists())
        self.assertEqual(self.logs().count("restem ended with exit code 0"), 2)
        samples = reader.read_samples(layout.Workdir(epath.Path(workdir)).iteration(1))
        self.assertLen({(s.problem_id, s.sample_index) for s in samples}, 12 * 8)
        self.assertLen(samples, 12 * 8)


if __name__ == "__main__":
    absltest.main()
