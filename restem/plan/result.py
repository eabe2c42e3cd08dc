"""The result of a plan: memory, roofline and hours, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

from restem.models import ModelConfig
from restem.plan.chips import Slice


@dataclasses.dataclass(frozen=True)
class Plan:
    """The memory and time that a run takes on a slice."""

    topology: str
    """Slice, such as "v5p:4x4x4"."""
    chips: int
    """Number of chips in the slice."""
    hosts: int
    """Number of hosts of the slice."""
    hbm_per_chip: int
    """Bytes of HBM that a program may use on a chip."""
    peaks_source: str
    """Source of the chip's peak rates."""
    parameters: int
    """Number of parameters of the policy."""
    meshes: Mapping[str, Mapping[str, int]]
    """Axis sizes of "e_step" and "m_step"."""
    programs: Mapping[str, Mapping[str, Any]]
    """Results of `restem.plan.worker`, by program."""
    fits: bool
    """Whether every program fits with the given slots and rows."""
    largest: Mapping[str, int]
    """Largest "slots" and "rows" that fit, if they were searched for."""
    work: Mapping[str, Any]
    """Work of sampling and training."""
    e_step: Mapping[str, float]
    """"tokens_per_second", "prefill_hours", "decode_hours", "hours" of one iteration."""
    m_step: Mapping[str, float]
    """"steps", "step_seconds", "tokens_per_second", "hours" of one iteration."""
    hours: float
    """Hours of all iterations, at the roofline."""
    chip_hours: float
    """Hours times chips."""

    @classmethod
    def of(
        cls,
        *,
        where: Slice,
        model: ModelConfig,
        meshes: Mapping[str, Mapping[str, int]],
        results: Mapping[str, Mapping[str, Any]],
        largest: Mapping[str, int],
        work: Mapping[str, Any],
    ) -> Plan:
        """Returns a plan, with the steps' times computed from those of the programs."""
        best = {
            name: results.get(f"{name}, largest that fits", results.get(name))
            for name in ("prefill", "decode", "train")
        }
        usable = {name: r for name, r in best.items() if r is not None and r["fits"]}
        e_step = _e_step(usable, work)
        m_step = _m_step(usable, work)
        hours = work["iterations"] * (e_step.get("hours", 0.0) + m_step.get("hours", 0.0))
        return cls(
            topology=where.name,
            chips=where.chips,
            hosts=where.hosts,
            hbm_per_chip=where.chip.hbm,
            peaks_source=where.chip.source,
            parameters=model.num_params,
            meshes=meshes,
            programs=results,
            fits=all(r["fits"] for name, r in results.items() if "," not in name),
            largest=largest,
            work=work,
            e_step=e_step,
            m_step=m_step,
            hours=hours,
            chip_hours=hours * where.chips,
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    def table(self) -> str:
        """Returns the plan as text for a terminal."""
        from rich.console import Console
        from rich.table import Table

        written = io.StringIO()
        console = Console(file=written, width=110)
        mesh = lambda step: " ".join(f"{k}={v}" for k, v in self.meshes[step].items())
        console.print(
            f"{self.topology}: {self.chips} chips, {self.hosts} hosts,"
            f" {_gib(self.hbm_per_chip)} of HBM a chip; {self.parameters / 1e9:.2f} billion"
            " parameters",
            highlight=False,
        )
        console.print(
            f"E-step mesh {mesh('e_step')}; M-step mesh {mesh('m_step')}", highlight=False
        )

        memory = Table(title="memory of one chip")
        memory.add_column("")
        for name in self.programs:
            memory.add_column(name, justify="right")
        kinds = [k for r in self.programs.values() for k in r["memory"]]
        for kind in dict.fromkeys(kinds):
            cells = [r["memory"].get(kind) for r in self.programs.values()]
            memory.add_row(kind, *("" if c is None else _gib(c) for c in cells))
        memory.add_section()
        memory.add_row("fits", *("yes" if r["fits"] else "NO" for r in self.programs.values()))
        memory.add_row("size", *(_size(name, r) for name, r in self.programs.items()))
        console.print(memory)
        for name, result in self.programs.items():
            if not result["fits"]:
                console.print(f"{name} does not fit: {misfit(result)}", highlight=False)
        for what, size in self.largest.items():
            text = f"largest {what} found to fit: {size}" if size else f"no {what} fit"
            console.print(text, highlight=False)

        time = Table(title="roofline of one program on one chip (lower bounds)")
        for column in ("", "TFLOP", "HBM GB", "sent GB", "compute", "memory", "network", "bound"):
            time.add_column(column, justify="right" if column else "left")
        for name, r in self.programs.items():
            if "seconds" in r:
                time.add_row(
                    name, f"{r['flops'] / 1e12:.2f}", f"{r['hbm_bytes'] / 1e9:.1f}",
                    f"{sum(r['collective_bytes'].values()) / 1e9:.2f}",
                    _ms(r["compute_seconds"]), _ms(r["memory_seconds"]),
                    _ms(r["interconnect_seconds"]), r["bound"],
                )  # fmt: skip
        console.print(time)
        if self.e_step:
            console.print(
                f"E-step: {self.work['problems']} problems x {self.work['num_samples']} samples,"
                f" {self.e_step['tokens_per_second']:,.0f} tokens/s,"
                f" {self.e_step['hours']:.3f} h an iteration",
                highlight=False,
            )
        if self.m_step:
            console.print(
                f"M-step: {self.m_step['steps']:,.0f} steps of"
                f" {self.m_step['step_seconds']:.2f} s ({self.work['optimizer']}),"
                f" {self.m_step['hours']:.3f} h an iteration",
                highlight=False,
            )
        console.print(
            f"{self.work['iterations']} iterations: {self.hours:.2f} h, {self.chip_hours:,.0f}"
            f" chip-hours at the roofline; peaks from {self.peaks_source}",
            highlight=False,
        )
        return written.getvalue().rstrip()


def misfit(result: Mapping[str, Any]) -> str:
    """Returns a sentence about the buffers that do not fit."""
    kinds = {k: v for k, v in result["memory"].items() if k != "needed by the compiler"}
    largest = max(kinds, key=kinds.__getitem__)
    text = f"largest known buffer: {largest}, {_gib(kinds[largest])}"
    if result.get("buffers"):
        text += f"; largest temporaries: {', '.join(result['buffers'][:3])}"
    if "error" in result:
        start = result["error"].find("Ran out of memory")
        text += "; compiler: " + result["error"][max(start, 0) :].split(" HLO module")[0][:200]
    return text


def _e_step(results, work) -> dict[str, float]:
    if "decode" not in results:
        return {}
    decode = results["decode"]
    step = decode["seconds"] / work["decode_steps"]
    rate = decode["slots"] * work["slot_use"] / step
    tokens = work["problems"] * work["num_samples"] * work["mean_new_tokens"]
    calls = -(-work["problems"] // work["prefill_questions"])
    prefill = calls * results["prefill"]["seconds"] if "prefill" in results else 0.0
    return {
        "tokens_per_second": rate,
        "prefill_hours": prefill / 3600,
        "decode_hours": tokens / rate / 3600,
        "hours": (prefill + tokens / rate) / 3600,
    }


def _m_step(results, work) -> dict[str, float]:
    if "train" not in results:
        return {}
    seconds = results["train"]["seconds"]
    steps = work["epochs"] * -(-work["examples"] // work["batch_examples"])
    return {
        "steps": steps,
        "step_seconds": seconds,
        "tokens_per_second": work["batch_examples"] * work["example_tokens"] / seconds,
        "hours": steps * seconds / 3600,
    }


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _size(name: str, result: Mapping[str, Any]) -> str:
    if name.startswith("train"):
        return f"{result['rows']} rows"
    return f"{result['slots']} slots" if name.startswith("decode") else ""
