"""Probes of the layers: attempts to break them from inside a jail.

One program (`attacks.py`) runs in a fresh jail when a worker starts. A layer counts only if it
could be set up and its attack failed. If another layer shields a layer from attacks from inside, it
counts by what distinguishes it (a namespace by its identity).
"""

from __future__ import annotations

import json
import mmap
import os
import time
from typing import Any

from restem.verify.pool import bootstrap
from restem.verify.pool.transport import Channel
from restem.verify.sandbox import jails, process_tree
from restem.verify.sandbox.execution import Execution, Failure
from restem.verify.sandbox.limits import Limits
from restem.verify.sandbox.linux import landlock

# layer: (what the zygote or the supervisor noted, attacks that must fail, what is tried)
_LAYERS: dict[str, tuple[str | None, tuple[str, ...], str]] = {
    "user_namespace": ("user_namespace", ("user_namespace",), "compare namespaces"),
    "mount_namespace": ("mount_namespace", ("mnt_namespace",), "compare namespaces"),
    "read_only_root": (
        "read_only_root",
        ("outside_file", "outside_list", "outside_write"),
        "read, list and write outside the scratch folder",
    ),
    "pid_namespace": ("pid_namespace", ("signal", "survivor"), "signal out; outlive the program"),
    "network_namespace": ("network_namespace", ("network",), "list network interfaces"),
    "ipc_namespace": ("ipc_namespace", ("ipc_namespace",), "compare namespaces"),
    "uts_namespace": ("uts_namespace", ("uts_namespace",), "compare namespaces"),
    "own_user": ("own_user", ("root", "signal"), "become root; signal the supervisor"),
    "kill_at_end": (None, ("survivor",), "outlive the program"),
    "capabilities": (None, ("capabilities",), "look for capabilities"),
    "no_new_privs": (None, ("no_new_privs",), "ask whether privileges can be gained"),
    "seccomp": ("seccomp", ("system_calls",), "ptrace, socket, datagrams, unshare"),
    "landlock": (
        "landlock",
        ("device_write", "outside_file", "outside_list", "outside_write"),
        "open a forbidden device; read, list and write outside",
    ),
    "landlock_signals": ("landlock_signals", ("signal",), "signal the supervisor"),
    "cgroup_memory": ("cgroup_memory", ("control_group",), "look for the group"),
    "cgroup_processes": (
        "cgroup_processes",
        ("control_group",),
        "look for the group",
    ),
    "memory_watch": ("memory_watch", (), "measure private and shared memory"),
    "address_space": (None, ("address_space",), "map twice the memory limit"),
    "process_limit": (None, ("processes",), "start more processes than allowed"),
    "file_limits": (None, ("file_size", "core_file"), "make a file over the limit"),
    "parent_death": (None, ("parent_death",), "ask for the parent-death signal"),
    "descriptors": (None, ("descriptors",), "look for inherited descriptors"),
    "environment": (None, ("environment",), "look for inherited variables"),
}


def probe(worker: jails.Worker) -> dict[str, dict[str, Any]]:
    """Returns, for each layer, `{"in_force": bool, "probe": str, "reason": str}`."""
    noted = dict(worker.layers)
    group = worker.cgroup
    for name, limited in (
        ("cgroup_memory", group is not None and group.memory),
        ("cgroup_processes", group is not None and group.processes),
    ):
        problems = "left out on request" if group is None else "; ".join(group.problems)
        noted[name] = "" if limited else problems or "no controller for it"
    noted["landlock_signals"] = noted["landlock"] or (
        "" if landlock.abi() >= 6 else f"Landlock ABI {landlock.abi()} has no signal scope"
    )
    noted["memory_watch"] = _unseen_memory()
    results = _attack(worker)
    statuses = {}
    for name, (note, attacks, what) in _LAYERS.items():
        reason = noted.get(note, "a layer that it needs is off") if note else ""
        if not reason:
            found = dict.fromkeys(results.get(a, results[""]) for a in attacks)
            reason = "; ".join(filter(None, found))
        statuses[name] = {"in_force": not reason, "probe": what, "reason": reason}
    return statuses


def _unseen_memory() -> str:
    """Returns the kind of memory that the watch over programs does not see; empty if none."""
    if process_tree.memory_bytes(os.getpid()) <= 0:
        return "/proc does not tell the memory of others"
    size = 16 << 20
    for kind, flags in (("private", mmap.MAP_PRIVATE), ("shared", mmap.MAP_SHARED)):
        before = process_tree.resident_bytes(os.getpid())
        with mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS) as memory:
            for place in range(0, size, mmap.PAGESIZE):
                memory[place] = 1
            # The kernel may count a part of the pages later.
            if process_tree.resident_bytes(os.getpid()) - before < size // 2:
                return f"/proc does not tell {kind} memory"
    return ""


def _attack(worker: jails.Worker) -> dict[str, str]:
    """Returns what each attack achieved; the key "" gives the reason for missing results."""
    canary = os.path.join(worker.folder + "-canary", "file")
    os.mkdir(os.path.dirname(canary), 0o755)
    try:
        with open(canary, "w") as file:
            file.write("a secret")
        os.chmod(canary, 0o644)
        facts = {
            "supervisor": os.getpid(),
            "namespaces": {
                kind: os.readlink(f"/proc/self/ns/{kind}")
                for kind in ("user", "mnt", "ipc", "uts", "net")
            },
            "file": canary,
            "memory_mb": worker.limits.memory_mb,
            "processes": worker.limits.processes,
            "file_mb": worker.limits.file_mb,
            "environment": list(bootstrap.CLEAN_ENVIRONMENT),
        }
        with open(os.path.join(os.path.dirname(__file__), "attacks.py")) as file:
            source = file.read()
        try:
            with Execution(worker, worker.limits) as run:
                output = run.script(run.jail(source=source), json.dumps(facts), 10.0)
            results = json.loads(output)
        except (Failure, ChildProcessError, ValueError) as error:
            return {"": f"the probe failed ({': '.join(map(str, error.args))})"}
        results["survivor"] = _survivors(worker)
        return results | {"": "the probe gave no result"}
    finally:
        for path, remove in ((canary, os.unlink), (os.path.dirname(canary), os.rmdir)):
            remove(path)


def _survivors(worker: jails.Worker) -> str:
    for _ in range(20):
        left = process_tree.below_children(worker.pid)
        if not left:
            return ""
        time.sleep(0.005)
    return f"{len(left)} processes outlived the program"


def start(arguments: list[str]) -> None:
    """Starts a worker, probes it, and writes the result as a message."""
    config = json.loads(arguments[0])
    channel = Channel(-1, os.dup(1))
    os.dup2(2, 1)
    worker = jails.Worker(
        slot=config["slot"],
        limits=Limits(**config["limits"]),
        without=config["without"],
        packages=config["packages"],
    )
    try:
        channel.send_message({"layers": probe(worker)})
    finally:
        worker.close()
