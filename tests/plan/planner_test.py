"""Planning: costs counted by hand, the table of models, and one tiny compilation by libtpu."""

import dataclasses
import glob
import importlib.util
import json
import math
import pathlib
import tempfile
from unittest import mock

import gin
import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from restem import models
from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.plan import costs, worker
from restem.plan import planner as plan_lib
from restem.plan import result as report
from restem.plan.chips import CHIPS, Slice
from restem.plan.settings import PlanSettings
from restem.run.settings import MeshSettings, RunSettings, from_gin
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

HLO = """
HloModule jit_step

%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} constant(30)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%cond_dynamic (p: (s32[], s32[])) -> pred[] {
  %p.1 = (s32[], s32[]) parameter(0)
  ROOT %lt.1 = pred[] compare(%a, %b), direction=LT
}

%fused (x: bf16[4,8]) -> bf16[16,8] {
  ROOT %ag = bf16[16,8]{1,0} all-gather(%x), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f = bf16[16,8]{1,0} fusion(%y), kind=kCustom, calls=%fused
  %again = bf16[16,8]{1,0} all-gather(%x), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
}

%body_dynamic (p: (s32[], s32[])) -> (s32[], s32[]) {
  %cp = f32[100]{0} collective-permute(%z), channel_id=5, source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%body
  %v = (s32[], s32[]) while(%u), condition=%cond_dynamic, body=%body_dynamic
  %ar = f32[10]{0} all-reduce(%a), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}
  ROOT %rs = f32[5]{0} reduce-scatter(%ar), channel_id=2, replica_groups={{0,1},{2,3}}
}
"""


