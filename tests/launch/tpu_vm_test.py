"""Cloud TPU VMs: every command against gcloud's flags, and the life of a slice."""

import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

from absl.testing import absltest, parameterized

from launch import image, tpu_vm
from launch.config import Config
from launch.jobs import Job, Resources
from restem.errors import UserError
from restem.plan.chips import CHIPS, GPUS, Slice
from tests.helpers import cloud
from tests.helpers.cloud import Cloud

CONFIG = Config(executor="tpu_vm", project="p", zone="us-west4-a")
AGAIN = "launch/xm_launch.py --workdir=gs://b/r"
SLICES = [f"{chip.name}:{shape}" for chip in CHIPS.values() for shape in chip.shapes]

# Stands in for the worker on a host.
WORKER = """
import fcntl, os, pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
home = pathlib.Path.home()
with (home.parent / "runs").open("a") as file:
    file.write(f"{home.name} {os.environ.get('RESTEM_DATA_DIR')} {sys.argv[1:]}\\n")
print("restem at work", flush=True)
with (home.parent / "codes").open("r+") as file:  # hosts take turns
    fcntl.flock(file, fcntl.LOCK_EX)
    code, *left = file.read().split() or ["died"]
    if code == "2":  # bad input is bad at the next start, too
        left.append(code)
    file.seek(0)
    file.truncate()
    file.write(" ".join(left))
if code == "works":  # until it is preempted or stopped
    signal.sigwait([signal.SIGTERM])
    code = "75"
if code == "taken":
    (home.parent / "states.json").write_text('["SUSPENDED"]')
elif code != "died":
    pathlib.Path(os.environ["RESTEM_EXIT_FILE"]).write_text(code)
"""


def job(name: str = "v6e:1x1") -> Job:
    where = Slice.parse(name)
    arguments = ("run", "--gin.MODEL=hf:gs://my models/x", "--workdir=gs://b/r")
    environment = {"RESTEM_DATA_DIR": "gs://b/data"}
    return Job("math-1", arguments, "gs://b/r", Resources(where.hosts, slice=where), environment,
               again=AGAIN)  # fmt: skip


def slice_of(made: Job, config: Config = CONFIG, image_name=None, models=False) -> tpu_vm.TpuVm:
    return tpu_vm.TpuVm(made, config, image_name=image_name, models=models)


class CommandsTest(parameterized.TestCase):
    @parameterized.product(name=SLICES, capacity=("on_demand", "spot", "reserved"))
    def test_gcloud_knows_every_flag(self, name, capacity):
        where = Slice.parse(name)
        config = Config(capacity=capacity, service_account="me@p").over(CONFIG)
        for image_name in (None, "us-docker.pkg.dev/p/restem/restem:1"):
            for command in slice_of(job(name), config, image_name).steps():
                cloud.parse(command[0], command[1:])
        _, places, flags = cloud.parse("gcloud", slice_of(job(name), config).create()[1:])
        self.assertEqual(places, ["math-1"])
        self.assertEqual(flags["--accelerator-type"], where.accelerator_type)
        self.assertEqual(flags["--runtime-version"], where.chip.runtime_version)
        self.assertEqual("--spot" in flags, capacity == "spot")
        self.assertEqual("--reserved" in flags, capacity == "reserved")
        self.assertEqual(flags["--service-account"], "me@p")

    def test_the_stand_in_refuses_what_gcloud_does_not_know(self):
        command = slice_of(job()).create()
        for more in ("--spots", "--spot=1", "--node-id", "--type=v9"):
            with self.assertRaises(ValueError):
                cloud.parse("gcloud", [*command[1:], more])

    def test_a_container_runs_what_the_plain_script_runs(self):
        image_name = "us-docker.pkg.dev/p/restem/restem:1"
        made = slice_of(job(), image_name=image_name)
        install, start = made.install()[-1], made.start()[-1]
        self.assertIn("sudo gcloud auth configure-docker us-docker.pkg.dev --quiet", install)
        self.assertIn(f"docker pull --quiet {image_name}", install)
        self.assertRegex(
            start,
            "docker run --rm --name=restem --privileged --net=host .*"
            f"--env=RESTEM_DATA_DIR=gs://b/data .*{image_name} run '--gin.MODEL=hf:gs://my models",
        )

    def test_small_models_are_installed_where_they_are_asked_for(self):
        self.assertIn("restem/models.txt", slice_of(job(), models=True).install()[-1])
        self.assertNotIn("restem/models.txt", slice_of(job()).install()[-1])

    def test_what_cloud_tpu_does_not_have(self):
        gpus = Job("x", (), "gs://b/r", Resources(gpu=GPUS["l4"], gpu_count=1))
        with self.assertRaisesRegex(UserError, "GPUs: --executor=vertex"):
            tpu_vm.check(gpus, CONFIG)
        with self.assertRaisesRegex(UserError, "needs --project, --zone"):
            tpu_vm.check(job(), Config(executor="tpu_vm"))


