"""Which keys a query sees; groups of rows attend as one set as long as the longest would."""

import dataclasses
import functools
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem.models import INVALID_POSITION, ModelConfig, attention
from restem.models.query_blocks import MOST_SCORES_ON_CPU
from tests.helpers import compilation

CONFIG = ModelConfig(
    vocab_size=8, num_layers=1, embed_dim=8, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=8
)


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


def keys_of(rng, rows, length, used):
    """Random keys, of which the columns from `used[i]` on hold nothing in row i."""
    at = np.broadcast_to(np.arange(length), (rows, length))
    return attention.Keys(
        keys=jnp.asarray(rng.normal(size=(rows, 2, 8, length)), jnp.float32),
        values=jnp.asarray(rng.normal(size=(rows, 2, length, 8)), jnp.float32),
        positions=jnp.asarray(np.where(at < np.array(used)[:, None], at, INVALID_POSITION)),
    )


def padded(keys, length):
    more = length - keys.positions.shape[1]
    return attention.Keys(
        keys=jnp.pad(keys.keys, [(0, 0)] * 3 + [(0, more)]),
        values=jnp.pad(keys.values, [(0, 0)] * 2 + [(0, more), (0, 0)]),
        positions=jnp.pad(keys.positions, [(0, 0), (0, more)], constant_values=INVALID_POSITION),
    )


PACKED = """
x . . . . . .
x x . . . . .
x x x . . . .
. . . x . . .
. . . x x . .
. . . x x x .
. . . . . . x
"""
PACKED_WINDOW = """
x . . . . . .
x x . . . . .
. x x . . . .
. . . x . . .
. . . x x . .
. . . . x x .
. . . . . . x
"""
PREFIX_WINDOW = """
. x
. .
. .
. x
. .
. .
. .
"""


def marks(text):
    return [[mark == "x" for mark in line.split()] for line in text.split("\n") if line]


class VisibleTest(parameterized.TestCase):
    """The worked example of `attention.visible`."""

    positions = jnp.asarray([[2, 3, 4, 2, 3, 4, 0]])
    segments = jnp.asarray([[1, 1, 1, 2, 2, 2, 0]])

    def visible(self, keys, window, is_local):
        found = attention.visible(
            self.positions, self.segments, keys, window=window, is_local=is_local
        )
        return found[0].tolist()

    @parameterized.parameters(
        (None, True, PACKED), (2, False, PACKED), (2, True, PACKED_WINDOW), (3, True, PACKED)
    )
    def test_own_keys(self, window, is_local, expected):
        zeros = jnp.zeros((1, 1, 1, 7))
        keys = attention.Keys(zeros, zeros.swapaxes(2, 3), self.positions, self.segments)
        self.assertEqual(self.visible(keys, window, is_local), marks(expected))

    def test_prefix(self):
        zeros = jnp.zeros((1, 1, 2))
        keys = attention.Keys(zeros, zeros.swapaxes(1, 2), jnp.arange(2))
        found = self.visible(keys, None, True)
        self.assertEqual(found[:6], [[True] * 2] * 6)
        self.assertEqual(self.visible(keys, 2, True)[:6], marks(PREFIX_WINDOW)[:6])


class GroupedKeysTest(parameterized.TestCase):
    @parameterized.parameters(1, 2)
    def test_equals_one_padded_set(self, parts):
        rng = np.random.default_rng(0)
        # In each part of the batch two narrow rows and then one wide one, or four and two.
        narrow, wide = keys_of(rng, 4, 3, [3, 1, 2, 3]), keys_of(rng, 2, 9, [9, 6])
        groups = attention.GroupedKeys((narrow, wide), parts)
        whole = attention.Keys(
            *(
                attention.join_rows([getattr(padded(g, 9), name) for g in (narrow, wide)], parts)
                for name in ("keys", "values", "positions")
            )
        )
        own = keys_of(rng, 6, 1, [1] * 6)
        shared = attention.Keys(
            keys=own.keys[0], values=own.values[0], positions=jnp.zeros(1, jnp.int32)
        )
        at = jnp.full((6, 1), 9, jnp.int32)
        queries = attention.Queries(jnp.asarray(rng.normal(size=(6, 1, 4, 8)), jnp.float32), at)
        own = dataclasses.replace(own, positions=at)  # a query always sees itself
        for config in (CONFIG, CONFIG.replace(window=4, local_layers=(True,))):
            found, expected = (
                attention.attend(config, queries, (shared, keys, own), True)
                for keys in (groups, whole)
            )
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_rows_of_a_group_are_together_on_each_part(self):
        x = jnp.arange(6)[:, None]
        groups = attention.split_rows(x, [2, 4], 2)
        self.assertEqual([g[:, 0].tolist() for g in groups], [[0, 3], [1, 2, 4, 5]])
        np.testing.assert_array_equal(attention.join_rows(groups, 2), x)


