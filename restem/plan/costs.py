"""The costs of a program: its matrix products, its traffic to HBM and its collectives.

The compiler's own cost analysis counts the body of a loop once, and a decoder is a loop over its
layers. FLOPs are therefore counted in the jaxpr, whose loops have known lengths, and collectives in
the compiled module, where the conditions of loops contain their bounds.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from restem.plan.chips import Slice


def flops(jaxpr: core.Jaxpr, trips: Sequence[int] = ()) -> float:
    """Returns the FLOPs of a jaxpr's matrix products, with recomputation, over all chips.

    Args:
      jaxpr: jaxpr of the whole program, before partitioning.
      trips: iterations of loops whose length is known only at run time, outermost first; 1 for
        any further loop.
    """
    total = 0.0
    eqn: Any
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            depth = math.prod(left[i] for i in contracted)
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * depth
        elif name == "while":
            rounds = trips[0] if trips else 1
            total += rounds * flops(eqn.params["body_jaxpr"].jaxpr, trips[1:])
        elif name == "cond":
            branches = _branches_on_tpu(eqn.params)
            total += max(flops(b.jaxpr, trips) for b in branches)
        else:
            rounds = eqn.params["length"] if name == "scan" else 1
            for inner in _inner(eqn.params):
                total += rounds * flops(inner, trips)
    return total


def _branches_on_tpu(params):
    """Returns the branches that a TPU may take; for branches by platform, the TPU's branch."""
    platforms = params.get("branches_platforms")
    if platforms is None:
        return params["branches"]
    ours = [b for b, p in zip(params["branches"], platforms, strict=True) if p and "tpu" in p]
    return ours or [params["branches"][platforms.index(None)]]


def _inner(params):
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = params.get(key)
        if inner is not None:
            yield getattr(inner, "jaxpr", inner)


_WIDTH = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4,
          "u32": 4, "f64": 8, "s64": 8, "u64": 8}  # fmt: skip
_COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<op>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled module."""

    op: str
    """Kind, such as "all-gather"."""
    sent: float
    """Bytes that a chip sends, over all iterations of the loops around it."""
    members: tuple[int, ...]
    """Numbers of the devices of the first group that takes part, in the order of the mesh."""


def collectives(hlo: str, trips: Sequence[int] = ()) -> list[Collective]:
    """Returns the collectives of a compiled module.

    In a ring of n chips, each sends (n - 1) / n of the result of an all-gather or all-to-all, the
    same share of the operand of a reduce-scatter, and twice that in an all-reduce. The parts of an
    asynchronous collective share a channel and count once.

    Args:
      hlo: text of the module.
      trips: iterations of loops without a constant bound, outermost first; 1 for any further loop.
    """
    computations = _computations(hlo)
    found: dict[str, Collective] = {}

    def visit(name: str, times: float, trips: Sequence[int]) -> None:
        for line in computations.get(name, ()):
            match = _COLLECTIVE.search(line)
            if match:
                channel = re.search(r"channel_id=(\d+)", line)
                key = channel[1] if channel else line.split("=")[0]
                members = _members(line)
                sent = times * _sent(match["op"], match["type"], len(members))
                if key not in found or sent > found[key].sent:
                    found[key] = Collective(match["op"], sent, members)
            if " while(" in line:
                condition = re.search(r"condition=%?([\w.\-]+)", line)[1]
                body = re.search(r"body=%?([\w.\-]+)", line)[1]
                bound = _bound(condition, computations)
                if bound is None:
                    visit(body, times * (trips[0] if trips else 1), trips[1:])
                else:
                    visit(body, times * bound, trips)
                continue
            for called in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
                visit(called, times, trips)
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            for called in re.findall(r"[\w.\-]+", branches[1]) if branches else ():
                visit(called, times, trips)

    visit("ENTRY", 1.0, trips)
    return list(found.values())


def bytes_by_kind(found: Sequence[Collective]) -> dict[str, float]:
    """Returns the bytes that a chip sends, by kind of collective."""
    totals: dict[str, float] = {}
    for one in found:
        totals[one.op] = totals.get(one.op, 0.0) + one.sent
    return totals


def bytes_by_axis(found: Sequence[Collective], coordinates: Sequence[Sequence[int]]) -> list[float]:
    """Returns the bytes that a chip sends along each axis of the torus.

    A collective uses the axes along which its members differ, each for an equal share.

    Args:
      found: the collectives.
      coordinates: place of each device of the mesh in the torus.
    """
    totals = [0.0] * len(coordinates[0])
    for one in found:
        places = [coordinates[member] for member in one.members]
        used = [axis for axis in range(len(totals)) if len({place[axis] for place in places}) > 1]
        for axis in used:
            totals[axis] += one.sent / len(used)
    return totals


def bytes_by_mesh_axis(found: Sequence[Collective], mesh: Any) -> dict[str, float]:
    """Returns the bytes that a chip sends, by the axes of the mesh over which it sends them."""
    totals: dict[str, float] = {}
    sizes = dict(mesh.shape)
    for one in found:
        places = np.unravel_index(one.members, tuple(sizes.values()))
        used = [name for name, place in zip(sizes, places, strict=True) if len(set(place)) > 1]
        key = "+".join(used)
        totals[key] = totals.get(key, 0.0) + one.sent
    return totals


def _computations(hlo: str) -> dict[str, list[str]]:
    computations: dict[str, list[str]] = {}
    current: list[str] = []
    for line in hlo.splitlines():
        start = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            current = computations.setdefault("ENTRY" if start[1] else start[2], [])
        elif line.startswith("  "):
            current.append(line)
    return computations


def _bound(condition: str, computations: Mapping[str, list[str]]) -> int | None:
    """Returns the largest constant that a loop's condition compares with, if any."""
    lines = list(computations.get(condition, ()))
    for line in list(lines):
        for called in re.findall(r"calls=%?([\w.\-]+)", line):
            lines.extend(computations.get(called, ()))
    constants = [
        int(n) for line in lines for n in re.findall(r"[su]32\[\]\S* constant\((\d+)\)", line)
    ]
    return max(constants, default=None)