class LifeTest(parameterized.TestCase):
    """The commands run on the hosts of a stand-in for the cloud."""

    def setUp(self):
        super().setUp()
        # A detached worker may still write at the end.
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folder = pathlib.Path(self.enter_context(folder))
        checkout = self.folder / "checkout"
        (checkout / "launch").mkdir(parents=True)
        (checkout / "launch" / "worker.py").write_text(WORKER)
        (checkout / ".dockerignore").write_text(".git\n")
        archive = image.archive
        self.enter_context(
            absltest.mock.patch.object(image, "archive", lambda path: archive(path, checkout))
        )

    def make_cloud(self, hosts: int = 1) -> None:
        self.cloud = Cloud(self.folder / "cloud", hosts=hosts)
        self.enter_context(absltest.mock.patch.dict(os.environ, self.cloud.environment))

    def run_job(self, codes: str, *, name="v6e:1x1", keep=False, detach=False, models=False):
        made = job(name)
        self.make_cloud(made.resources.hosts)
        (self.cloud.folder / "codes").write_text(codes)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = slice_of(made, models=models).run(detach=detach, keep=keep, poll_s=0.1)
        return code, output.getvalue()

    def kinds(self) -> list[str]:
        """What gcloud was asked, in order, without the polls in between."""
        found = []
        for call in self.cloud.calls():
            words = {"restem-status": "status", "nohup": "start", "pip install": "install",
                     "tail": "log", "kill -TERM": "stop"}  # fmt: skip
            kind = next((k for w, k in words.items() if w in call[-1]), call[4])
            if kind != "status" and found[-1:] != [kind]:
                found.append(kind)
        return found

    def runs(self) -> list[str]:
        return (self.cloud.folder / "runs").read_text().splitlines()

    def test_create_wait_copy_start_follow_delete(self):
        code, output = self.run_job("0")
        self.assertEqual(code, 0)
        self.assertEqual(
            self.kinds(),
            ["describe", "create", "describe", "scp", "install", "start", "log", "delete"],
        )
        self.assertEqual(self.runs(), [f"host0 gs://b/data {list(job().arguments)}"])
        self.assertRegex(output, r"math-1: WAITING_FOR_RESOURCES\nmath-1: PROVISIONING\n")

    def test_all_hosts_start_and_the_code_is_that_which_explains(self):
        code, _ = self.run_job("2 76", name="v5p:2x2x2")
        self.assertEqual(code, 2)
        self.assertIn("stop", self.kinds())

    @parameterized.parameters(
        ("75 0", 1), ("76 134 0", 1), ("died 0", 1), ("taken 0", 2), ("75 taken 76 0", 2)
    )
    def test_it_starts_again_while_it_may_continue(self, codes, slices):
        code, output = self.run_job(codes)
        self.assertEqual(code, 0, output)
        self.assertLen(self.runs(), len(codes.split()))
        self.assertEqual(self.kinds().count("create"), slices)

    def test_a_worker_that_always_dies_is_no_success(self):
        with absltest.mock.patch.object(tpu_vm, "MOST_STARTS", 2):
            code, output = self.run_job("died died died")
        self.assertEqual(code, 1)
        self.assertIn("giving up: none of 2 starts finished the run", output)

    def test_a_kept_slice_stays_and_the_installer_ran(self):
        self.run_job("0", keep=True, models=True)
        self.assertNotIn("delete", self.kinds())
        installed = (self.cloud.host(0) / "installed").read_text()
        self.assertRegex(installed, r"python3 -m pip install --quiet --user uv\nuv venv .*3\.12")
        self.assertIn("--editable ./restem[gcs,seqio]", installed)
        self.assertIn("--requirement restem/models.txt", installed)

    def follow(self, *, keep=False) -> tuple[int, str]:
        """Follows the job as --action=follow does, which knows only its name."""
        made = job()
        made = Job(made.name, (), "", made.resources)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = tpu_vm.act("follow", slice_of(made), keep=keep)
        return code, output.getvalue()

    @parameterized.parameters("0", "2")
    def test_the_slice_of_a_detached_run_is_deleted_once_its_end_was_followed(self, ends):
        code, output = self.run_job(ends, detach=True)
        self.assertEqual(code, 0)
        self.assertIn("the slice stays, and is billed, until --action=follow", output)
        self.assertNotIn("delete", self.kinds())
        self.assertEqual(self.follow(keep=True)[0], int(ends))
        self.assertNotIn("delete", self.kinds())
        self.assertEqual(self.follow()[0], int(ends))
        self.assertEqual(self.kinds()[-1], "delete")

    @parameterized.parameters(("died", "hosts are lost, and the slice stays"), ("75", "are 75"))
    def test_following_by_name_starts_nothing(self, ends, message):
        """The command of the run is not known, so what is left to do is told."""
        self.run_job(ends, detach=True)
        while (
            "restem-status running"
            in subprocess.run(
                slice_of(job()).ssh(tpu_vm._STATUS), capture_output=True, text=True
            ).stdout
        ):
            time.sleep(0.05)
        code, output = self.follow()
        self.assertEqual(code, 75)
        self.assertRegex(output, f"math-1: .*{message}.*; to continue it, use the command that")
        self.assertLen(self.runs(), 1)
        self.assertNotIn("delete", self.kinds())

    def test_a_slice_that_is_lost_while_it_is_followed_by_name(self):
        self.run_job("0", detach=True)
        self.cloud.take_away()
        code, output = self.follow()
        self.assertEqual(code, 75)
        self.assertRegex(output, "math-1: the slice is lost; to continue it, use the command that")
        self.assertEqual(self.kinds().count("create"), 1)

    def test_a_refused_request_names_its_reason(self):
        cloud_ = Cloud(self.folder / "cloud")
        (cloud_.folder / "states.json").write_text('["FAILED"]')
        self.enter_context(absltest.mock.patch.dict(os.environ, cloud_.environment))
        with self.assertRaisesRegex(
            UserError, "refused the slice: no capacity in the zone; .*--resume=math-1"
        ):
            slice_of(job()).run(detach=False, keep=False)

    @contextlib.contextmanager
    def followed(self, made: Job, codes: str):
        """Runs and follows a job in the background; sets `code` and `output` at the end."""
        (self.cloud.folder / "codes").write_text(codes)
        output = io.StringIO()
        with (
            contextlib.redirect_stdout(output),
            concurrent.futures.ThreadPoolExecutor(1) as pool,
        ):
            ended = pool.submit(slice_of(made).run, detach=False, keep=False, poll_s=0.1)
            yield ended
            self.code = ended.result()
        self.output = output.getvalue()

    def wait_for_runs(self, count: int, ended: concurrent.futures.Future) -> None:
        while not (self.cloud.folder / "runs").exists() or len(self.runs()) < count:
            self.assertFalse(ended.done())
            time.sleep(0.02)

    def test_a_stopped_run_stays_stopped_until_it_is_resumed(self):
        made = job("v5p:2x2x2")
        self.make_cloud(hosts=2)
        with self.followed(made, "works works") as ended:
            self.wait_for_runs(2, ended)
            self.assertEqual(tpu_vm.act("stop", slice_of(made)), 0)
        self.assertEqual(self.code, 75)
        self.assertRegex(self.output, f"math-1: the run was stopped; .*; to continue it: {AGAIN}\n")
        self.assertNotIn("start again", self.output)
        self.assertLen(self.runs(), 2)
        self.assertNotIn("delete", self.kinds())
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(tpu_vm.act("follow", slice_of(made)), 75)
        # A preemption after it is resumed is no stop.
        with self.followed(made, "75 76 0 0"):
            pass
        self.assertEqual(self.code, 0)
        self.assertIn("start again", self.output)
        self.assertLen(self.runs(), 6)
        self.assertEqual(self.kinds().count("create"), 1)

    def test_a_run_that_is_resumed_while_it_stops_starts_again(self):
        self.make_cloud()
        with self.followed(job(), "works 0") as ended:
            self.wait_for_runs(1, ended)
            # The file of a stop whose signal has not arrived yet.
            (self.cloud.host(0) / "restem.stopped").touch()
            with contextlib.redirect_stdout(io.StringIO()):
                slice_of(job()).begin()
            os.kill(int((self.cloud.host(0) / "restem.pid").read_text()), signal.SIGTERM)
        self.assertEqual(self.code, 0)
        self.assertLen(self.runs(), 2)

    def test_the_code_of_a_run_that_ended_before_the_stop_remains(self):
        self.run_job("0", keep=True)
        self.assertEqual(tpu_vm.act("stop", slice_of(job())), 0)
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(tpu_vm.act("follow", slice_of(job())), 0)

    def test_a_deleted_slice_stays_deleted(self):
        self.make_cloud()
        with self.followed(job(), "works") as ended:
            self.wait_for_runs(1, ended)
            self.assertEqual(tpu_vm.act("delete", slice_of(job())), 0)
        self.assertEqual(self.code, 1)
        self.assertRegex(
            self.output, f"math-1: the slice was deleted by another .* to continue it: {AGAIN}\n"
        )
        self.assertEqual(self.kinds().count("create"), 1)
        self.assertEqual(self.kinds().count("delete"), 1)

    @parameterized.parameters((["WAITING_FOR_RESOURCES"],), (["PROVISIONING", "DELETING"],))
    def test_a_request_that_is_deleted_in_the_queue_stays_deleted(self, states):
        self.make_cloud()
        (self.cloud.folder / "states.json").write_text(json.dumps(states))
        with self.followed(job(), "0"):
            while len(self.kinds()) < 1:
                time.sleep(0.02)
            self.assertEqual(tpu_vm.act("delete", slice_of(job())), 0)
        self.assertEqual(self.code, 1)
        self.assertNotIn("create", self.kinds())

    def test_the_number_of_a_worker_before_a_reboot_is_another_programs(self):
        self.run_job("0", keep=True)
        home = self.cloud.host(0)
        with subprocess.Popen(["sleep", "60"]) as other:
            self.addCleanup(other.kill)
            (home / "restem.pid").write_text(f"{other.pid}\n")
            self.assertEqual(slice_of(job()).hosts(), ["0"])
            self.assertEqual(tpu_vm.act("stop", slice_of(job())), 0)
            (home / "restem.exit").unlink()
            self.assertEqual(slice_of(job()).hosts(), ["stopped"])
            # On a host with another exit code, the others are ended, and nothing else.
            (home / "restem.stopped").unlink()
            (home / "restem.exit").write_text("2\n")
            with contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(tpu_vm.act("follow", slice_of(job()), keep=True), 2)
            self.assertIsNone(other.poll())
            other.kill()

    @parameterized.parameters(
        ["python", "launch/worker.py", "run"], ["docker", "run", "--rm", "--name=restem", "x"]
    )
    def test_a_worker_is_known_by_its_command_line(self, *words):
        self.run_job("0", keep=True)
        with subprocess.Popen(["bash", "-c", "read", *words], stdin=subprocess.PIPE) as worker:
            (self.cloud.host(0) / "restem.pid").write_text(f"{worker.pid}\n")
            self.assertEqual(slice_of(job()).hosts(), ["running"])
            worker.kill()
        self.assertEqual(slice_of(job()).hosts(), ["0"])

    def test_actions(self):
        self.run_job("0", keep=True)
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(tpu_vm.act("follow", slice_of(job()), keep=True), 0)
            self.assertEqual(tpu_vm.act("status", slice_of(job())), 0)
            self.assertEqual(tpu_vm.act("delete", slice_of(job())), 0)
        self.assertEqual(self.kinds()[-2:], ["describe", "delete"])


if __name__ == "__main__":
    absltest.main()
