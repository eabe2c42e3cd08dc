"""Layouts from the names of logical axes."""

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from restem.models import sharding

RULES = (("batch", ("data", "fsdp")), ("embed", "fsdp"), ("heads", "tensor"), ("head", None))
MESH = {"data": 2, "fsdp": 4, "tensor": 8}


class PartitionSpecTest(parameterized.TestCase):
    @parameterized.parameters(
        (("embed", "heads", "head"), (8, 16, 3), P("fsdp", "tensor", None)),
        (("embed", "heads", "head"), (8, 4, 3), P("fsdp", None, None)),  # 4 heads, 8 parts
        (("batch", "embed"), (16, 8), P(("data", "fsdp"), None)),  # fsdp is used once
        (("batch", "embed"), (12, 8), P(None, "fsdp")),  # 12 rows, 8 parts: fsdp stays free
        (("embed", "batch"), (8, 16), P("fsdp", "data")),
        ((None, "no rule", "heads"), (8, 8, 8), P(None, None, "tensor")),
        ((), (), P()),
    )
    def test_dimensions_that_divide_are_split(self, axes, shape, expected):
        self.assertEqual(sharding.partition_spec(axes, shape, MESH, RULES), expected)

    def test_mesh_axes_of_size_1_are_left_out(self):
        mesh = {"data": 1, "fsdp": 4, "tensor": 1}
        found = sharding.partition_spec(("batch", "heads"), (8, 8), mesh, RULES)
        self.assertEqual(found, P("fsdp", None))

    def test_each_dimension_has_a_name(self):
        with self.assertRaises(ValueError):
            sharding.partition_spec(("batch",), (8, 8), MESH, RULES)

    def test_without_a_mesh_nothing_is_constrained(self):
        jaxpr = jax.make_jaxpr(lambda x: sharding.constrain(x, ("batch", "embed")))(
            jnp.ones((2, 2))
        )
        self.assertEmpty(jaxpr.eqns)


if __name__ == "__main__":
    absltest.main()
