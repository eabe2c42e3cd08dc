"""What the rules split each parameter and cache over; several devices are in tests/multidevice."""

import dataclasses

import jax
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from restem import models, partitioning
from restem.errors import UserError
from restem.models import kv_cache
from restem.models.sharding import partition_spec

CONFIG = models.ModelConfig(
    vocab_size=32, num_layers=2, embed_dim=16, num_heads=8, num_kv_heads=4, head_dim=4, mlp_dim=64,
    qkv_bias=True, qk_norm=True, post_norms=True,
)  # fmt: skip
MESH = {"data": 2, "fsdp": 2, "tensor": 4}
ROWS = ("data", "fsdp")
EXPECTED = {
    "embedding": P("tensor", "fsdp"),
    "head": P("fsdp", "tensor"),
    "final_norm": P("fsdp"),
    "layers/attention/query": P(None, "fsdp", "tensor", None),
    "layers/attention/key": P(None, "fsdp", "tensor", None),
    "layers/attention/value": P(None, "fsdp", "tensor", None),
    "layers/attention/out": P(None, "tensor", None, "fsdp"),
    "layers/attention/query_bias": P(None, "tensor", None),
    "layers/attention/key_bias": P(None, "tensor", None),
    "layers/attention/value_bias": P(None, "tensor", None),
    "layers/attention/query_norm": P(None, None),
    "layers/attention/key_norm": P(None, None),
    "layers/mlp/gate": P(None, "fsdp", "tensor"),
    "layers/mlp/up": P(None, "fsdp", "tensor"),
    "layers/mlp/down": P(None, "tensor", "fsdp"),
    "layers/attention_norm": P(None, "fsdp"),
    "layers/mlp_norm": P(None, "fsdp"),
    "layers/post_attention_norm": P(None, "fsdp"),
    "layers/post_mlp_norm": P(None, "fsdp"),
}


def spec(axes, shape):
    return partition_spec(axes, shape, MESH, partitioning.RULES)


class RulesTest(parameterized.TestCase):
    def test_every_parameter(self):
        found = jax.tree.map(
            lambda leaf, axes: spec(axes, leaf.shape),
            models.param_shapes(CONFIG),
            models.param_axes(CONFIG),
        )
        paths = jax.tree_util.tree_leaves_with_path(found, is_leaf=lambda x: isinstance(x, P))
        self.assertEqual(
            {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in paths},
            EXPECTED,
        )

    def test_caches_split_rows_and_heads_and_prefixes_heads_only(self):
        for batch, rows in ((8, (ROWS,)), (None, ())):
            axes = kv_cache.axes(prefix=batch is None)
            shapes = kv_cache.shapes(CONFIG, batch, 16)
            self.assertEqual(
                [spec(getattr(axes, name), getattr(shapes, name).shape)
                 for name in ("keys", "values", "positions")],
                [P(None, *rows, "tensor", None, None)] * 2 + [P(*rows, None)],
            )  # fmt: skip

    @parameterized.parameters(
        (("batch", "length", "embed_act"), (8, 16, 16), P(ROWS, None, None)),
        (("batch", "length", "heads", "head"), (8, 16, 8, 4), P(ROWS, None, "tensor", None)),
        (("batch", "length", "mlp"), (8, 16, 64), P(ROWS, None, "tensor")),
    )
    def test_activations_split_rows_and_what_is_computed_in_parts(self, axes, shape, expected):
        self.assertEqual(spec(axes, shape), expected)


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that JAX would describe, of a host with eight."""

    id: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA A100"

    @property
    def process_index(self) -> int:
        return self.id // 8

    @property
    def slice_index(self) -> int:
        return self.id // 8


class HostsTest(parameterized.TestCase):
    """JAX gives the GPUs of each host a slice index of their own, as it does TPU slices."""

    @parameterized.parameters(
        ({"data": 1, "fsdp": -1, "tensor": 1}, (1, 16, 1)),  # hardware/any.gin
        ({"data": -1, "fsdp": 1, "tensor": 1}, (16, 1, 1)),
        ({"data": -1, "fsdp": 4, "tensor": 2}, (2, 4, 2)),
        ({"data": 1, "fsdp": 1, "tensor": 16}, (1, 1, 16)),
    )
    def test_gpus_of_several_hosts(self, sizes, shape):
        devices = [Device(i) for i in range(16)]
        mesh = partitioning.make_mesh(**sizes, devices=devices[::-1])
        self.assertEqual(tuple(mesh.shape.values()), shape)
        np.testing.assert_array_equal(
            np.vectorize(lambda d: d.id)(mesh.devices), np.arange(16).reshape(shape)
        )

    def test_hosts_with_unequal_numbers_of_gpus(self):
        mesh = partitioning.make_mesh(data=2, fsdp=-1, devices=[Device(i) for i in range(4, 16)])
        self.assertEqual([d.id for d in mesh.devices.flat], list(range(4, 16)))

    def test_tpu_slices_are_split_along_data_only(self):
        devices = [Device(i, "tpu", "TPU v4") for i in range(16)]
        with self.assertRaisesRegex(UserError, "data=1 cannot be split over 2 slices"):
            partitioning.make_mesh(data=1, fsdp=-1, devices=devices)


if __name__ == "__main__":
    absltest.main()