def _members(line: str) -> tuple[int, ...]:
    """Returns the numbers of the first group of devices that take part in a collective."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        among = re.findall(r"'(\w+)'", mesh[2])
        numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        first = tuple(slice(None) if name in among else 0 for name in sizes)
        return tuple(numbers[first].reshape(-1).tolist())
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line)
    if pairs:
        return int(pairs[1]), int(pairs[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return tuple(map(int, listed[1].split(",")))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        dims = tuple(map(int, iota[3].split(",")))
        numbers = np.arange(math.prod(dims)).reshape(dims)
        if iota[4]:
            numbers = numbers.transpose(tuple(map(int, iota[4].split(","))))
        return tuple(numbers.reshape(int(iota[1]), int(iota[2]))[0].tolist())
    return 0, 1


def _sent(op: str, text: str, group: int) -> float:
    sizes = [
        _WIDTH[kind] * math.prod(int(d) for d in dims.split(",") if d)
        for kind, dims in re.findall(r"\b(\w+)\[([\d,]*)\]", text)
        if kind in _WIDTH
    ]
    if op == "collective-permute":
        return float(max(sizes))
    if group < 2:
        return 0.0
    share = (group - 1) / group
    if op == "all-reduce":
        return 2 * share * sum(sizes)
    if op == "reduce-scatter":
        return share * group * min(sizes) if text.startswith("(") else share * group * sum(sizes)
    return share * max(sizes) if op == "all-gather" and text.startswith("(") else share * sum(sizes)


def hbm_bytes(
    program: str,
    kinds: Mapping[str, int],
    *,
    fsdp: int,
    rounds: int,
    activations: int = 0,
    compute_ratio: float = 1.0,
) -> float:
    """Returns the least traffic between HBM and the core that a program needs, in bytes per chip.

    Every array is read once where it is used and written once where it is computed. Intermediate
    results between the matrix products of a layer are assumed to stay in VMEM. Weights that are
    sharded over `fsdp` are gathered, that is, written and read whole.

    Args:
      program: "prefix", "prefill", "insert", "decode" or "train".
      kinds: bytes of the arguments on the chip, by kind; "trained" is the number of trained
        parameters on it.
      fsdp: size of the mesh axis `fsdp`.
      rounds: number of decode steps or micro-batches; a prefix, which training computes and
        differentiates once per step, counts as a micro-batch.
      activations: bytes that each micro-batch saves for its backward pass.
      compute_ratio: bytes of a weight in the activations' dtype over its bytes as stored.
    """
    if program == "insert":
        return 2 * kinds["cache"]
    weights = kinds.get("frozen", kinds["parameters"])
    gathered = weights * compute_ratio * fsdp
    one_pass = weights + (2 * gathered if fsdp > 1 or compute_ratio != 1 else 0)
    if program in ("prefill", "prefix"):
        return one_pass + kinds.get("prefix", 0)
    if program == "decode":
        return rounds * (one_pass + kinds.get("prefix", 0) + kinds.get("cache", 0))
    # Forward, recomputation for the backward pass, and backward; gradients accumulate in place.
    gradients = 4 * kinds["trained"]
    micro = 3 * one_pass + 2 * gradients + 2 * activations
    update = 2 * kinds["parameters"] + 2 * kinds["optimizer"] + gradients
    return rounds * micro + update


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The seconds that a program takes at a chip's peak rates."""

    compute: float
    """Seconds of matrix products."""
    memory: float
    """Seconds of traffic to HBM."""
    interconnect: float
    """Seconds of collectives, on the busiest axis of the torus."""

    @property
    def seconds(self) -> float:
        """Returns the seconds if all three overlap perfectly, which is a lower bound."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def bound(self) -> str:
        """Returns the name of the longest of the three."""
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))

    @classmethod
    def of(cls, where: Slice, flops: float, hbm: float, sent: Sequence[float]) -> Roofline:
        """Returns the times on a chip of a slice, which sends `sent` bytes along each axis."""
        chip, rates = where.chip, where.axis_bandwidths
        along = (size / rate for size, rate in zip(sent, rates, strict=False) if size)
        return cls(flops / chip.flops, hbm / chip.hbm_bandwidth, max(along, default=0.0))
