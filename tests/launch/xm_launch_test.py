"""Launching: jobs from flags, dry runs, and the templates beside it."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import string
import subprocess
import sys
import tempfile

import yaml
from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.runtime.coordination import EXIT_LATE_HOST
from restem.runtime.preemption import EXIT_PREEMPTED
from tests.helpers import tiny

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = ROOT / "launch" / "xm_launch.py"

spec = importlib.util.spec_from_file_location("xm_launch", SCRIPT)
xm_launch = importlib.util.module_from_spec(spec)
sys.modules["xm_launch"] = xm_launch
spec.loader.exec_module(xm_launch)

HAS_XMANAGER = importlib.util.find_spec("xmanager") is not None


def run_script(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )


class JobsTest(parameterized.TestCase):
    def resources(self, **flags):
        defaults = dict.fromkeys(("tpu_type", "topology", "gpu_type", "hosts"))
        return xm_launch.resources(**{"executor": "local", "gpu_count": 1, **defaults, **flags})

    def jobs(self, **options):
        return xm_launch.jobs(
            **{
                "gin_files": ["restem_math.gin", "hardware/v5p_64.gin"],
                "bindings": ["--gin.MODEL=hf:/models/x"],
                "workdir": "gs://bucket/run/",
                "verb": "run",
                "executor": "vertex",
                "asked": self.resources(tpu_type="v5p", topology="4x4x4"),
                **options,
            }
        )

    def test_hosts_follow_from_the_topology(self):
        self.assertEqual(
            self.resources(tpu_type="v5p", topology="4x4x4"),
            {"hosts": "16", "tpu": "v5p:4x4x4", "chips": "64"},
        )
        self.assertEqual(self.resources(hosts=2), {"hosts": "2"})
        self.assertEqual(
            self.resources(gpu_type="a100", gpu_count=8), {"hosts": "1", "gpu": "8 x a100"}
        )

    @parameterized.parameters(
        ({"tpu_type": "v5p"}, "go together"),
        ({"tpu_type": "v5p", "topology": "4x4x4", "hosts": 3}, "has 16 hosts"),
        ({"tpu_type": "v5p", "topology": "4x4x4", "gpu_type": "a100"}, "one kind"),
        ({"executor": "vertex"}, "needs --tpu_type"),
    )
    def test_contradictions(self, flags, message):
        with self.assertRaisesRegex(UserError, message):
            self.resources(**flags)

    def test_a_sweep_is_a_job_a_point_in_its_own_folder(self):
        made = self.jobs(sweeps=["seed=0,1", "adamw.learning_rate=1e-6,5e-6"])
        self.assertLen(made, 4)
        self.assertLen({job.name for job in made}, 4)
        self.assertEqual(
            made[1].arguments,
            (
                "run",
                "--gin_file=restem_math.gin",
                "--gin_file=hardware/v5p_64.gin",
                "--gin.MODEL=hf:/models/x",
                "--gin.SEED=0",
                "--gin.adamw.learning_rate=5e-6",
                "--workdir=gs://bucket/run/SEED_0_adamw.learning_rate_5e-6",
            ),
        )
        self.assertEqual(made[0].hosts, 16)

    @parameterized.parameters(
        ({"workdir": None}, "--workdir"),
        ({"workdir": "runs/x"}, "bucket"),
        ({"gin_files": []}, "--gin_file"),
        ({"sweeps": ["seed"]}, "NAME=V1,V2"),
        ({"sweeps": ["seed=1", "seed=2"]}, "swept twice"),
    )
    def test_bad_flags(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            self.jobs(**options)


class ScriptTest(absltest.TestCase):
    def test_dry_run_prints_job_resources_and_command(self):
        done = run_script(
            "--gin_file=restem_math.gin", "--gin.MODEL=hf:/my models/x", "--workdir=gs://b/run",
            "--executor=vertex", "--tpu_type=v5e", "--topology=16x16", "--sweep=seed=0,1,2",
            "--dry_run",
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertLen(re.findall(r"^job SEED_\d \(vertex\): hosts=64, tpu=v5e:16x16", done.stdout,
                                  re.MULTILINE), 3)  # fmt: skip
        self.assertIn(
            "restem run --gin_file=restem_math.gin '--gin.MODEL=hf:/my models/x' --gin.SEED=2"
            " --workdir=gs://b/run/SEED_2",
            done.stdout,
        )

    def test_bad_flags_end_with_one_line_and_code_2(self):
        done = run_script("--gin_file=restem_math.gin", "--dry_run")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"\Axm_launch: --workdir=DIR is missing[^\n]*\n\Z")

    @absltest.skipIf(HAS_XMANAGER, "XManager is installed")
    def test_without_xmanager_it_says_what_to_do(self):
        done = run_script("--gin_file=restem_demo.gin", "--workdir=runs/x")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"launch/requirements.txt.*launch/tpu_vm.sh")

    @absltest.skipUnless(HAS_XMANAGER, "needs XManager: launch/requirements.txt")
    def test_the_local_executor_runs_the_loop(self):
        with tempfile.TemporaryDirectory() as folder:
            file = tiny.write_run(pathlib.Path(folder))
            done = run_script(
                f"--gin_file={file}", "--gin.em.iterations=1", f"--workdir={folder}/run", cwd=folder
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            summary = json.loads((pathlib.Path(folder) / "run" / "summary.json").read_text())
            self.assertLen(summary["iterations"], 2)


class TpuVmTest(parameterized.TestCase):
    def run_vm(self, *arguments, **environment):
        return subprocess.run(
            [str(ROOT / "launch" / "tpu_vm.sh"), *arguments],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "NAME": "math", "ZONE": "z", **environment},
        )

    def test_dry_run_prints_every_command_and_runs_none(self):
        done = self.run_vm(
            "all", "--dry_run", "--gin_file=restem_math.gin", "--workdir=gs://b/r", SPOT="1",
            TYPE="v5p-128",
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertRegex(lines[0], r"tpu-vm create math --zone=z --accelerator-type=v5p-128 .*spot")
        self.assertLen([x for x in lines if "--worker=all" in x], 3)
        self.assertRegex(lines[-1], r"restem\\ run\\ --gin_file=restem_math.gin")

    @parameterized.parameters(("delete", "tpu-vm delete math"), ("logs", "tail"), ("stop", "TERM"))
    def test_other_verbs(self, verb, expected):
        done = self.run_vm(verb, "--dry_run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(expected, done.stdout)

    @parameterized.parameters((("fly",), "unknown verb"), (("run", "--dry_run"), "give restem's"))
    def test_bad_use(self, arguments, message):
        done = self.run_vm(*arguments)
        self.assertEqual(done.returncode, 2)
        self.assertIn(message, done.stderr)

    @absltest.skipUnless(shutil.which("shellcheck"), "needs shellcheck")
    def test_shellcheck(self):
        done = subprocess.run(
            ["shellcheck", str(ROOT / "launch" / "tpu_vm.sh")], capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 0, done.stdout)


class GkeTest(absltest.TestCase):
    def test_the_filled_in_template_is_a_job_that_restarts_what_may_be_restarted(self):
        text = (ROOT / "launch" / "gke.yaml").read_text()
        names = set(re.findall(r"\$\{(\w+)\}", text))
        values = {name: "4" if name in ("HOSTS", "CHIPS_PER_HOST") else "x" for name in names}
        service, job = yaml.safe_load_all(string.Template(text).substitute(values))
        exported = set(re.findall(r"(\w+)=", text.split("envsubst")[0]))
        self.assertEqual(names, exported)
        pod = job["spec"]["template"]["spec"]
        self.assertEqual(service["metadata"]["name"], pod["subdomain"])
        self.assertEqual(
            (job["spec"]["completions"], job["spec"]["completionMode"]), (4, "Indexed")
        )
        ignored = job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
        aborted = 128 + signal.SIGABRT
        self.assertEqual(ignored, [EXIT_PREEMPTED, EXIT_LATE_HOST, aborted])
        self.assertIn("--gin_file=hardware/x.gin", pod["containers"][0]["args"])


if __name__ == "__main__":
    absltest.main()
