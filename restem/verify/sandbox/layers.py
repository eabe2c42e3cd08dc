"""What isolates programs on this machine, layer by layer, and whether that is enough.

A worker enters every layer that the machine lets it enter, then attacks it from inside a jail
(`verify.sandbox.probes`); a layer is in force only if its attack failed. Four things must hold for
programs that nobody has read, each by at least one layer:

    files       nothing outside the scratch folder and Python's own files is read or written
    network     no socket
    processes   no signal to others, and nothing outlives the program
    memory      a bound for all processes of the program together
    fork bombs  a bound on their number

Name spaces give all of this to root and to users who may make user name spaces; where a container
forbids them (the usual Kubernetes pod), users of their own, seccomp and Landlock still do. With
less than that, running programs is refused unless the caller allows it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from restem.errors import UserError
from restem.verify.pool import bootstrap, codec
from restem.verify.sandbox.limits import Limits


@dataclasses.dataclass(frozen=True)
class LayerStatus:
    """One layer of isolation."""

    in_force: bool
    """Whether the attack on it failed."""
    probe: str
    """The attack that was tried at the start."""
    reason: str = ""
    """Why the layer is not in force; empty where it is."""


_HELD = ("seccomp", "kill_at_end")
PROPERTIES = {
    "files": (("read_only_root",), ("landlock",)),
    "network": (("network_namespace",), ("seccomp",)),
    "processes": (("pid_namespace",), ("own_user", *_HELD), ("landlock_signals", *_HELD)),
    "memory": (("cgroup_memory",), ("memory_watch",)),
    "process count": (("process_limit",),),
}
"""What must hold, and the sets of layers of which one must be in force for it."""


def missing(layers: Mapping[str, LayerStatus]) -> list[str]:
    """The properties that no layer in force gives; empty where programs may be run."""

    def holds(alternatives: Sequence[Sequence[str]]) -> bool:
        return any(
            all(name in layers and layers[name].in_force for name in names)
            for names in alternatives
        )

    return [name for name, alternatives in PROPERTIES.items() if not holds(alternatives)]


def check(layers: Mapping[str, LayerStatus], *, allow_weak_sandbox: bool) -> None:
    """UserError where isolation is too weak for programs that nobody has read."""
    lacking = missing(layers)
    if lacking and not allow_weak_sandbox:
        wanted = {n for name in lacking for names in PROPERTIES[name] for n in names}
        off = "; ".join(
            f"{n}: {s.reason[:120]}" for n, s in layers.items() if n in wanted and not s.in_force
        )
        raise UserError(
            f"the sandbox does not protect {', '.join(lacking)} on this machine ({off}); allow user"
            " name spaces or run as root in a container of your own, or pass --allow_weak_sandbox"
            " if every program is trusted"
        )


def layers(*, without: Iterable[str] = ()) -> Mapping[str, LayerStatus]:
    """Every layer by name, probed by a worker that is started for it (about 0.3 s, once)."""
    return dict(_probed(tuple(sorted(without))))


@functools.lru_cache(maxsize=8)
def _probed(without: tuple[str, ...]) -> Mapping[str, LayerStatus]:
    process = start_supervisor(slot=16 * os.getpid() + 15, limits=Limits(), without=without)
    try:
        return read_layers(codec.Channel(process.stdout.fileno(), -1))
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def start_supervisor(
    *, slot: int, limits: Limits, without: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """A supervisor process; its first message tells the layers, then it takes jobs."""
    config = {
        "slot": slot,
        "limits": dataclasses.asdict(limits),
        "without": list(without),
        "packages": bootstrap.package_folders(),
    }
    return subprocess.Popen(
        bootstrap.command("programs.supervisor", json.dumps(config)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=bootstrap.CLEAN_ENVIRONMENT,
        start_new_session=True,
    )


def read_layers(channel: codec.Channel) -> dict[str, LayerStatus]:
    """The first message of a supervisor."""
    try:
        hello = json.loads(channel.receive())
    except EOFError:
        raise UserError(
            "the sandbox does not start: its supervisor ended; the messages above say why"
        ) from None
    return {name: LayerStatus(**status) for name, status in hello["layers"].items()}


def describe(found: Mapping[str, LayerStatus] | None = None) -> list[str]:
    """Lines for a person: each layer with its state, then what follows from them."""
    found = layers() if found is None else found
    lines = [
        f"{name:18} {'in force' if status.in_force else 'OFF: ' + status.reason}"
        for name, status in found.items()
    ]
    lacking = missing(found)
    if lacking:
        return [*lines, f"WEAK: {', '.join(lacking)} not protected; programs are refused"]
    return [*lines, "strong enough to run programs that nobody has read"]


def in_force(found: Mapping[str, LayerStatus] | None = None) -> list[str]:
    """Names of the layers in force."""
    found = layers() if found is None else found
    return [name for name, status in found.items() if status.in_force]


def summary(found: Mapping[str, LayerStatus]) -> str:
    """The layers in force in one line, which goes with every verdict."""
    return ",".join(in_force(found)) or "none"
