"""Other sizes of a slice, estimated from the programs of one, and what would use it better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from restem.plan.chips import Slice


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A run on another size of the slice."""

    topology: str
    """Slice, such as "v5p:4x4x8"."""
    chips: int
    """Number of chips."""
    e_step_hours: float
    """Hours of sampling per E-step."""
    m_step_hours: float
    """Hours of training per iteration."""
    chip_hours: float
    """Chip-hours of all iterations."""
    fits: bool
    """Whether parameters and optimizer state leave room for the rest."""


_SIZES = (0.25, 0.5, 1, 2, 4)
"""Sizes that are estimated, relative to the planned slice."""


def estimates(
    where: Slice,
    meshes: Mapping[str, Mapping[str, int]],
    results: Mapping[str, Mapping[str, Any]],
    work: Any,
    e_step: Mapping[str, float],
    m_step: Mapping[str, float],
) -> tuple[Estimate, ...]:
    """Returns estimates for slices of a quarter to four times as many chips, the planned one too.

    `tensor` keeps its size and the rest of the mesh grows with the slice. Sampling then scales with
    the number of copies. A training step computes, and sends over `tensor`, in proportion to the
    positions on a chip, but gathers the same weights over `fsdp` on every chip.

    Args:
      where: the planned slice.
      meshes: sizes of the axes of "e_step" and "m_step".
      results: results of the programs that fit.
      work: `result.Work`.
      e_step: rates and hours of sampling on the planned slice.
      m_step: rates and hours of training on it.
    """
    if not e_step and not m_step:
        return ()
    found = []
    for topology in where.chip.shapes:
        other = dataclasses.replace(where, shape=tuple(map(int, topology.split("x"))))
        ratio = other.chips / where.chips
        tensor = max(mesh["tensor"] for mesh in meshes.values())
        if ratio not in _SIZES or other.chips % tensor:
            continue
        if ratio == 1 and other.shape != where.shape:
            continue
        # No slice shortens the longest solution.
        e_hours = max(e_step.get("hours", 0.0) / ratio, e_step.get("longest_hours", 0.0))
        m_hours, fits = m_step.get("hours", 0.0), True
        if "train" in results:
            train = results["train"]
            step = _step_seconds(train, ratio)
            m_hours = (work.optimizer_steps * step) / 3600 + m_step["validation_hours"]
            fits = _fits(train, ratio, where.chip.hbm)
        found.append(
            Estimate(
                topology=other.name,
                chips=other.chips,
                e_step_hours=e_hours,
                m_step_hours=m_hours,
                chip_hours=work.hours(e_hours, m_hours) * other.chips,
                fits=fits,
            )
        )
    return tuple(sorted(found, key=lambda e: e.chips))


def _step_seconds(train: Mapping[str, Any], ratio: float) -> float:
    """Returns the seconds of an optimizer step on a slice of `ratio` times as many chips."""
    sent = train["mesh_bytes"]
    total = sum(sent.values())
    gathered = sum(size for axes, size in sent.items() if axes and "tensor" not in axes)
    share = gathered / total if total else 0.0
    network = train["interconnect_seconds"] * (share + (1 - share) / ratio)
    return max(train["compute_seconds"] / ratio, train["memory_seconds"], network)


PARAMETERS = ("parameters", "optimizer", "frozen", "base", "best policy", "as loaded")
"""Kinds of memory that are as large as parameters are, whatever the slots or rows."""


def _fits(train: Mapping[str, Any], ratio: float, hbm: int) -> bool:
    memory = train["memory"]
    state = sum(memory.get(kind, 0) for kind in (*PARAMETERS, "inputs"))
    rest = sum(memory.values()) - state
    return state / ratio + rest <= hbm


_MUCH = 2.0
"""Ratio of the interconnect's time to that of the products from which on it is worth a line."""


def advise(
    where: Slice,
    results: Mapping[str, Mapping[str, Any]],
    work: Any,
    slices: Sequence[Estimate],
) -> tuple[str, ...]:
    """Returns sentences that name a setting or a slice which would use the chips better."""
    lines = []
    train = results.get("train")
    if train and train["interconnect_seconds"] > _MUCH * train["compute_seconds"]:
        positions = work.batch_examples * work.mean_example / where.chips
        factor = math.ceil(train["interconnect_seconds"] / train["compute_seconds"])
        lines.append(
            f"a training step waits for the interconnect: {work.batch_examples} examples are"
            f" {positions:,.0f} tokens on each of {where.chips} chips; with improve.batch_examples"
            f" = {factor * work.batch_examples} the products would take as long, or use a smaller"
            " slice"
        )
    fitting = [e for e in slices if e.fits]
    if fitting:
        cheapest = min(fitting, key=lambda e: e.chip_hours)
        here = next((e for e in slices if e.topology == where.name), None)
        if here is not None and cheapest.chip_hours < 0.8 * here.chip_hours:
            lines.append(
                f"{cheapest.topology} takes an estimated {cheapest.chip_hours:,.0f} chip-hours in"
                f" place of {here.chip_hours:,.0f}"
            )
    samples = work.problems * work.num_samples
    decode = results.get("decode")
    if decode and samples and samples < 2 * decode["slots"]:
        lines.append(
            f"{samples} samples do not fill {decode['slots']} slots twice, so most of the E-step"
            " is the end of its longest samples: use a smaller slice for sampling"
        )
    return tuple(lines)
