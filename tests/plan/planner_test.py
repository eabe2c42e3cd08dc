"""Planning: the table of models, sizes that follow from a run, and tiny compilations by libtpu."""

import dataclasses
import glob
import importlib.util
import json
import math
import pathlib
import tempfile
from unittest import mock

import gin
import numpy as np
import optax
from absl.testing import absltest, parameterized

from restem import checkpoints, models
from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.models.lora import Lora
from restem.plan import lengths as lengths_lib
from restem.plan import meshes, shapes
from restem.plan import planner as plan_lib
from restem.plan.chips import Slice
from restem.plan.lengths import Lengths
from restem.plan.settings import PlanSettings
from restem.run.settings import LocalMeshSettings, MeshSettings, RunSettings, from_gin
from restem.steps.settings import GenerateSettings, ImproveSettings, Settings

GIN = pathlib.Path(__file__).parents[2] / "gin"
TINY = models.ModelConfig(
    vocab_size=256, num_layers=2, embed_dim=256, num_heads=4, num_kv_heads=2, head_dim=128,
    mlp_dim=512, tied_head=True,
)  # fmt: skip

# Parameters in billions: model cards of Gemma, Llama and Qwen; PaLM's table 1.
PUBLISHED = {
    "smollm2_135m": 0.135, "gemma3_270m": 0.268, "gemma3_1b": 1.0, "gemma3_4b": 3.88,
    "gemma3_12b": 11.8, "gemma3_27b": 27.0, "gemma2_2b": 2.61, "gemma2_9b": 9.24,
    "gemma2_27b": 27.2, "llama3_1b": 1.24, "llama3_3b": 3.21, "llama3_8b": 8.03,
    "llama3_70b": 70.6, "qwen3_0_6b": 0.6, "qwen3_1_7b": 1.7, "qwen3_4b": 4.0, "qwen3_8b": 8.2,
    "qwen3_14b": 14.8, "qwen3_32b": 32.8, "palm_8b": 8.63, "palm_62b": 62.5, "palm_540b": 540.35,
}  # fmt: skip


class ChipsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("v5e:2x4", 8, 1), ("v5e:16x16", 256, 64), ("v5p:8x8x16", 1024, 256), ("v4:2x2x1", 4, 1)
    )
    def test_slices(self, name, chips, hosts):
        where = Slice.parse(name)
        self.assertEqual((where.name, where.chips, where.hosts), (name, chips, hosts))

    @parameterized.parameters("v7:2x2", "v5e", "v5e:2", "v5e:axb")
    def test_other_names_are_refused(self, name):
        with self.assertRaisesRegex(UserError, "topology .*such as v5e:16x16"):
            Slice.parse(name)


class GinFilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)
        gin.clear_config()

    @parameterized.parameters(*PUBLISHED)
    def test_models_have_as_many_parameters_as_published(self, name):
        gin.parse_config_file(str(GIN / "models" / f"{name}.gin"))
        model = gin.query_parameter("plan.model").scoped_configurable_fn()
        self.assertLess(abs(model.num_params / 1e9 / PUBLISHED[name] - 1), 0.03)
        self.assertEqual(
            models.ModelConfig.from_dict(json.loads(json.dumps(model.to_dict()))), model
        )

    def test_every_model_is_in_the_table(self):
        files = {pathlib.Path(f).stem for f in glob.glob(str(GIN / "models" / "*.gin"))}
        self.assertEqual(files, set(PUBLISHED))

    def test_hardware_meshes_cover_their_slices(self):
        for file in sorted(glob.glob(str(GIN / "hardware" / "*.gin"))):
            with self.subTest(pathlib.Path(file).name):
                gin.clear_config()
                parse_gin([file], [])
                topology, run = from_gin(PlanSettings).topology, Settings.from_gin().run
                if topology is None:
                    continue
                where = Slice.parse(topology)
                for mesh in (run.e_step_mesh, run.m_step_mesh):
                    sizes = meshes.sizes(mesh, where.chips, where.hosts)
                    self.assertEqual(math.prod(sizes.values()), where.chips)

    @parameterized.parameters(({}, "which policy"), ({"model": TINY}, "which slice"))
    def test_what_is_missing_is_named(self, options, message):
        with self.assertRaisesRegex(UserError, f"{message}.*--gin_file"):
            plan_lib.plan(PlanSettings(**options), Settings())

    def compiler(self, files, bindings):
        gin.clear_config()
        parse_gin(files, ['plan.topology = "v5e:2x4"', *bindings])
        settings, of_run = from_gin(PlanSettings), Settings.from_gin()
        compiler = plan_lib._Compiler(
            model=TINY.replace(dtype="bfloat16"), where=Slice.parse(settings.topology),
            of_run=of_run, lengths=lengths_lib.planned(settings, of_run), on_progress=print,
            folder=pathlib.Path("unused"),
        )  # fmt: skip
        outline = {"prefill": {"128": 64, "2048": 4}, "decode_steps": 8, "slots": 128}
        self.enter_context(mock.patch.object(plan_lib, "_run", lambda job, folder: outline))
        return compiler, compiler.work(settings)

    def test_an_outline_compiles_nothing(self):
        parse_gin(["restem_math.gin", "models/gemma3_1b.gin", "hardware/v5e_8.gin"], ["MODEL='x'"])
        settings, of_run = from_gin(PlanSettings), Settings.from_gin()
        with mock.patch.object(plan_lib, "_run") as compile_:
            lines = plan_lib.outline(settings, of_run)
            self.assertEqual(compile_.call_count, 0)
        self.assertEqual(lines[1], "slice     v5e:2x4: 8 chips of 16 GiB")
        self.assertRegex("\n".join(lines), r"decode +mesh .*\ntrain +\d+ rows of \d+; mesh ")
        with self.assertRaisesRegex(UserError, "which slice"):
            plan_lib.outline(dataclasses.replace(settings, topology=None), of_run)

    def test_the_policy_of_the_run_is_planned(self):
        """`restem plan --gin.MODEL=hf:/models/x` needs no file of models/."""
        parse_gin(["restem_math.gin", "hardware/v5e_8.gin"], ['MODEL = "hf:/models/x"'])
        settings, of_run = from_gin(PlanSettings), Settings.from_gin()
        with mock.patch.object(checkpoints, "load_header") as load:
            load.return_value.config = TINY
            made = plan_lib._compiler(settings, of_run, None, None, print)
        load.assert_called_once_with("hf:/models/x")
        self.assertEqual(made.model, TINY.replace(dtype="bfloat16"))  # Run.compute_dtype
        exact = of_run.with_run(compute_dtype="float32")
        named = dataclasses.replace(settings, model=TINY.replace(num_layers=3))
        made = plan_lib._compiler(named, exact, None, None, print)
        self.assertEqual((made.model.num_layers, made.model.dtype), (3, "float32"))
        with self.assertRaisesRegex(UserError, "hf:/models/x|/models/x/config.json"):
            plan_lib.outline(settings, of_run)

    def test_a_policy_that_does_not_divide_is_told_before_it_is_compiled(self):
        parse_gin(["restem_math.gin", "models/llama3_3b.gin", "hardware/v5p_1024.gin"], [])
        settings, of_run = from_gin(PlanSettings), Settings.from_gin()
        with self.assertRaisesRegex(UserError, "heads=24 over tensor=16.* 1024 devices: ") as error:
            plan_lib.outline(settings, of_run)
        flags = str(error.exception).partition("devices: ")[2].split()
        self.assertEqual(
            flags,
            ["--gin.e_step/make_mesh.tensor=8", "--gin.m_step/make_mesh.tensor=8",
             "--gin.m_step/make_mesh.fsdp=128"],
        )  # fmt: skip
        # With these flags, it does.
        gin.parse_config([flag.removeprefix("--gin.") for flag in flags])
        self.assertIn("v5p:8x8x16", plan_lib.outline(settings, Settings.from_gin())[1])

    def test_an_optimizer_of_the_users_is_refused(self):
        @gin.configurable("lion_of_the_user")
        def lion(*, total_steps):
            return optax.lion(1e-4)

        settings = PlanSettings(model=TINY, topology="v5e:2x4")
        for name, known in (("lion_of_the_user", False), ("adafactor", True), ("adamw", True)):
            gin.clear_config()
            parse_gin(["restem_math.gin"], [f"improve.optimizer = @{name}"])
            of_run = Settings.from_gin()
            if known:
                plan_lib.outline(settings, of_run)
                continue
            with self.assertRaisesRegex(UserError, "plan: knows adamw and adafactor, not .*@lion"):
                plan_lib.outline(settings, of_run)
            plan_lib.outline(dataclasses.replace(settings, steps=("decode",)), of_run)

    def test_a_teacher_is_noted(self):
        parse_gin(["restem_math.gin", "methods/distill.gin"], ['TEACHER = "orbax:/t"'])
        settings = PlanSettings(model=TINY, topology="v5e:2x4")
        lines = plan_lib.outline(settings, Settings.from_gin())
        self.assertRegex(
            lines[-2], "^note +the E-step is planned with the policy itself, not .*teacher"
        )

    def test_validations_are_those_that_the_run_makes(self):
        def of(*bindings):
            _, work = self.compiler(["restem_math.gin"], bindings)
            return work.validations, work.validation_tokens

        self.assertEqual(of(), (8 + 1 / 3, 512))  # one per epoch, and one of the base policy
        # 8 epochs of 1,172 steps are 9,376, and step 9,000 is too close to the end.
        self.assertEqual(of("improve.validate_every = 1000")[0], 9 + 1 / 3)
        self.assertEqual(of("improve.validate_every = 600")[0], 16 + 1 / 3)
        self.assertEqual(of("improve.max_new_tokens = 300", "generate.max_new_tokens = 64")[1], 300)

    def test_a_chat_has_other_lengths(self):
        def of(*bindings):
            made, work = self.compiler(["restem_math.gin", "tasks/gsm8k.gin"], bindings)
            return made.lengths.prefix, work.max_new_tokens, work.validation_tokens

        self.assertEqual(of(), (726, 256, 256))
        self.assertEqual(of("Run.chat = True"), (0, 512, 512))
        self.assertEqual(of("Run.chat = True", "chat.max_new_tokens = 320"), (0, 320, 320))
        shots = ("Run.chat = True", 'gsm8k/chat.shots = "turns"', "gsm8k/chat.max_new_tokens = 99")
        self.assertEqual(of(*shots), (726, 99, 99))

    def test_run_settings_are_taken_from_the_run(self):
        compiler, work = self.compiler(
            ["restem_math.gin"],
            ["generate.num_samples = 5", "improve.epochs = %EPOCHS", "EPOCHS = 2",
             "improve.optimizer = @adafactor", "adafactor.learning_rate = 0.5",
             "Run.int8_weights = True", "Run.e_step_slots = 7", "improve.row_length = 4096",
             "sampling/Sampling.temperature = 0.9", "sampling/Sampling.top_k = 0",
             "generate.max_new_tokens = 300", "improve.adapter = @Lora()", "Lora.rank = 3"],
        )  # fmt: skip
        self.assertEqual((work.num_samples, work.epochs, work.iterations), (5, 2, 3))
        self.assertEqual((work.problems, work.examples), (7500, 7500 * 5))
        self.assertEqual((work.optimizer, work.is_adapter), ("adafactor", True))
        # Most questions of MATH fit 128 columns.
        self.assertLess(90, work.prefilled[128])
        self.assertLess(work.prefilled[128] * 64, 7500)
        job = compiler._sampler_job("decode", None)["sampler"]
        self.assertEqual((job["slots"], job["dtype"], job["max_new_tokens"]), (7, "float32", 300))
        self.assertTrue(compiler._sampler_job("decode", None)["model"]["int8_weights"])
        self.assertEqual(job["sampling"], {"temperature": 0.9, "top_k": 0, "top_p": 1.0})
        made, config, efficiency = shapes.m_step(
            TINY, {"data": 8, "fsdp": 1, "tensor": 1}, compiler.lengths, compiler.of_run,
            hbm=16 * 2**30,
        )  # fmt: skip
        self.assertEqual((made.row_length, made.optimizer), (4096, "adafactor"))
        self.assertEqual(made.optimizer_options, {"learning_rate": 0.5})
        self.assertEqual(made.adapter["rank"], 3)
        self.assertIn(config.remat, ("dots", "full"))
        self.assertBetween(efficiency, 0.3, 1.0)

    def test_rows_are_those_of_the_run_on_a_large_mesh(self):
        compiler, _ = self.compiler(["restem_math.gin"], [])
        made, _, efficiency = shapes.m_step(
            TINY.replace(embed_dim=4096, mlp_dim=16384), {"data": 1, "fsdp": 32, "tensor": 8},
            compiler.lengths, compiler.of_run, hbm=16 * 2**30,
        )  # fmt: skip
        self.assertEqual(made.length_parts, 32)
        self.assertGreaterEqual(efficiency, 0.8)

    def m_step(self, **improve):
        compiler, _ = self.compiler(["restem_math.gin"], [])
        settings = dataclasses.replace(compiler.of_run.improve, **improve)
        return shapes.m_step(
            TINY, {"data": 1, "fsdp": 4, "tensor": 2}, compiler.lengths,
            dataclasses.replace(compiler.of_run, improve=settings), hbm=16 * 2**30,
        )  # fmt: skip

    def test_a_step_of_more_examples_than_are_drawn(self):
        small, large = (self.m_step(batch_examples=n, rows_per_batch=16)[0] for n in (4096, 8192))
        self.assertAlmostEqual(large.micro_batches / small.micro_batches, 2, delta=0.2)
        self.assertGreater(large.most_micro_batches, large.micro_batches)

    def test_examples_that_exceed_a_row_are_left_out(self):
        made, _, efficiency = self.m_step(row_length=128)
        self.assertEqual(made.row_length, 128)
        self.assertBetween(efficiency, 0.3, 1.0)
        with self.assertRaisesRegex(UserError, "no training example fits in improve.row_length"):
            self.m_step(row_length=20)

    def test_work_follows_the_loop_and_the_selection(self):
        def of(method, *bindings):
            found = self.compiler(["restem_math.gin", f"methods/{method}.gin"], bindings)[1]
            return (found.problems, found.examples, found.iterations, found.e_steps)

        self.assertEqual(of("restem"), (7500, 75000, 3, 3))
        self.assertEqual(of("iml"), (64, 64 * 32, 100, 100))
        self.assertEqual(of("iml", "em.problems_per_iteration = 10000")[0], 7500)
        self.assertEqual(of("rest", "em.iterations = 7")[2:], (7, 3))
        self.assertEqual(of("restem", "select.max_examples = 1000")[1], 1000)
        self.assertEqual(of("restem", "select.max_examples = 90000")[1], 75000)
        self.assertEqual(of("restem", "Run.train_problems = 20000")[0], 7500)

    def test_a_mini_batch_is_typical_of_all_questions(self):
        compiler, work = self.compiler(["restem_math.gin", "methods/iml.gin"], [])
        self.assertLen(compiler._sampler_job("decode", None)["sampler"]["lengths"]["questions"], 64)
        self.assertEqual(work.prefilled, {128: 1, 2048: 3})
        asked, all_ = compiler.asked.questions, compiler.lengths.questions
        self.assertAlmostEqual(np.mean(asked) / np.mean(all_), 1, delta=0.05)
        self.assertIs(compiler.lengths.batch(7500), compiler.lengths)

    def test_a_method_that_trains_nothing_has_no_train_program(self):
        compiler, work = self.compiler(["restem_math.gin", "methods/reinforced_icl.gin"], [])
        self.assertFalse(work.has_m_step)
        self.assertNotIn("train", compiler.steps(PlanSettings()))
        settings = PlanSettings(model=TINY, topology="v5e:2x4", steps=("decode", "train"))
        lines = plan_lib.outline(settings, compiler.of_run)
        self.assertRegex(lines[-2], "^train     not planned, because em.improve")
        self.assertLen([line for line in lines if line.startswith("train")], 1)

    def test_solutions_are_as_long_as_the_run_allows(self):
        def longest(*bindings):
            compiler, work = self.compiler(["restem_math.gin"], bindings)
            return max(compiler.lengths.solutions), work.max_new_tokens, work.mean_solution

        self.assertEqual(longest()[:2], (512, 512))  # the limit of the task
        self.assertEqual(longest("generate.max_new_tokens = 64")[:2], (64, 64))
        self.assertEqual(longest("generate.max_new_tokens = 4096")[:2], (2772, 4096))
        self.assertGreater(longest("generate.max_new_tokens = 4096")[2], longest()[2])
        human = longest("generate.num_samples = 0", "generate.extend = @HumanSolutions()")
        self.assertEqual(human[:2], (2772, 512))

    def test_no_question_is_left(self):
        message = "no question of task 'math' has at most generate.max_question_tokens = 5 tokens"
        with self.assertRaisesRegex(UserError, f"{message}; the shortest has 15"):
            self.compiler(["restem_math.gin"], ["generate.max_question_tokens = 5"])

    @parameterized.parameters(
        (["methods/restem.gin"], [], 10),
        (["methods/rft.gin"], [], 100),  # no cap
        (["methods/sft.gin"], [], 1),
        (["methods/restem.gin"], ["generate.num_samples = 4"], 4),
    )
    def test_examples_per_problem_are_what_the_method_keeps_at_most(self, files, bindings, kept):
        _, work = self.compiler(files, ['Run.task = "math"', *bindings])
        self.assertEqual(work.examples, 7500 * kept)


