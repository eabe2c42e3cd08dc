"""Batches of another size: the rows of the samples are where they were told to be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem.models import kv_cache
from restem.sampling import resize, steps
from restem.sampling.widths import WidthClasses
from tests.sampling.engine_test import CONFIG


def _slots(classes: WidthClasses) -> steps.Slots:
    """Slots in which every number is another one."""
    empty = steps.empty_slots(CONFIG, classes.widths, classes.sizes, 24, unstacked=True)
    rng = np.random.default_rng(0)
    numbers = dataclasses.replace(empty.rows, key=jax.random.key_data(empty.rows.key))

    def random(leaf):
        if leaf.dtype == bool:
            return jnp.ones(leaf.shape, bool)
        return jnp.asarray(rng.integers(1, 2**20, leaf.shape).astype(leaf.dtype))

    rows = jax.tree.map(random, numbers)
    return steps.Slots(
        questions=jax.tree.map(random, empty.questions),
        ring=jax.tree.map(random, empty.ring),
        rows=dataclasses.replace(rows, key=jax.random.wrap_key_data(rows.key)),
    )


class MoveTest(parameterized.TestCase):
    @parameterized.named_parameters(
        # Slot 1 of the narrow class continues in a wide one.
        ("fewer", (6, 2), (2, 2), [4, 0, 1, 7], [1, 0, 1, 1]),
        ("more", (2, 1), (5, 2), [1, 0, 0, 0, 0, 2, 0], [1, 1, 0, 0, 0, 1, 1]),
    )
    def test_on_the_host_as_on_the_device(self, old, new, sources, used):
        slots = _slots(WidthClasses((16, 32), old))
        of, used = np.asarray(sources, np.int32), np.asarray(used, bool)
        expected = resize.move(slots, new, jnp.asarray(of), jnp.asarray(used))
        found = resize.move_on_host(slots, new, of, used)
        for name in ("token", "position", "count", "limit"):
            got = np.asarray(getattr(found.rows, name))
            np.testing.assert_array_equal(got, np.asarray(getattr(slots.rows, name))[of])
        plain = lambda s: dataclasses.replace(
            s, rows=dataclasses.replace(s.rows, key=jax.random.key_data(s.rows.key))
        )
        jax.tree.map(np.testing.assert_array_equal, plain(found), plain(expected))
        self.assertEqual(found.questions.groups[1].positions.shape, (new[1], 32))
        at = sources.index(1)
        if at >= new[0]:  # widened
            wide = np.asarray(found.questions.groups[1].positions)[at - new[0]]
            self.assertTrue((wide[16:] == kv_cache.INVALID_POSITION).all())


if __name__ == "__main__":
    absltest.main()
