"""Run by hf_test: loads a model over 8 simulated devices, and watches the host's memory.

The "devices" of a CPU live in the host's memory, so what is bounded is the peak above the
parameters themselves.
"""

import pathlib
import tempfile

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from restem import checkpoints
from restem.checkpoints import orbax
from tests.helpers import small_models

MIB = 2**20


def memory(field: str) -> float:
    """A field of this process's status in MiB: VmRSS (resident now) or VmHWM (at its peak)."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def shardings(config):
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("fsdp", "tensor"))
    place = lambda *spec: NamedSharding(mesh, P(*spec))
    return {
        "embedding": place("tensor", "fsdp"),
        "final_norm": place(None),
        "head": place("fsdp", "tensor"),
        "layers": {
            "attention": {
                "query": place(None, "fsdp", "tensor"),
                "key": place(None, "fsdp", None, "tensor"),
                "value": place(None, "fsdp", None, None),
                "out": place(None, "tensor", None, "fsdp"),
            },
            "attention_norm": place(),
            "mlp": {
                "down": place(None, "tensor", "fsdp"),
                "gate": place(None, "fsdp", "tensor"),
                "up": place(None, "fsdp", "tensor"),
            },
            "mlp_norm": place(),
        },
    }


def main() -> None:
    raw = {**small_models.config("llama"), "vocab_size": 96}
    tensors = small_models.tensors(raw, "streaming")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        small_models.write(path, raw, tensors)
        whole = checkpoints.load(f"hf:{path}")
        sharded = checkpoints.load(f"hf:{path}", shardings=shardings)
        for name, policy in (("whole", whole), ("sharded", sharded)):
            orbax.save(path / name, policy.params, policy.config, policy.vocabulary)
        # Written on one layout of devices, read on the other.
        one = checkpoints.load(f"orbax:{path / 'sharded'}")
        many = checkpoints.load(f"orbax:{path / 'whole'}", shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, sharded.params, whole.params)
    jax.tree.map(np.testing.assert_array_equal, one.params, whole.params)
    jax.tree.map(np.testing.assert_array_equal, many.params, whole.params)
    wanted = jax.tree.leaves(shardings(whole.config))
    for policy in (sharded, many):
        for leaf, sharding in zip(jax.tree.leaves(policy.params), wanted, strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (leaf.sharding, sharding)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(one.params))
    query = sharded.params["layers"]["attention"]["query"]
    assert query.addressable_shards[0].data.shape == (3, 16, 1, 16)

    # 24 layers of 3 x 8 MiB and an embedding of 8 MiB: a stack is 192 MiB, a tensor 8.
    sizes = {"vocab_size": 2048, "hidden_size": 1024, "intermediate_size": 2048}
    raw |= {**sizes, "num_hidden_layers": 24}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        write_layers(path, raw)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = memory("VmRSS")
        policy = checkpoints.load(f"hf:{path}", dtype="float32", shardings=shardings)
        peak = memory("VmHWM") - before
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(policy.params)) / MIB
    print(f"parameters {size:.0f} MiB, peak {peak:.0f} MiB above the start")
    assert peak < size + 8 + 100, (peak, size)
    print("all equal")


def write_layers(path: pathlib.Path, raw: dict) -> None:
    """A model whose layers are all alike, so that it is made without holding it whole."""
    small = {**raw, "num_hidden_layers": 1}
    one = small_models.tensors(small, "layers")
    found = {}
    for name, tensor in one.items():
        for layer in range(raw["num_hidden_layers"] if ".layers.0." in name else 1):
            found[name.replace(".layers.0.", f".layers.{layer}.")] = tensor
    small_models.write(path, raw, found)


if __name__ == "__main__":
    main()