class LocalMeshTest(absltest.TestCase):
    WHERE = Slice.parse("v5p:4x4x4")

    def compiler(self, **run):
        return plan_lib._Compiler(
            model=TINY, where=self.WHERE, of_run=Settings(run=RunSettings(**run)),
            lengths=CompileTest.LENGTHS, on_progress=print, folder=pathlib.Path("unused"),
        )  # fmt: skip

    def test_each_hosts_mesh_covers_its_own_chips(self):
        for mesh in (LocalMeshSettings(1, 1, 4), LocalMeshSettings(-1, 1, 4)):
            compiler = self.compiler(e_step_mesh=mesh, m_step_mesh=MeshSettings(1, 64))
            self.assertEqual(compiler.meshes["e_step"], {"data": 16, "fsdp": 1, "tensor": 4})
            self.assertEqual(compiler.meshes["m_step"], {"data": 1, "fsdp": 64, "tensor": 1})
        with self.assertRaisesRegex(UserError, "needs 8 devices, but there are 4"):
            meshes.sizes(LocalMeshSettings(1, 1, 8), self.WHERE.chips, self.WHERE.hosts)

    def test_each_host_has_and_schedules_slots_of_its_own(self):
        slots = {}
        for cls in (LocalMeshSettings, MeshSettings):
            compiler = self.compiler(e_step_mesh=cls(), e_step_slots=32)
            slots[cls] = compiler._sampler_job("decode", None)["sampler"]["slots"]
            self.assertEqual(compiler._sampler_job("decode", 8)["sampler"]["slots"], 8)
            with mock.patch.object(
                plan_lib, "_run", lambda job, folder: {"prefill": {"512": 4}, "decode_steps": 8}
            ):
                work = compiler.work(PlanSettings())
            self.assertEqual(work.samplers, 16 if cls is LocalMeshSettings else 1)
        self.assertEqual(slots, {LocalMeshSettings: 16 * 32, MeshSettings: 32})