class CostsTest(parameterized.TestCase):
    def test_flops_follow_loops(self):
        weights = jnp.zeros((7, 4, 4))

        def layers(x):
            return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

        def function(x, n):
            x = jax.lax.fori_loop(0, n, lambda i, x: jax.checkpoint(layers)(x), x)
            return x @ jnp.ones((4, 2))

        jaxpr = jax.make_jaxpr(function)(jnp.zeros((3, 4)), 5).jaxpr
        layer, last = 2 * 3 * 4 * 4, 2 * 3 * 4 * 2
        self.assertEqual(costs.flops(jaxpr, (5,)), 5 * 7 * layer + last)
        self.assertEqual(costs.flops(jaxpr), 7 * layer + last)

    def test_flops_of_a_decoder_are_two_a_parameter_and_token(self):
        tokens = jnp.zeros((4, 8), jnp.int32)

        def function(params):
            out = models.forward(params, TINY, tokens, tokens)
            return models.logits(params, TINY, out.hidden)

        jaxpr = jax.make_jaxpr(function)(models.param_shapes(TINY)).jaxpr
        attention = 2 * 2 * 4 * 8 * 8 * TINY.num_heads * TINY.head_dim * TINY.num_layers
        norms = TINY.embed_dim * (2 * TINY.num_layers + 1)
        expected = 2 * 4 * 8 * (TINY.num_params - norms) + attention
        self.assertEqual(costs.flops(jaxpr), expected)

    def test_collectives_count_loops_and_each_channel_once(self):
        self.assertEqual(
            costs.collective_bytes(HLO, (6,)),
            {
                "all-gather": 30 * 0.75 * 16 * 8 * 2,
                "collective-permute": 6 * 100 * 4,
                "all-reduce": 2 * 0.75 * 10 * 4,
                "reduce-scatter": 0.5 * 2 * 5 * 4,
            },
        )

    def test_the_largest_temporaries_are_named(self):
        header = "  cumulative_size;  size;  offset; used_by_n_values; shapes_list\n  ------\n"
        report = (
            "Memory Space: default (color=0)\nTotal bytes: 9 (9.00GiB)\n"
            f"{header}    5.00GiB(100%);    5.00GiB;   0;   1; bf16[62,5376,5376]\n\n"
            f"{header}    3.00GiB( 75%);    3.00GiB;   0;   2; 2×f32[1024,1024]\n"
            "    4.00GiB(100%);    1.00GiB;   3;   1; s32[7]\n"
        )
        self.assertEqual(
            worker.largest_buffers(report), ["3.00GiB 2×f32[1024,1024]", "1.00GiB s32[7]"]
        )
        self.assertEqual(worker.largest_buffers(""), [])

    def test_roofline_names_its_bound(self):
        line = costs.Roofline.of(CHIPS["v5e"], flops=197e12, hbm=819e9 * 2, sent=100e9 * 0.5)
        self.assertEqual((line.compute, line.memory, line.interconnect), (1.0, 2.0, 0.5))
        self.assertEqual((line.seconds, line.bound), (2.0, "memory"))

    def test_decode_reads_weights_and_cache_at_every_step(self):
        kinds = {"parameters": 100, "cache": 10, "prefix": 1}
        self.assertEqual(costs.hbm_bytes("decode", kinds, fsdp=1, rounds=8), 8 * 111)
        self.assertEqual(costs.hbm_bytes("decode", kinds, fsdp=4, rounds=1), 911)


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
                    sizes = plan_lib._sizes(where, mesh)
                    self.assertEqual(math.prod(sizes.values()), where.chips)

    @parameterized.parameters(({}, "which policy"), ({"model": TINY}, "which slice"))
    def test_what_is_missing_is_named(self, options, message):
        with self.assertRaisesRegex(UserError, f"{message}.*--gin_file"):
            plan_lib.plan(PlanSettings(**options), Settings())

    def sizes(self, files, bindings):
        gin.clear_config()
        parse_gin(files, bindings)
        meshes = {s: {"data": 2, "fsdp": 1, "tensor": 1} for s in ("e_step", "m_step")}
        return plan_lib._Sizes.of(from_gin(PlanSettings), Settings.from_gin(), meshes)

    def test_an_outline_compiles_nothing(self):
        parse_gin(["restem_math.gin", "models/gemma3_1b.gin", "hardware/v5e_8.gin"], ["MODEL='x'"])
        settings, of_run = from_gin(PlanSettings), Settings.from_gin()
        with mock.patch.object(plan_lib, "_compile") as compile_:
            lines = plan_lib.outline(settings, of_run)
            self.assertEqual(compile_.call_count, 0)
        self.assertEqual(lines[1], "slice     v5e:2x4: 8 chips of 16 GiB")
        self.assertRegex("\n".join(lines), r"decode +\d+ slots; mesh .*\ntrain +\d+ rows; mesh ")
        with self.assertRaisesRegex(UserError, "which slice"):
            plan_lib.outline(dataclasses.replace(settings, topology=None), of_run)

    def test_run_settings_are_taken_from_the_run(self):
        sizes = self.sizes(
            ["restem_math.gin"],
            ["generate.num_samples = 5", "improve.epochs = %EPOCHS", "EPOCHS = 2",
             "improve.optimizer = @adafactor", "adafactor.learning_rate = 0.5",
             "Run.int8_weights = True", "Run.e_step_slots = 7", "improve.row_length = 640",
             "sampling/Sampling.temperature = 0.9", "sampling/Sampling.top_k = 0"],
        )  # fmt: skip
        shapes, work = sizes.shapes, sizes.work
        self.assertEqual((work["num_samples"], work["epochs"], work["iterations"]), (5, 2, 3))
        self.assertEqual(work["examples"], 7500 * 5)
        self.assertEqual((shapes.slots, shapes.row_length, shapes.sampler_dtype), (8, 640, "int8"))
        self.assertEqual(shapes.optimizer, "adafactor")
        self.assertEqual(shapes.optimizer_options, {"learning_rate": 0.5})
        self.assertEqual(shapes.sampling, {"temperature": 0.9, "top_k": 0, "top_p": 1.0})

    @parameterized.parameters(
        (["methods/restem.gin"], [], 10),
        (["methods/rft.gin"], [], 100),  # no cap
        (["methods/sft.gin"], [], 1),
        (["methods/restem.gin"], ["generate.num_samples = 4"], 4),
    )
    def test_examples_per_problem_are_what_the_method_keeps_at_most(self, files, bindings, kept):
        self.assertEqual(self.sizes(files, bindings).work["examples"], 7500 * kept)


