"""One process of a job; `distributed_test.py` starts several.

    python distributed_process.py CASE FOLDER

with RESTEM_COORDINATOR, RESTEM_NUM_PROCESSES and RESTEM_PROCESS_ID set. Writes FOLDER/N.json.
"""

import json
import os
import pathlib
import signal
import sys
import time

from tests.helpers import xla

os.environ["XLA_FLAGS"] = xla.flags("--xla_force_host_platform_device_count=2")
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from restem import models, partitioning
from restem.errors import UserError
from restem.runtime import distributed
from restem.runtime.preemption import PREEMPTION, PreemptedError

CONFIG = models.ModelConfig(
    vocab_size=64, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=64
)


@jax.jit
def init():
    return models.init_params(CONFIG, jax.random.key(0))


def arrays(folder):
    """Logits of a model split over both hosts, on each host's own mesh, and on one device."""
    tokens = np.arange(24, dtype=np.int32).reshape(4, 6) % CONFIG.vocab_size
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), tokens.shape)
    run = jax.jit(
        lambda p, t, at: models.logits(p, CONFIG, models.forward(p, CONFIG, t, at).hidden)
    )
    params = jax.device_get(init())
    mesh = partitioning.make_mesh(fsdp=2, tensor=2)
    placed = jax.tree.map(
        partitioning.from_same_everywhere, partitioning.param_shardings(CONFIG, mesh), params
    )
    rows = partitioning.batch_sharding(mesh, 2)
    with partitioning.use(mesh):
        whole = run(
            placed,
            partitioning.from_same_everywhere(rows, tokens),
            partitioning.from_same_everywhere(rows, positions),
        )
    local_mesh = partitioning.make_mesh(tensor=2, devices=jax.local_devices())
    local = partitioning.localize(
        placed, local_mesh, partitioning.param_shardings(CONFIG, local_mesh)
    )
    mine = slice(2 * jax.process_index(), 2 * jax.process_index() + 2)
    with partitioning.use(local_mesh):
        own = run(local, tokens[mine], positions[mine])
    all_rows = partitioning.from_same_everywhere(
        partitioning.batch_sharding(partitioning.make_mesh(), 2), tokens
    )
    return {
        "one": np.asarray(run(params, tokens, positions)).tolist(),
        "global": partitioning.to_all_hosts(whole).tolist(),
        "local": np.asarray(own).tolist(),
        "all_rows": partitioning.to_all_hosts(all_rows).tolist(),
        "share": list(distributed.share(range(5))),
        "first": distributed.is_primary(),
        **told(),
    }


def late(folder):
    """Process 1 comes to the first barrier and not to the second."""
    distributed.barrier("first", timeout_s=60)
    if jax.process_index() == 1:
        while not (folder / "0.json").exists():
            time.sleep(0.1)
        return {"error": "waited"}
    try:
        distributed.barrier("samples of iteration 1", timeout_s=2)
    except distributed.LateHostError as e:
        return {"error": str(e), "exit_code": e.exit_code}
    return {"error": None}


def patient(folder):
    """The time limit is shorter than the work, but the hosts that work make progress."""
    told = distributed.run_on_primary("long work", lambda: time.sleep(7) or 7, timeout_s=4)
    if jax.process_index() == 1:
        for _ in range(7):
            time.sleep(1)
            distributed.progressed()
    distributed.barrier("a long share", timeout_s=4)
    return {"told": told}


def killed(folder):
    """Process 1 dies between two barriers."""
    distributed.barrier("first", timeout_s=60)
    if jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        distributed.barrier("second", timeout_s=4)
    except distributed.LateHostError as e:
        return {"error": str(e), "seconds": time.monotonic() - start}
    return {"error": None}


def preempted(folder):
    """Only process 1 gets SIGTERM; both stop at the same step."""
    for step in range(1, 400):
        time.sleep(0.05)
        if step == 10 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if PREEMPTION.reached():
            return {"step": step, "still": PREEMPTION.reached(), "noticed": PREEMPTION.noticed()}
    return {"step": None}


def told():
    """What one host computes and what it fails at reaches both."""
    calls = []
    value = distributed.run_on_primary("a number", lambda: calls.append(1) or 7)
    try:
        distributed.run_on_primary(
            "a fault", lambda: (_ for _ in ()).throw(UserError("no such file"))
        )
        error = None
    except UserError as e:
        error = str(e)
    gathered = [distributed.gather("hosts", jax.process_index()) for _ in range(3)]
    return {"value": value, "calls": len(calls), "error": error, "gathered": gathered}


CASES = {case.__name__: case for case in (arrays, late, patient, killed, preempted)}


def main(case: str, folder: str) -> None:
    several = distributed.initialize(
        initialization_timeout_s=60, heartbeat_timeout_s=20, shutdown_timeout_s=5
    )
    result = {"several": several, **CASES[case](pathlib.Path(folder))}
    path = pathlib.Path(folder) / f"{jax.process_index()}.json"
    path.write_text(json.dumps(result))
    if case in ("late", "killed"):
        # The other host will not come to JAX's own barrier at the end either.
        sys.stdout.flush()
        os._exit(0)
    if case == "preempted":
        raise PreemptedError


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
