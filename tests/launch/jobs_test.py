"""Jobs from settings: resources, names, sweeps and exit codes."""

import datetime
import re
import shlex

from absl.testing import absltest, parameterized

from launch import jobs as jobs_lib
from launch.config import Config
from launch.jobs import Resources
from restem.errors import UserError
from restem.plan.chips import GPUS, Slice


class ResourcesTest(parameterized.TestCase):
    def test_hosts_follow_from_the_topology(self):
        found = jobs_lib.resources(Config(executor="gke", chip="v5p", topology="4x4x4"), None)
        self.assertEqual(found, Resources(16, slice=Slice.parse("v5p:4x4x4")))
        self.assertEqual(str(found), "v5p:4x4x4, 64 chips on 16 hosts")

    def test_gpus(self):
        config = Config(executor="vertex", gpu_type="a100", gpu_count=8)
        found = jobs_lib.resources(config, 2)
        self.assertEqual(found, Resources(2, gpu=GPUS["a100"], gpu_count=8))
        self.assertEqual(str(found), "8 x a100 on each of 2 hosts")

    def test_a_local_job_needs_nothing(self):
        self.assertEqual(jobs_lib.resources(Config(executor="local"), 2), Resources(2))

    @parameterized.parameters(
        ({"chip": "v5p"}, None, "go together"),
        ({"topology": "4x4"}, None, "go together"),
        ({"chip": "v7", "topology": "4x4"}, None, "--chip=v7: choose one of v4, v5e, v5p, v6e"),
        ({"chip": "v5e", "topology": "4x5"}, None, "no such slice of v5e; choose 1x1, 2x2"),
        ({"chip": "v5e", "topology": "4by5"}, None, "write CHIP:AxB"),
        ({"chip": "v5p", "topology": "4x4x4"}, 3, "has 16 hosts"),
        ({"chip": "v5p", "topology": "4x4x4", "gpu_type": "l4"}, None, "one kind"),
        ({"gpu_type": "rtx"}, None, "--gpu_type=rtx: choose one of l4, a100"),
        ({"gpu_type": "h200", "gpu_count": 4}, None, "machines with h200 have 8 GPUs"),
        ({}, None, "needs --chip and --topology, or --gpu_type"),
    )
    def test_contradictions(self, settings, hosts, message):
        with self.assertRaisesRegex(UserError, message):
            jobs_lib.resources(Config(executor="vertex", **settings), hosts)