class SearchTest(parameterized.TestCase):
    def compiled(self, limit, per=10):
        sizes = []

        def run(size):
            sizes.append(size)
            memory = {"parameters": 1000, "cache": size * per}
            return {"fits": size <= limit, "memory": memory, "slots": size}

        return run, sizes

    @parameterized.parameters((64, 1000), (8, 512))
    def test_finds_the_largest_that_fits(self, unit, start):
        run, sizes = self.compiled(limit=300)
        best = plan_lib._largest(run, run(start), start, unit, hbm=1000 + 300 * 10)
        self.assertEqual(best["slots"], 300 // unit * unit)
        self.assertLessEqual(len(sizes), 6)

    def test_none_fits(self):
        run, _ = self.compiled(limit=0)
        self.assertIsNone(plan_lib._largest(run, run(64), 64, 8, hbm=100))


class ReportTest(absltest.TestCase):
    def plan(self):
        fine = {
            "fits": True, "seconds": 0.1, "slots": 100, "rows": 8, "flops": 1e12, "hbm_bytes": 1e9,
            "collective_bytes": {}, "compute_seconds": 0.1, "memory_seconds": 0.0,
            "interconnect_seconds": 0.0, "bound": "compute", "memory": {"parameters": 2**30},
        }  # fmt: skip
        bad = {
            "fits": False, "slots": 200, "rows": 8,
            "memory": {"parameters": 2**30, "cache": 2**34},
            "error": "RESOURCE_EXHAUSTED: Ran out of memory on HBM, 17G exceeds HLO module: x",
        }  # fmt: skip
        return report.Plan.of(
            where=Slice.parse("v5e:2x4"),
            model=TINY,
            meshes={s: {"data": 8, "fsdp": 1, "tensor": 1} for s in ("e_step", "m_step")},
            results={
                "prefill": fine, "decode": bad, "decode, largest that fits": fine, "train": fine,
            },
            largest={"slots": 100},
            work={
                "problems": 10, "num_samples": 4, "mean_new_tokens": 50, "slot_use": 0.5,
                "prefill_questions": 4, "decode_steps": 2, "examples": 20, "epochs": 3,
                "batch_examples": 8, "example_tokens": 90, "iterations": 2, "optimizer": "adamw",
            },
        )  # fmt: skip

    def test_hours_follow_from_the_programs(self):
        plan = self.plan()
        # 100 slots half used give 50 tokens in each step of 0.05 s.
        self.assertAlmostEqual(plan.e_step["tokens_per_second"], 1000)
        self.assertAlmostEqual(plan.e_step["hours"] * 3600, 10 * 4 * 50 / 1000 + 3 * 0.1)
        self.assertEqual(plan.m_step["steps"], 9)
        self.assertAlmostEqual(plan.m_step["hours"] * 3600, 0.9)
        self.assertAlmostEqual(plan.chip_hours * 3600, 8 * 2 * (2.3 + 0.9))

    def test_the_table_names_the_buffer_that_does_not_fit(self):
        plan = self.plan()
        self.assertFalse(plan.fits)
        text = plan.table()
        self.assertIn("decode does not fit: largest known buffer: cache, 16.00 GiB", text)
        self.assertIn("largest slots found to fit: 100", text)
        self.assertEqual(json.loads(plan.to_json())["largest"], {"slots": 100})


@absltest.skipUnless(importlib.util.find_spec("libtpu"), "needs libtpu: pip install restem[plan]")
class CompileTest(absltest.TestCase):
    def plan(self, run=RunSettings(), on_progress=print, **options):
        mesh = {"e_step_mesh": MeshSettings(tensor=2), "m_step_mesh": MeshSettings(1, 4)}
        of_run = Settings(
            run=dataclasses.replace(run, dtype="bfloat16", **mesh),
            generate=GenerateSettings(num_samples=4),
            improve=ImproveSettings(row_length=64, batch_examples=4, epochs=1),
        )
        settings = PlanSettings(
            model=TINY, topology="v5e:2x2", prefix_tokens=32, question_tokens=16,
            **{"new_tokens": 32, **options},
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as cache:
            return plan_lib.plan(
                settings, of_run, cache=pathlib.Path(cache), on_progress=on_progress
            )

    def test_a_tiny_run_is_compiled_for_four_chips(self):
        seen = []
        plan = self.plan(RunSettings(e_step_slots=16), seen.append)
        self.assertTrue(plan.fits)
        self.assertLen(seen, 3)
        decode, train = plan.programs["decode"], plan.programs["train"]
        # Heads, feed-forward and vocabulary over tensor=2 in bfloat16; float32 over fsdp=4.
        norms = TINY.embed_dim * (2 * TINY.num_layers + 1)
        self.assertEqual(decode["memory"]["parameters"], TINY.num_params - norms + 2 * norms)
        self.assertEqual(train["memory"]["parameters"], TINY.num_params)
        self.assertEqual(train["memory"]["optimizer"], 2 * TINY.num_params + 2 * 4)
        self.assertGreater(sum(decode["collective_bytes"].values()), 0)
        self.assertGreater(train["flops"], 6 * TINY.num_params * 4 * 64 / 4)
        self.assertIn("fits", plan.table())

    def test_int8_weights_take_half_the_memory(self):
        plan = self.plan(RunSettings(e_step_slots=16, int8_weights=True), steps=("decode",))
        self.assertTrue(plan.fits)
        # In bfloat16 over tensor=2 it is a byte a parameter; see above.
        self.assertLess(plan.programs["decode"]["memory"]["parameters"], 0.55 * TINY.num_params)

    def test_too_many_slots_do_not_fit(self):
        run = RunSettings(e_step_slots=2**20)
        plan = self.plan(run, new_tokens=512, steps=("decode",), search="never")
        self.assertFalse(plan.fits)
        self.assertIn("largest known buffer: cache", plan.table())


if __name__ == "__main__":
    absltest.main()
