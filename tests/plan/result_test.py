"""Hours, the table and the estimates of a plan, from the results of programs."""

import dataclasses
import json

from absl.testing import absltest

from restem import models
from restem.plan import result
from restem.plan.chips import Slice
from restem.plan.work import Work

TINY = models.ModelConfig(
    vocab_size=256, num_layers=2, embed_dim=256, num_heads=4, num_kv_heads=2, head_dim=128,
    mlp_dim=512, tied_head=True,
)  # fmt: skip
WORK = Work(
    problems=10, num_samples=40, mean_question=40, mean_solution=50, longest_solution=60,
    prefix=100, max_new_tokens=64, slot_use=0.5, decode_steps=2, prefilled={128: 3},
    validation_problems=150, validation_tokens=64, validations=3.5, examples=20, epochs=3,
    batch_examples=8, iterations=2, e_steps=2, has_m_step=True, optimizer="adamw",
    is_adapter=False, lengths="a test",
)  # fmt: skip


class PlanTest(absltest.TestCase):
    WHERE = Slice.parse("v5e:2x4")

    def plan(self, work=(), results=None, **changes):
        fine = {
            "fits": True, "seconds": 0.1, "slots": 100, "rows": 8, "flops": 1e12, "hbm_bytes": 1e9,
            "collective_bytes": {}, "mesh_bytes": {"fsdp": 1.0}, "compute_seconds": 0.1,
            "memory_seconds": 0.0, "interconnect_seconds": 0.0, "bound": "compute",
            "memory": {"parameters": 2**30}, "compile_seconds": 7,
        } | changes  # fmt: skip
        bad = {
            "fits": False, "slots": 200, "rows": 8,
            "memory": {"parameters": 2**30, "cache": 2**34},
            "error": "RESOURCE_EXHAUSTED: Ran out of memory on HBM, 17G exceeds HLO module: x",
        }  # fmt: skip
        programs = {
            "prefill 128": fine, "decode": bad, "decode, largest that fits": fine, "train": fine,
        }  # fmt: skip
        return result.Plan.of(
            where=self.WHERE,
            model=TINY,
            meshes={s: {"data": 8, "fsdp": 1, "tensor": 1} for s in ("e_step", "m_step")},
            results={name: programs[name] for name in results or programs},
            largest={"slots": 100},
            work=dataclasses.replace(WORK, **dict(work)),
        )

    def test_hours_follow_from_the_programs(self):
        plan = self.plan()
        # 100 slots half used give 100 tokens in each visit of 0.1 s.
        self.assertAlmostEqual(plan.e_step["tokens_per_second"], 1000)
        self.assertAlmostEqual(plan.e_step["hours"] * 3600, 10 * 40 * 50 / 1000 + 3 * 0.1)
        self.assertEqual(plan.m_step["steps"], 9)
        # 3 validations per iteration and one of the base policy, of 2 batches, each as long as the
        # longest solution.
        self.assertAlmostEqual(plan.m_step["validation_hours"] * 3600, 3.5 * 2 * 64 * 0.05)
        self.assertAlmostEqual(plan.m_step["hours"] * 3600, 0.9 + 22.4)
        self.assertAlmostEqual(plan.chip_hours * 3600, 8 * 2 * (20.3 + 23.3))
        self.assertAlmostEqual(plan.m_step["mfu"], 6 * TINY.num_params * 8 * 90 / 0.1 / 8 / 197e12)
        self.assertEqual(plan.compile_seconds, 21)

    def test_few_samples_take_as_long_as_the_longest(self):
        """64 problems x 4 samples in 2,048 slots: all begin together, and the longest ends last."""
        few = {
            "problems": 64, "num_samples": 4, "mean_solution": 200, "longest_solution": 512,
            "decode_steps": 8, "prefilled": {},
        }  # fmt: skip
        decode = {
            "slots": 2048, "seconds": 0.08, "compute_seconds": 0.02, "memory_seconds": 0.08,
            "hbm_bytes": 8e9, "memory": {"cache": 500_000_000},
        }  # fmt: skip
        plan = self.plan(few, ("decode", "decode, largest that fits"), **decode)
        # Half of the bytes are caches, of which a batch of 256 slots reads an eighth.
        step = 0.08 * (1 - 0.5 * 7 / 8) / 8
        self.assertAlmostEqual(plan.e_step["hours"] * 3600, 512 * step)
        self.assertAlmostEqual(plan.e_step["tokens_per_second"], 256 * 200 / (512 * step))
        # More chips do not shorten it.
        for estimate in plan.slices:
            self.assertGreaterEqual(estimate.e_step_hours, plan.e_step["hours"])
        many = self.plan(
            {**few, "problems": 7500}, ("decode", "decode, largest that fits"), **decode
        )
        self.assertAlmostEqual(many.e_step["hours"] * 3600, 7500 * 4 * 200 * 0.08 / (1024 * 8))

    def test_validation_has_the_slots_that_are_left(self):
        def of(**validation):
            made = self.plan()
            results = {name: r for name, r in made.programs.items() if r["fits"]}
            results["decode"] = results.pop("decode, largest that fits")
            return result.Plan.of(
                where=self.WHERE, model=TINY, meshes=made.meshes, results=results, largest={},
                work=WORK, validation=validation,
            )  # fmt: skip

        plan = of(step="e_step", slots=50)
        self.assertTrue(plan.fits)
        # 3 rounds of 50 problems, in half of the slots: half of the products.
        self.assertAlmostEqual(plan.m_step["validation_hours"] * 3600, 3.5 * 3 * 64 * 0.025)
        self.assertIn("validation fits beside the state of training: 50 slots on the mesh of the E",
                      plan.table())  # fmt: skip
        self.assertIn("on the mesh of training, where", of(step="m_step", slots=50).table())
        bad = of(error="no slot fits")
        self.assertFalse(bad.fits)
        self.assertIn("validation does not fit beside the state of training: no slot", bad.table())

    def test_a_policy_that_samples_nothing_has_no_e_step(self):
        plan = self.plan({"num_samples": 0})
        self.assertEqual(plan.e_step, {})
        self.assertAlmostEqual(plan.hours, 2 * plan.m_step["hours"])
        self.assertGreater(plan.m_step["validation_hours"], 0)
        self.assertIn("E-step: the policy samples nothing", plan.table())
        self.assertNotIn("samples do not fill", plan.table())

    def test_iterations_may_share_an_e_step(self):
        plan = self.plan({"e_steps": 3, "iterations": 7})
        hours = 3 * plan.e_step["hours"] + 7 * plan.m_step["hours"]
        self.assertAlmostEqual(plan.hours, hours)
        (here,) = (e for e in plan.slices if e.chips == 8)
        self.assertAlmostEqual(here.chip_hours, plan.chip_hours)
        self.assertIn("h per E-step, of which there are 3", " ".join(plan.table().split()))
        self.assertIn("h per iteration", " ".join(self.plan().table().split()))

    def test_an_m_step_that_is_not_planned_is_told(self):
        plan = self.plan({"has_m_step": False}, results=("decode", "decode, largest that fits"))
        self.assertAlmostEqual(plan.hours, 2 * plan.e_step["hours"])
        self.assertIn("M-step: not planned, because em.improve", plan.table())
        self.assertNotIn("M-step: not", self.plan().table())

    def test_a_host_schedules_the_slots_of_its_own_mesh(self):
        plan = self.plan()
        results = {"decode": plan.programs["decode, largest that fits"]}
        hours = [
            result._e_step(results, dataclasses.replace(plan.work, samplers=n), self.WHERE)
            for n in (1, 4)
        ]
        self.assertAlmostEqual(hours[1]["host_hours"], hours[0]["host_hours"] / 4)

    def test_the_table_names_the_buffer_that_does_not_fit(self):
        plan = self.plan()
        self.assertFalse(plan.fits)
        text = plan.table()
        self.assertIn("decode does not fit: largest known buffer: cache, 16.00 GiB", text)
        self.assertIn("largest slots found to fit: 100", text)
        self.assertEqual(json.loads(plan.to_json())["largest"], {"slots": 100})

    def test_other_slices_are_estimated(self):
        plan = self.plan()
        found = {e.chips: e for e in plan.slices}
        self.assertEqual(sorted(found), [4, 8, 16, 32])
        self.assertAlmostEqual(found[16].e_step_hours, plan.e_step["hours"] / 2)
        training = plan.m_step["hours"] - plan.m_step["validation_hours"]
        self.assertAlmostEqual(
            found[16].m_step_hours, training / 2 + plan.m_step["validation_hours"]
        )
        self.assertIn("v5e:4x4", plan.table())

    def test_a_batch_that_is_too_small_for_the_slice_is_told(self):
        plan = self.plan({"num_samples": 4}, interconnect_seconds=0.5, seconds=0.5)
        self.assertRegex(
            plan.advice[0], "8 examples are 90 tokens on each of 8 chips.*batch_examples = 40"
        )
        self.assertRegex(" ".join(plan.advice), "v5e:2x2 takes an estimated")
        self.assertRegex(plan.advice[-1], "40 samples do not fill 100 slots twice")
        # Weights gathered over fsdp take as long on any slice.
        found = {e.chips: e for e in plan.slices}
        self.assertAlmostEqual(found[32].m_step_hours, plan.m_step["hours"])


if __name__ == "__main__":
    absltest.main()
