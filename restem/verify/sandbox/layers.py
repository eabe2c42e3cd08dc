"""The layers that isolate programs on this machine, and whether they are enough.

A worker enters every layer that the machine allows, then attacks it from inside a jail
(`verify.sandbox.probes`); a layer is in force only if its attack failed. Unreviewed programs
require five properties, each provided by at least one layer:

    files       nothing outside the scratch folder and Python's own files is read, and nothing
                outside the scratch folder is written or given another mode, owner or time
    network     no socket, except streams between a program's own processes
    processes   no signal to others, no change of their limits and priorities, and nothing
                outlives the program
    memory      a bound for all processes of the program together
    fork bombs  a bound on their number

Namespaces give all of this to root and to users who may make user namespaces; where a container
forbids them (the usual Kubernetes pod), separate users, seccomp and Landlock still do. With less
than that, running programs is refused unless the caller allows it. Then rewards are not reliable
either: a program that is not isolated may read the files of tests or disturb its judges.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from restem.errors import UserError
from restem.verify.pool import bootstrap, transport
from restem.verify.sandbox.limits import Limits


@dataclasses.dataclass(frozen=True)
class LayerStatus:
    """One layer of isolation."""

    in_force: bool
    """Whether the attack on it failed."""
    probe: str
    """Attack that was tried at the start."""
    reason: str = ""
    """Reason why the layer is not in force; empty if it is."""


_HELD = ("seccomp", "kill_at_end")
PROPERTIES = {
    "files": (("read_only_root",), ("landlock",)),
    "network": (("network_namespace",), ("seccomp",)),
    "processes": (("pid_namespace",), ("own_user", *_HELD), ("landlock_signals", *_HELD)),
    "memory": (("cgroup_memory",), ("memory_watch",)),
    "process count": (("process_limit",),),
}
"""Required properties, each with the sets of layers of which one must be in force."""


def missing(layers: Mapping[str, LayerStatus]) -> list[str]:
    """Returns the properties that no layer in force provides; none if programs may be run."""

    def holds(alternatives: Sequence[Sequence[str]]) -> bool:
        return any(
            all(name in layers and layers[name].in_force for name in names)
            for names in alternatives
        )

    return [name for name, alternatives in PROPERTIES.items() if not holds(alternatives)]


def check(layers: Mapping[str, LayerStatus], *, allow_weak_sandbox: bool) -> None:
    """Raises UserError if isolation is too weak for unreviewed programs."""
    lacking = missing(layers)
    if lacking and not allow_weak_sandbox:
        wanted = {n for name in lacking for names in PROPERTIES[name] for n in names}
        off = "; ".join(
            f"{n}: {s.reason[:120]}" for n, s in layers.items() if n in wanted and not s.in_force
        )
        raise UserError(
            f"the sandbox does not protect {', '.join(lacking)} on this machine ({off}); allow user"
            " namespaces, or run as root in a container, or pass --allow_weak_sandbox"
            " if every program is trusted: without these, a program can also reach what decides its"
            " reward"
        )


def layers(*, without: Iterable[str] = ()) -> Mapping[str, LayerStatus]:
    """Returns every layer by name, probed by a worker started for it (about 0.3 s, once)."""
    return dict(_probed(tuple(sorted(without))))


@functools.lru_cache(maxsize=8)
def _probed(without: tuple[str, ...]) -> Mapping[str, LayerStatus]:
    config = {
        "slot": 16 * os.getpid() + 15,
        "limits": dataclasses.asdict(Limits()),
        "without": list(without),
        "packages": bootstrap.package_folders(),
    }
    process = subprocess.Popen(
        bootstrap.command("sandbox.probes", json.dumps(config)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=bootstrap.CLEAN_ENVIRONMENT,
        start_new_session=True,
    )
    with process:
        try:
            return read(transport.Channel(process.stdout.fileno(), -1).receive_message()["layers"])
        except EOFError:
            raise UserError(
                "the sandbox does not start: its probe ended; the messages above say why"
            ) from None


def read(statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, LayerStatus]:
    """Returns the layers that `probes.probe` described."""
    return {name: LayerStatus(**status) for name, status in statuses.items()}


def describe(found: Mapping[str, LayerStatus] | None = None) -> list[str]:
    """Returns lines for the user: the state of each layer, then the conclusion."""
    found = layers() if found is None else found
    lines = [
        f"{name:18} {'in force' if status.in_force else 'OFF: ' + status.reason}"
        for name, status in found.items()
    ]
    lacking = missing(found)
    if lacking:
        return [*lines, f"WEAK: {', '.join(lacking)} not protected; programs are refused"]
    return [*lines, "strong enough to run unreviewed programs"]


def in_force(found: Mapping[str, LayerStatus] | None = None) -> list[str]:
    """Returns the names of the layers in force."""
    found = layers() if found is None else found
    return [name for name, status in found.items() if status.in_force]


def summary(found: Mapping[str, LayerStatus]) -> str:
    """Returns the layers in force as one line, which goes with every verdict."""
    return ",".join(in_force(found)) or "none"