@absltest.skipUnless(importlib.util.find_spec("libtpu"), "needs libtpu: pip install restem[plan]")
class CompileTest(absltest.TestCase):
    LENGTHS = Lengths(
        prefix=32, max_new_tokens=32, questions=(10,) * 60 + (300,), solutions=(8, 20, 32),
        source="a test",
    )  # fmt: skip

    def plan(
        self, run=RunSettings(), on_progress=print, improve=ImproveSettings(), *, model=TINY,
        tensor=2, **options,
    ):  # fmt: skip
        mesh = {"e_step_mesh": MeshSettings(tensor=tensor), "m_step_mesh": MeshSettings(1, 4)}
        of_run = Settings(
            run=dataclasses.replace(run, dtype="bfloat16", compute_dtype="bfloat16", **mesh),
            generate=GenerateSettings(num_samples=4),
            improve=dataclasses.replace(improve, batch_examples=4, epochs=1),
        )
        settings = PlanSettings(model=model, topology="v5e:2x2", **options)
        with tempfile.TemporaryDirectory() as cache:
            return plan_lib.plan(
                settings, of_run, lengths=self.LENGTHS, cache=pathlib.Path(cache),
                on_progress=on_progress,
            )  # fmt: skip

    def test_a_tiny_run_is_compiled_for_four_chips(self):
        seen = []
        plan = self.plan(RunSettings(e_step_slots=16), seen.append)
        self.assertTrue(plan.fits)
        self.assertEqual(
            set(plan.programs),
            {"prefix", "insert", "decode", "train"} | {f"prefill {w}" for w in plan.work.prefilled},
        )
        self.assertLen(seen, len(plan.programs))
        decode, train = plan.programs["decode"], plan.programs["train"]
        self.assertGreater(len(decode["widths"]), 1)  # one long question does not widen all
        # Heads, feed-forward and vocabulary over tensor=2 in bfloat16; float32 over fsdp=4.
        norms = TINY.embed_dim * (2 * TINY.num_layers + 1)
        self.assertEqual(decode["memory"]["parameters"], TINY.num_params - norms + 2 * norms)
        self.assertEqual(train["memory"]["parameters"], TINY.num_params)
        self.assertEqual(train["memory"]["optimizer"], 2 * TINY.num_params + 2 * 4)
        self.assertGreater(sum(decode["collective_bytes"].values()), 0)
        self.assertGreater(decode["mesh_bytes"]["tensor"], 0)
        self.assertGreater(train["mesh_bytes"]["fsdp"], 0)
        self.assertGreater(max(train["axis_bytes"]), 0)
        tokens = train["rows"] * train["shapes"]["row_length"]
        self.assertGreater(train["flops"], 6 * TINY.num_params * tokens / 4)
        self.assertIn("fits", plan.table())
        self.assertEqual(plan.validation["step"], "e_step")
        self.assertGreater(plan.validation["slots"], 0)

    def test_validation_that_does_not_fit_is_told(self):
        """Each slot would have a cache of 2^24 columns, 2 KiB each on a chip."""
        plan = self.plan(improve=ImproveSettings(max_new_tokens=2**24), steps=("train",))
        self.assertTrue(plan.programs["train"]["fits"])
        self.assertFalse(plan.fits)
        self.assertIn("validation does not fit beside the state of training: no slot", plan.table())

    def test_heads_of_questions_are_not_traded_for_chunks(self):
        """The long question has as many chunks as there are parts, each of which has a head."""
        plan = self.plan(
            RunSettings(e_step_slots=16), model=TINY.replace(num_kv_heads=4), tensor=4,
            steps=("prefill",),
        )  # fmt: skip
        self.assertEqual(set(plan.programs), {"prefill 128", "prefill 512"})
        for program in plan.programs.values():
            self.assertEqual(set(program["collective_bytes"]), {"all-reduce"})

    def test_an_adapter_to_int8_weights_is_planned(self):
        improve = ImproveSettings(adapter=Lora(rank=2, base_dtype="int8"))
        plan = self.plan(improve=improve, steps=("train",))
        memory = plan.programs["train"]["memory"]
        self.assertLess(memory["parameters"] + memory["optimizer"], 0.12 * TINY.num_params)
        # A byte for each parameter, over fsdp=4.
        self.assertBetween(memory["frozen"] / TINY.num_params, 0.25, 0.27)

    def test_int8_weights_take_half_the_memory(self):
        plan = self.plan(RunSettings(e_step_slots=16, int8_weights=True), steps=("decode",))
        self.assertTrue(plan.fits)
        # In bfloat16 over tensor=2 it is a byte a parameter; see above.
        self.assertLess(plan.programs["decode"]["memory"]["parameters"], 0.55 * TINY.num_params)

    def test_too_many_slots_do_not_fit(self):
        run = RunSettings(e_step_slots=2**20)
        plan = self.plan(run, steps=("decode",), search="never")
        self.assertFalse(plan.fits)
        self.assertIn("largest known buffer: cache", plan.table())


if __name__ == "__main__":
    absltest.main()