class JobsTest(parameterized.TestCase):
    def jobs(self, **options):
        return jobs_lib.jobs(
            **{
                "name": "math-20261128",
                "workdir": "gs://bucket/run/",
                "verb": "run",
                "gin_files": ["restem_math.gin", "hardware/v5p_64.gin"],
                "bindings": ["--gin.MODEL=hf:gs://b/x"],
                "asked": Resources(16, slice=Slice.parse("v5p:4x4x4")),
                "environment": {"RESTEM_DATA_DIR": "gs://b/data"},
                **options,
            }
        )

    def test_one_job(self):
        (job,) = self.jobs()
        self.assertEqual((job.name, job.workdir), ("math-20261128", "gs://bucket/run/"))
        self.assertEqual(job.environment, {"RESTEM_DATA_DIR": "gs://b/data"})

    def test_a_sweep_is_a_job_for_each_point_in_its_own_folder(self):
        made = self.jobs(sweeps=["seed=0,1", "adamw.learning_rate=1e-6,5e-6"])
        self.assertLen({job.name for job in made}, 4)
        self.assertEqual(
            made[1].arguments,
            (
                "run",
                "--gin_file=restem_math.gin",
                "--gin_file=hardware/v5p_64.gin",
                "--gin.MODEL=hf:gs://b/x",
                "--gin.SEED=0",
                "--gin.adamw.learning_rate=5e-6",
                "--workdir=gs://bucket/run/SEED_0_adamw.learning_rate_5e-6",
            ),
        )
        self.assertEqual(made[1].point, {"SEED": "0", "adamw.learning_rate": "5e-6"})

    def test_the_command_that_continues_a_job_names_its_point(self):
        again = ["launch/xm_launch.py", "--gin_file=a b.gin", "--resume=math-20261128"]
        made = self.jobs(sweeps=["seed=0,1", "x.y=%A"], again=again)
        for job in made:
            words = shlex.split(job.again)
            self.assertEqual(words[:3], again)
            sweeps = [word.removeprefix("--sweep=") for word in words[3:]]
            (same,) = self.jobs(sweeps=sweeps, again=again)
            self.assertEqual(same, job)
        self.assertEqual(shlex.split(self.jobs(again=again)[0].again), again)

    @parameterized.parameters(
        "x.y=-1,1", "x.y=A,a", "x.y=1.5,-1.5,+1.5", "x.y=_a,a,a_", "x.y=%A,@A"
    )
    def test_values_that_names_cannot_hold_have_names_of_their_own(self, sweep):
        made = self.jobs(sweeps=[sweep])
        names = [job.name for job in made]
        self.assertLen(set(names), 1 + sweep.count(","))
        self.assertLen({job.workdir for job in made}, len(names))
        for name in names:
            self.assertEqual(jobs_lib.resource_name(name), name)
        # A point's name does not depend on the others, so that a sweep can be resumed in part.
        part = self.jobs(sweeps=[sweep.rpartition(",")[0]])
        self.assertEqual([job.name for job in part], names[:-1])

    def test_plain_values_are_readable(self):
        made = self.jobs(sweeps=["seed=0", "x.y=1e-6,0.5,abc"])
        self.assertEqual(
            [job.name for job in made],
            [f"math-20261128-seed-0-x-y-{value}" for value in ("1e-6", "0-5", "abc")],
        )

    @parameterized.parameters(
        (["seed=0,0"], "SEED_0 and SEED_0 would both be"),
        (["x.y=1.5,1-5"], "x.y_1.5 and x.y_1-5 would both be the job math-20261128-x-y-1-5"),
        (["seed"], "NAME=V1,V2"),
        (["seed=1,"], "NAME=V1,V2"),
        (["seed=1", "seed=2"], "swept twice"),
    )
    def test_bad_sweeps(self, sweeps, message):
        with self.assertRaisesRegex(UserError, message):
            self.jobs(sweeps=sweeps)

    @parameterized.parameters(
        ("restem_math-20261128-031818", "restem-math-20261128-031818"),
        ("7B", "run-7b"),
        ("__", "run"),
        ("x" * 80, None),
    )
    def test_names_that_google_cloud_takes(self, text, name):
        found = jobs_lib.resource_name(text)
        self.assertRegex(found, r"^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$")
        if name:
            self.assertEqual(found, name)
        else:
            self.assertNotEqual(found, jobs_lib.resource_name(text + "y"))

    def test_a_new_name_holds_its_date(self):
        now = datetime.datetime(2026, 11, 28, 3, 18, 18)
        self.assertEqual(jobs_lib.new_name("restem_math", now), "restem-math-20261128-031818")

    @parameterized.parameters(
        ([0, 0], 0), ([0, 76], 76), ([76, 75], 76), ([76, 2, 76], 2), ([76, 1], 1), ([1, 2], 2),
        ([134, 137], 137),
    )  # fmt: skip
    def test_the_code_of_the_host_that_explains_the_others(self, codes, expected):
        self.assertEqual(jobs_lib.worst(codes), expected)

    def test_the_command_can_be_pasted(self):
        (job,) = self.jobs(bindings=["--gin.MODEL=hf:gs://my models/x"])
        self.assertTrue(re.search(r" '--gin.MODEL=hf:gs://my models/x' ", job.command))


if __name__ == "__main__":
    absltest.main()
