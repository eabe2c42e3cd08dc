"""Costs of programs, counted by hand."""

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from restem import models
from restem.plan import costs, worker
from restem.plan.chips import Slice

TINY = models.ModelConfig(
    vocab_size=256, num_layers=2, embed_dim=256, num_heads=4, num_kv_heads=2, head_dim=128,
    mlp_dim=512, tied_head=True,
)  # fmt: skip

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

%cond_window (p: (u32[], f32[8])) -> pred[] {
  %p.2 = (u32[], f32[8]{0}) parameter(0)
  %n.2 = u32[]{:T(128)} constant(4)
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %n.2), direction=LT
}

%body_window (p: (u32[], f32[8])) -> (u32[], f32[8]) {
  %shard = bf16[50]{0} collective-permute(%z), channel_id=6, source_target_pairs={{0,1},{1,0}}
}

%body_dynamic (p: (s32[], s32[])) -> (s32[], s32[]) {
  %window = (u32[], f32[8]{0}) while(%u), condition=%cond_window, body=%body_window
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
        # A product whose operand goes around in shards is a loop of its own, with unsigned numbers.
        self.assertEqual(
            costs.bytes_by_kind(costs.collectives(HLO, (6,))),
            {
                "all-gather": 30 * 0.75 * 16 * 8 * 2,
                "collective-permute": 6 * (100 * 4 + 4 * 50 * 2),
                "all-reduce": 2 * 0.75 * 10 * 4,
                "reduce-scatter": 0.5 * 2 * 5 * 4,
            },
        )

    @parameterized.parameters(
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
        ("source_target_pairs={{3,1},{1,3}}", (3, 1)),
    )
    def test_members_of_a_group(self, text, members):
        self.assertEqual(costs._members(f"all-gather(%x), channel_id=3, {text}, x"), members)

    def test_bytes_are_split_over_the_axes_that_a_group_spans(self):
        found = [
            costs.Collective("all-gather", 8.0, (0, 1, 2, 3)),  # a plane
            costs.Collective("all-reduce", 3.0, (0, 2)),
        ]
        places = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
        self.assertEqual(costs.bytes_by_axis(found, places), [7.0, 4.0, 0.0])
        mesh = jax.sharding.AbstractMesh((1, 2, 2), ("data", "fsdp", "tensor"))
        self.assertEqual(costs.bytes_by_mesh_axis(found, mesh), {"fsdp+tensor": 8.0, "fsdp": 3.0})

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
        where = Slice.parse("v5e:16x16")
        line = costs.Roofline.of(where, flops=197e12, hbm=819e9 * 2, sent=[20e9, 100e9 * 0.5])
        self.assertEqual((line.compute, line.memory, line.interconnect), (1.0, 2.0, 0.5))
        self.assertEqual((line.seconds, line.bound), (2.0, "memory"))

    def test_decode_reads_weights_and_cache_at_every_step(self):
        kinds = {"parameters": 100, "cache": 10, "prefix": 1}
        self.assertEqual(costs.hbm_bytes("decode", kinds, fsdp=1, rounds=8), 8 * 111)
        self.assertEqual(costs.hbm_bytes("decode", kinds, fsdp=4, rounds=1), 911)

    def test_an_insertion_reads_and_writes_the_questions(self):
        self.assertEqual(costs.hbm_bytes("insert", {"cache": 10}, fsdp=1, rounds=8), 20)

    def test_frozen_weights_have_no_gradient(self):
        full = {"parameters": 400, "optimizer": 800, "trained": 100}
        adapter = {"parameters": 4, "optimizer": 8, "trained": 1, "frozen": 200}
        many = lambda kinds: costs.hbm_bytes("train", kinds, fsdp=1, rounds=2)
        self.assertEqual(many(full), 2 * (3 * 400 + 2 * 400) + 2 * 400 + 2 * 800 + 400)
        self.assertEqual(many(adapter), 2 * (3 * 200 + 2 * 4) + 2 * 4 + 2 * 8 + 4)


if __name__ == "__main__":
    absltest.main()