class QueryBlockTest(parameterized.TestCase):
    @parameterized.parameters(3, 4, 7, 12)
    def test_queries_in_blocks_equal_all_at_once(self, block):
        """Also where the last block is shorter."""
        rng = np.random.default_rng(0)
        own = keys_of(rng, 2, 12, [12, 12])
        own = dataclasses.replace(own, segments=jnp.asarray(np.repeat([[1, 2], [1, 1]], 6, axis=1)))
        vectors = jnp.asarray(rng.normal(size=(2, 12, 4, 8)), jnp.float32)
        queries = attention.Queries(vectors, own.positions, own.segments)
        found, expected = (
            attention.attend(config, queries, (own,), False)
            for config in (CONFIG.replace(query_block=block), CONFIG)
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @parameterized.parameters(
        (3, {}), (4, {}), (7, {}), (4, {"attention_softcap": 2.0}),
        (4, {"window": 3, "local_layers": (True,)}),
    )  # fmt: skip
    def test_gradients_in_blocks_equal_those_of_all_at_once(self, block, changes):
        """Those of queries, of the rows' own keys and values, and of a shared prefix."""
        rng = np.random.default_rng(0)
        prefix = dataclasses.replace(keys_of(rng, 1, 5, [5]), segments=None)
        prefix = jax.tree.map(lambda x: x[0], prefix)
        own = keys_of(rng, 2, 12, [12, 12])
        own = dataclasses.replace(
            own, positions=own.positions % 6 + 5,
            segments=jnp.asarray(np.repeat([[1, 2], [1, 2]], 6, axis=1)),
        )  # fmt: skip
        weights = jnp.asarray(rng.normal(size=(2, 12, 4, 8)), jnp.float32)

        def loss(config, vectors, of_prefix, of_own):
            queries = attention.Queries(vectors, own.positions, own.segments)
            sets = [
                dataclasses.replace(x, keys=keys, values=values)
                for x, (keys, values) in ((prefix, of_prefix), (own, of_own))
            ]
            return (attention.attend(config, queries, sets, True) * weights).sum()

        config = CONFIG.replace(**changes)
        arguments = (
            jnp.asarray(rng.normal(size=(2, 12, 4, 8)), jnp.float32),
            (prefix.keys, prefix.values), (own.keys, own.values),
        )  # fmt: skip
        found, expected = (
            jax.grad(functools.partial(loss, c), argnums=(0, 1, 2))(*arguments)
            for c in (config.replace(query_block=block), config)
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            self.assertGreater(jnp.abs(b).max(), 0.1)
            np.testing.assert_allclose(a, b, atol=2e-6)

    @parameterized.parameters((128, 16, 128), (1024, 3072, 256), (4096, 8, 128))
    def test_scores_of_long_rows_are_never_whole(self, length, prefix, block):
        """Neither in a training step nor where a question is prefilled behind a prefix."""

        def attend(vectors):
            at = jnp.arange(length)[None]
            zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
            own = attention.Keys(zeros(1, 2, 8, length), zeros(1, 2, length, 8), at)
            shared = attention.Keys(
                zeros(2, 8, prefix), zeros(2, prefix, 8), jnp.zeros(prefix, jnp.int32)
            )
            queries = attention.Queries(vectors, prefix + at)
            return attention.attend(CONFIG, queries, (shared, own), False).sum()

        vectors = jnp.zeros((1, length, 4, 8), jnp.float32)
        for function in (attend, jax.grad(attend)):
            shapes = re.findall(r"f32\[([\d,]+)\]", str(jax.make_jaxpr(function)(vectors)))
            largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
            self.assertEqual(largest, 4 * block * max(length, prefix))
            self.assertLessEqual(4 * largest, MOST_SCORES_ON_CPU)

    def test_a_device_bounds_the_scores_of_its_own_rows_heads_and_queries(self):
        """Here of 8 of 16 rows, 8 of 32 heads and 1,024 of 4,096 queries, before all keys."""

        def of(length, *rows):  # without a dimension of heads, so that nothing is large
            positions = jnp.zeros((*rows, length), jnp.int32)
            zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
            return attention.Keys(
                zeros((*rows, 2, 0, length)), zeros((*rows, 2, length, 0)), positions
            )

        sets = (of(3072), attention.GroupedKeys((of(128, 8), of(1024, 8))))
        vectors = jnp.zeros((16, 4096, 32, 0), jnp.float32)
        queries = attention.Queries(vectors, jnp.zeros((16, 4096), jnp.int32))
        parts = {"batch": 2, "heads": 4, "length": 4}
        with (
            mock.patch.object(attention.sharding, "parts", parts.get),
            mock.patch.object(attention.sharding, "on_one_cpu", lambda: False),
        ):
            # A query has 1 MiB of scores, so 256 of each part fit.
            self.assertEqual(attention._block_that_fits(queries, sets), 4 * 256)

    def test_the_backward_pass_need_not_attend_again_for_results_that_it_keeps(self):
        rng = np.random.default_rng(0)
        own = keys_of(rng, 2, 12, [12, 12])
        config = CONFIG.replace(query_block=4)

        def exponentials(*names):
            @functools.partial(
                jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(*names)
            )
            def of_layer(vectors):
                queries = attention.Queries(vectors, own.positions)
                return jnp.sin(attention.attend(config, queries, (own,), False)).sum()

            return str(jax.make_jaxpr(jax.grad(of_layer))(jnp.ones((2, 12, 4, 8)))).count(" exp ")

        # In the forward pass, where it is done again, and for the backward pass.
        self.assertEqual((exponentials(), exponentials(attention.ATTENTION)), (3, 2))

    @parameterized.parameters(1, 2, 4)
    def test_blocks_are_joined_as_they_were_cut(self, parts):
        x = jnp.arange(48).reshape(2, 24)
        blocks = attention._blocks(x, 8, parts)
        self.assertEqual(blocks.shape, (3, 2, 8))
        # Every block has as many queries of each part.
        self.assertEqual({int(n) for n in np.bincount(blocks[0, 0] * parts // 24)}, {8 // parts})
        np.testing.assert_array_equal(attention._join_blocks(blocks, parts), x)


if __name__ == "__main__":
    absltest.main()
