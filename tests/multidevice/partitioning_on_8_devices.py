"""Cases for 8 simulated devices; `partitioning_test.py` runs this file in a process of its own."""

import functools
import os
import re

from tests.helpers import xla

os.environ["XLA_FLAGS"] = xla.flags("--xla_force_host_platform_device_count=8")
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from restem import models, partitioning
from restem.errors import UserError
from restem.models import kv_cache

# These programs run for milliseconds and compile for seconds: do not optimise them.
jax.config.update("jax_disable_most_optimizations", True)

CONFIG = models.ModelConfig(
    vocab_size=64,
    num_layers=2,
    embed_dim=32,
    num_heads=8,
    num_kv_heads=4,
    head_dim=16,
    mlp_dim=64,
    tied_head=True,
    qk_norm=True,
    remat="full",
)
MULTI_QUERY = CONFIG.replace(
    num_kv_heads=1, norm="layer", parallel_layers=True, gated_mlp=False, qk_norm=False
)
# data, fsdp, tensor
MESHES = ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 2, 4))


def _mesh(sizes):
    return partitioning.make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])


def _tokens(config, batch=8, length=6):
    tokens = jax.random.randint(jax.random.key(1), (batch, length), 0, config.vocab_size)
    return tokens, jnp.broadcast_to(jnp.arange(length), tokens.shape)


def _loss(params, config, tokens, positions):
    out = models.forward(params, config, tokens, positions)
    logp = jax.nn.log_softmax(models.logits(params, config, out.hidden)[:, :-1])
    return -jnp.take_along_axis(logp, tokens[:, 1:, None], -1).mean()


@functools.cache
def _params(config):
    return models.init_params(config, jax.random.key(0))


@functools.cache
def _one_device(config):
    step = jax.jit(jax.value_and_grad(_loss), static_argnums=1)
    return jax.device_get(step(_params(config), config, *_tokens(config)))


def _decode(params, config, prefix, cache, tokens, positions, column):
    out = models.forward(params, config, tokens, positions, caches=(prefix, cache))
    cache = kv_cache.write(cache, out.block, column)
    return jnp.argmax(models.logits(params, config, out.hidden[:, -1]), -1), cache


class MeshTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(), (8, 1, 1)),
        (dict(fsdp=4), (2, 4, 1)),
        (dict(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (dict(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    )
    def test_minus_one_is_what_is_left(self, sizes, expected):
        self.assertEqual(tuple(partitioning.make_mesh(**sizes).shape.values()), expected)

    @parameterized.parameters(dict(fsdp=3), dict(data=2), dict(data=-1, fsdp=-1), dict(tensor=0))
    def test_sizes_that_do_not_multiply_are_refused(self, **sizes):
        with self.assertRaisesRegex(UserError, "mesh .*(set|sizes are)"):
            partitioning.make_mesh(**sizes)

    def test_some_devices_only(self):
        mesh = partitioning.make_mesh(tensor=2, devices=jax.devices()[:2])
        self.assertEqual(mesh.size, 2)


class LayoutTest(parameterized.TestCase):
    @parameterized.parameters(*((sizes, CONFIG) for sizes in MESHES), ((2, 1, 4), MULTI_QUERY))
    def test_loss_and_gradient_equal_one_device(self, sizes, config):
        tokens, positions = _tokens(config)
        params = _params(config)
        loss, gradient = _one_device(config)

        mesh = _mesh(sizes)
        shardings = partitioning.param_shardings(config, mesh)
        placed = jax.device_put(params, shardings)
        rows = jax.device_put((tokens, positions), partitioning.batch_sharding(mesh, 2))
        step = jax.jit(
            lambda p, t, at: jax.value_and_grad(_loss)(p, config, t, at),
            out_shardings=(partitioning.replicated(mesh), shardings),
        )
        with partitioning.use(mesh):
            sharded_loss, sharded_gradient = step(placed, *rows)
        np.testing.assert_allclose(sharded_loss, loss, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-4),
            jax.device_get(sharded_gradient),
            gradient,
        )

    @parameterized.parameters(*MESHES)
    def test_no_leaf_that_should_be_split_is_whole(self, *sizes):
        mesh = _mesh(sizes)
        shape = mesh.shape
        params = jax.device_put(_params(CONFIG), partitioning.param_shardings(CONFIG, mesh))
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            name = jax.tree_util.keystr(path)
            if "query_norm" in name or "key_norm" in name:
                expected = 1
            elif "norm" in name or (
                ("'key'" in name or "'value'" in name) and shape["tensor"] == 8
            ):
                expected = shape["fsdp"]
            else:
                expected = shape["fsdp"] * shape["tensor"]
            parts = leaf.size // leaf.addressable_shards[0].data.size
            self.assertEqual(parts, expected, f"{name} {leaf.sharding}")

    @parameterized.parameters((CONFIG, 4), (CONFIG, 8), (MULTI_QUERY, 8))
    def test_decode_gathers_neither_weights_nor_caches(self, config, tensor):
        """Under tensor parallelism only activations cross between devices."""
        mesh = partitioning.make_mesh(tensor=tensor)
        batch, length = 8, 24
        params = _params(config)
        tokens, positions = _tokens(config, 1, 10)
        read = jax.jit(models.forward, static_argnums=1)(params, config, tokens, positions)
        prefix = kv_cache.as_prefix(read.block)
        cache = kv_cache.empty(config, batch, length)
        first = jnp.arange(batch, dtype=jnp.int32)[:, None]
        at = jnp.full((batch, 1), 10, jnp.int32)
        expected, expected_cache = jax.jit(_decode, static_argnums=1)(
            params, config, prefix, cache, first, at, 0
        )

        rows = partitioning.cache_shardings(config, mesh)
        shardings = (
            partitioning.param_shardings(config, mesh),
            partitioning.cache_shardings(config, mesh, prefix=True),
            rows,
            partitioning.batch_sharding(mesh, 2),
            partitioning.batch_sharding(mesh, 2),
            partitioning.replicated(mesh),
        )
        decode = jax.jit(
            lambda params, *args: _decode(params, config, *args),
            in_shardings=shardings,
            out_shardings=(partitioning.batch_sharding(mesh), rows),
        )
        args = (params, prefix, cache, first, at, jnp.int32(0))
        with partitioning.use(mesh):
            compiled = decode.lower(*args).compile()
            chosen, new_cache = compiled(*jax.device_put(args, shardings))
        np.testing.assert_array_equal(chosen, expected)
        np.testing.assert_allclose(new_cache.keys, expected_cache.keys, atol=1e-5)

        hlo = compiled.as_text()
        self.assertIn("all-reduce", hlo)
        # An all-gather or all-to-all may move logits and activations of the rows; the smallest
        # weight or prefix slice that could be gathered is larger than any of these.
        rows_here = batch // partitioning.batch_parts(mesh)
        largest = rows_here * max(config.vocab_size, config.num_heads * config.head_dim)
        for line in hlo.splitlines():
            if re.search(r"= .*\b(all-gather|all-to-all|collective-permute)(-start)?\(", line):
                for dims in re.findall(r"f32\[([\d,]+)\]", line.split("(")[0]):
                    size = np.prod([int(d) for d in dims.split(",")])
                    self.assertLessEqual(size, largest, line)

    def test_key_heads_that_do_not_divide_stay_whole_with_a_note(self):
        mesh = partitioning.make_mesh(tensor=8)
        notes = partitioning.check_divisible(CONFIG, mesh)
        self.assertLen(notes, 2)
        self.assertRegex(notes[0], r"layers/attention/key: kv_heads=4 over tensor=8 .* keeps all 4")
        spec = partitioning.cache_shardings(CONFIG, mesh).keys.spec
        self.assertNotIn("tensor", jax.tree.leaves(tuple(spec)))

    def test_a_dimension_that_does_not_divide_says_what_to_set(self):
        config = CONFIG.replace(num_heads=6, num_kv_heads=3, mlp_dim=96, vocab_size=60)
        with self.assertRaisesRegex(
            UserError,
            r"layers/attention/out \[2, 6, 16, 32\].*heads=6 over tensor=4; .*1, 2, 3, 6 ",
        ):
            partitioning.param_shardings(config, partitioning.make_mesh(tensor=4))


class OptimizerStateTest(parameterized.TestCase):
    @parameterized.parameters(
        (optax.adamw(1e-3),), (optax.adafactor(1e-3, min_dim_size_to_factor=8),)
    )
    def test_state_lies_as_its_parameters(self, optimizer):
        mesh = _mesh((2, 2, 2))
        params = models.param_shapes(CONFIG)
        shardings = partitioning.param_shardings(CONFIG, mesh)
        state = jax.eval_shape(optimizer.init, params)
        placed = partitioning.state_shardings(state, params, shardings)
        for (path, leaf), (_, where) in zip(
            jax.tree_util.tree_flatten_with_path(state)[0],
            jax.tree_util.tree_flatten_with_path(placed)[0],
            strict=True,
        ):
            name = jax.tree_util.keystr(path)
            where.shard_shape(leaf.shape)  # raises if it does not divide
            if leaf.size > CONFIG.num_layers * CONFIG.embed_dim:
                self.assertFalse(where.is_fully_replicated, name)
        init = jax.jit(optimizer.init, out_shardings=placed)
        live = init(jax.device_put(_params(CONFIG), shardings))
        self.assertEqual(jax.tree.structure(live), jax.tree.structure(state))

    def test_factors_drop_the_entry_of_the_missing_dimension(self):
        mesh = _mesh((2, 2, 2))
        params = {"up": jax.ShapeDtypeStruct((4, 16, 32), jnp.float32)}
        up = partitioning.sharding(mesh, ("layers", "embed", "mlp"), (4, 16, 32))
        state = {
            "v_row": {"up": jax.ShapeDtypeStruct((4, 16), jnp.float32)},
            "v_col": {"up": jax.ShapeDtypeStruct((4, 32), jnp.float32)},
            "v": {"up": jax.ShapeDtypeStruct((1,), jnp.float32)},
        }
        placed = partitioning.state_shardings(state, params, {"up": up})
        spec = jax.sharding.PartitionSpec
        self.assertEqual(placed["v_row"]["up"].spec, spec(None, "fsdp"))
        self.assertEqual(placed["v_col"]["up"].spec, spec(None, "tensor"))
        self.assertEqual(placed["v"]["up"].spec, spec())


class MovesTest(parameterized.TestCase):
    def test_between_the_meshes_of_the_two_steps(self):
        params = _params(CONFIG)
        m_step = partitioning.param_shardings(CONFIG, _mesh((1, 8, 1)))
        e_step = partitioning.param_shardings(CONFIG, _mesh((2, 1, 4)))
        there = partitioning.reshard(jax.device_put(params, m_step), e_step)
        self.assertEqual(jax.tree.map(lambda x: x.sharding, there), e_step)
        jax.tree.map(np.testing.assert_array_equal, there, params)

    def test_onto_the_mesh_of_one_host(self):
        params = _params(CONFIG)
        local = partitioning.make_mesh(tensor=4, devices=jax.local_devices())
        target = partitioning.param_shardings(CONFIG, local)
        m_step = partitioning.param_shardings(CONFIG, _mesh((1, 8, 1)))
        there = partitioning.localize(jax.device_put(params, m_step), local, target)
        self.assertEqual(jax.tree.map(lambda x: x.sharding, there), target)
        jax.tree.map(np.testing.assert_array_equal, there, params)

    def test_from_every_host_to_every_host(self):
        rows = np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
        sharding = partitioning.batch_sharding(_mesh((4, 2, 1)), 2)
        array = partitioning.from_same_everywhere(sharding, rows)
        self.assertEqual(array.addressable_shards[0].data.shape, (2, 3))
        np.testing.assert_array_equal(partitioning.to_all_hosts(array), rows)


if __name__ == "__main__":
    absltest.main()
