"""A run's folder has one job at a time, and a job that was killed leaves it free."""

import contextlib
import dataclasses
import io
import os
import pathlib
import subprocess
import threading
import time
from unittest import mock

import gin
from absl.testing import absltest, parameterized
from etils import epath

from restem.cli.main import main
from restem.errors import UserError
from restem.run import layout, lease
from restem.runtime import storage

VERBS = ("run", "generate", "verify", "select", "improve", "evaluate")


class LeaseTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.files = layout.Workdir(epath.Path(self.create_tempdir().full_path) / "run")
        self.addCleanup(lease.release_all)
        self.enter_context(mock.patch.multiple(lease, BEAT_S=0.02, SILENCE_S=0.3))

    def process(self) -> subprocess.Popen:
        """A process that lives until it is killed."""
        child = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def write(self, **changes) -> lease.Holder:
        holder = dataclasses.replace(lease.Holder.this_process(), **changes)
        storage.write_json(self.files.lease, dataclasses.asdict(holder))
        return holder

    def held_by(self, child: subprocess.Popen, **changes) -> lease.Holder:
        return self.write(pid=child.pid, started=lease._started(child.pid), **changes)

    def holder(self) -> lease.Holder:
        return lease._read(self.files.lease)

    def test_a_job_has_the_lease_until_it_ends(self):
        lease.hold(self.files)
        lease.hold(self.files)
        found = self.holder()
        self.assertEqual((found.pid, found.host), (os.getpid(), os.uname().nodename))
        lease.release_all()
        self.assertFalse(self.files.lease.exists())
        self.assertTrue(self.files.path.exists())

    def test_the_heart_beats(self):
        lease.hold(self.files)
        while self.holder().beat < 3:
            time.sleep(0.01)
        lease.release_all()
        time.sleep(0.1)
        self.assertFalse(self.files.lease.exists())

    @parameterized.parameters(RuntimeError("503"), OSError("stale"))
    def test_the_heart_beats_on_after_an_error(self, error):
        written = storage.write_bytes
        faults = [error]

        def write(path, data):
            if path == self.files.lease and self.beating and faults:
                raise faults.pop()
            written(path, data)

        self.beating = False
        self.enter_context(mock.patch.object(storage, "write_bytes", write))
        lease.hold(self.files)
        self.beating = True
        while self.holder().beat < 3:
            time.sleep(0.01)
        self.assertEmpty(faults)

    def test_a_folder_that_was_deleted_stays_so_and_one_missed_for_a_moment_is_kept(self):
        lease.hold(self.files)
        seen = iter([False, False])
        exists = type(self.files.path).exists
        with mock.patch.object(
            type(self.files.path), "exists", lambda path: next(seen, None) is None and exists(path)
        ):
            while self.holder().beat < 2:
                time.sleep(0.01)
        self.files.path.rmtree()
        time.sleep(0.2)  # ten heartbeats
        self.assertFalse(self.files.path.exists())

    def test_the_second_job_is_refused_and_told_of_the_first(self):
        child = self.process()
        self.held_by(child, host="rosalind")
        with self.assertRaisesRegex(UserError, rf"process {child.pid} on rosalind .* --workdir$"):
            lease.hold(self.files)
        self.assertEqual(self.holder().pid, child.pid)
        with self.subTest("killed, and not yet waited for by its parent"):
            child.kill()
            while pathlib.Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
                time.sleep(0.01)
            with mock.patch.object(lease, "SILENCE_S", 1e9):
                lease.hold(self.files)
            self.assertEqual(self.holder().pid, os.getpid())

    def test_a_process_id_that_was_given_again_is_another_process(self):
        child = self.process()
        self.write(pid=child.pid, started=lease._started(child.pid) - 1)
        with mock.patch.object(lease, "SILENCE_S", 1e9):
            lease.hold(self.files)
        self.assertEqual(self.holder().pid, os.getpid())

    @parameterized.parameters({"machine": "elsewhere"}, {"started": None})
    def test_a_silent_holder_that_cannot_be_asked_is_dead_after_a_while(self, **changes):
        self.write(host="elsewhere", **changes)
        with self.assertLogs(level="WARNING") as logs:
            lease.hold(self.files)
        self.assertIn("on elsewhere held this folder; waiting up to 0.3 s", logs.output[0])
        self.assertEqual(self.holder().machine, lease._machine())

    def test_a_holder_elsewhere_that_beats_is_alive(self):
        first = self.write(host="elsewhere", machine="elsewhere")
        ended = threading.Event()

        def beat():
            number = 0
            while not ended.wait(0.02):
                number += 1
                record = dataclasses.replace(first, beat=number)
                storage.write_json(self.files.lease, dataclasses.asdict(record))

        beating = threading.Thread(target=beat)
        beating.start()
        with self.assertRaisesRegex(UserError, "on elsewhere has been working"):
            lease.hold(self.files)
        ended.set()
        beating.join()
        self.assertEqual(self.holder().token, first.token)

    def test_a_damaged_lease_is_none(self):
        for data in (b"", b"[]", b'{"pid": 3}', b"\xff"):
            storage.write_bytes(self.files.lease, data)
            lease.hold(self.files)
            self.assertEqual(self.holder().pid, os.getpid())
            lease.release_all()

    def test_a_job_that_lost_its_lease_ends(self):
        codes, errors = [], io.StringIO()

        def leave(code):
            codes.append(code)
            raise OSError("ended")

        with mock.patch.object(os, "_exit", leave), contextlib.redirect_stderr(errors):
            lease.hold(self.files)
            while not codes:  # a beat that is under way may overwrite it
                self.write(host="elsewhere", token="other")
                time.sleep(0.01)
        lease.release_all()
        self.assertEqual(codes[0], 2)
        self.assertRegex(errors.getvalue(), "on elsewhere .* it took over because this process was")
        self.assertEqual(self.holder().token, "other")

    def test_of_many_jobs_that_start_at_once_one_gets_it(self):
        taken, refused = [], []

        def start():
            try:
                taken.append(lease.Lease(self.files))
            except UserError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLen(taken, 1)
        self.assertLen(refused, 7)
        taken[0].release()

    @parameterized.parameters(*VERBS)
    def test_every_verb_that_writes_is_refused(self, verb):
        gin.clear_config()
        self.addCleanup(gin.clear_config)
        child = self.process()
        holder = self.held_by(child)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            argv = [verb, "--gin_file=restem_demo.gin", f"--workdir={self.files.path}"]
            self.assertEqual(main(argv), 2)
        self.assertLen(errors.getvalue().splitlines(), 1)
        self.assertIn(f"process {child.pid} on {holder.host}", errors.getvalue())
        self.assertEqual([p.name for p in self.files.path.iterdir()], ["lease.json"])
        with self.subTest("its dry run writes nothing, and is not"):
            gin.clear_config()
            if verb != "verify":
                self.assertEqual(main([*argv, "--dry_run", "--quiet"]), 0)


if __name__ == "__main__":
    absltest.main()
