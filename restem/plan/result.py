"""The result of a plan: memory, roofline and hours, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from restem.models import ModelConfig
from restem.plan import advice
from restem.plan.chips import Slice

HOST_SECONDS_PER_SLOT = 0.5e-6
"""Seconds that the scheduler takes for a slot in each visit: 0.52 ms for 8 steps of 1,024 slots and
1.64 ms for 4,096, measured on one core of a Xeon with AVX-512."""

NO_M_STEP = "not planned, because em.improve takes the place of fine-tuning"
"""What is said in place of the M-step of such a run."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The amount of work of an iteration."""

    problems: int
    """Training problems that an E-step asks: all of them, or a mini-batch."""
    num_samples: int
    """Samples per problem."""
    mean_question: float
    """Tokens of a question."""
    mean_solution: float
    """Tokens of a solution."""
    prefix: int
    """Tokens of the few-shot prompt."""
    max_new_tokens: int
    """Limit of a solution in tokens."""
    slot_use: float
    """Share of slot-steps that produce a token."""
    decode_steps: int
    """Tokens per slot between two visits of the host."""
    prefilled: Mapping[int, int]
    """Prefill batches by width."""
    validation_problems: int
    """Problems that each validation answers."""
    examples: int
    """Training examples."""
    epochs: int
    """Passes over the examples."""
    batch_examples: int
    """Examples per optimizer step."""
    iterations: int
    """Iterations of the run, each with an M-step."""
    e_steps: int
    """E-steps of the run; consecutive iterations may train on the samples of one (ReST)."""
    has_m_step: bool
    """Whether the M-step fine-tunes the policy; False where `em.improve` takes its place, which is
    not planned."""
    optimizer: str
    """Name of the optimizer."""
    is_adapter: bool
    """Whether an adapter is trained on frozen weights."""
    lengths: str
    """Where the lengths are from."""
    samplers: int = 1
    """Meshes that sample apart from each other: one, or each host's own."""

    @property
    def mean_example(self) -> float:
        """Tokens of a training example."""
        return self.mean_question + self.mean_solution

    @property
    def optimizer_steps(self) -> int:
        return self.epochs * -(-self.examples // self.batch_examples)

    def hours(self, e_step: float, m_step: float) -> float:
        """Returns the hours of the run from those of an E-step and of an M-step."""
        return self.e_steps * e_step + self.iterations * m_step


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
    """Whether every program fits with the chosen slots and rows."""
    largest: Mapping[str, int]
    """Largest "slots" and "rows" that fit, if they were searched for."""
    work: Work
    """Work of sampling and training."""
    e_step: Mapping[str, float]
    """Rates and hours of sampling in one E-step; see `_e_step`."""
    m_step: Mapping[str, float]
    """Rates and hours of training in one iteration; see `_m_step`."""
    hours: float
    """Hours of all iterations, at the roofline."""
    chip_hours: float
    """Hours times chips."""
    compile_seconds: float
    """Seconds of compilation on this machine, of all programs together."""
    slices: tuple[advice.Estimate, ...]
    """Estimates for other sizes of the slice."""
    advice: tuple[str, ...]
    """What would use the slice better."""

    @classmethod
    def of(
        cls,
        *,
        where: Slice,
        model: ModelConfig,
        meshes: Mapping[str, Mapping[str, int]],
        results: Mapping[str, Mapping[str, Any]],
        largest: Mapping[str, int],
        work: Work,
    ) -> Plan:
        """Returns a plan, with the steps' times computed from those of the programs."""
        best = {
            name: results.get(f"{name}, largest that fits", result)
            for name, result in results.items()
            if "," not in name
        }
        usable = {name: r for name, r in best.items() if r["fits"]}
        e_step = _e_step(usable, work, where)
        m_step = _m_step(usable, work, where, model, e_step)
        hours = work.hours(e_step.get("hours", 0.0), m_step.get("hours", 0.0))
        slices = advice.estimates(where, meshes, usable, work, e_step, m_step)
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
            compile_seconds=sum(r.get("compile_seconds", 0.0) for r in results.values()),
            slices=slices,
            advice=advice.advise(where, usable, work, slices),
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    def table(self) -> str:
        """Returns the plan as text for a terminal."""
        from rich.console import Console

        written = io.StringIO()
        console = Console(file=written, width=110)
        show = lambda text: console.print(text, highlight=False)
        mesh = lambda step: " ".join(f"{k}={v}" for k, v in self.meshes[step].items())
        show(
            f"{self.topology}: {self.chips} chips, {self.hosts} hosts,"
            f" {_gib(self.hbm_per_chip)} of HBM a chip; {self.parameters / 1e9:.2f} billion"
            " parameters"
        )
        show(f"E-step mesh {mesh('e_step')}; M-step mesh {mesh('m_step')}")
        show(f"lengths: {self.work.lengths}")
        console.print(self._memory_table())
        for name, result in self.programs.items():
            if not result["fits"]:
                show(f"{name} does not fit: {misfit(result)}")
        for what, size in self.largest.items():
            show(f"largest {what} found to fit: {size}" if size else f"no {what} fit")
        console.print(self._time_table())
        for line in self._hours():
            show(line)
        if len(self.slices) > 1:
            console.print(self._slices_table())
        for line in self.advice:
            show(f"advice: {line}")
        return written.getvalue().rstrip()

    def _memory_table(self) -> Any:
        from rich.table import Table

        table = Table(title="memory of one chip")
        table.add_column("")
        for name in self.programs:
            table.add_column(name, justify="right")
        kinds = [k for r in self.programs.values() for k in r["memory"]]
        for kind in dict.fromkeys(kinds):
            cells = [r["memory"].get(kind) for r in self.programs.values()]
            table.add_row(kind, *("" if c is None else _gib(c) for c in cells))
        table.add_section()
        table.add_row("fits", *("yes" if r["fits"] else "NO" for r in self.programs.values()))
        table.add_row("size", *(_size(name, r) for name, r in self.programs.items()))
        return table

    def _time_table(self) -> Any:
        from rich.table import Table

        table = Table(title="roofline of one program on one chip (lower bounds)")
        for column in ("", "TFLOP", "HBM GB", "sent GB", "compute", "memory", "network", "bound"):
            table.add_column(column, justify="right" if column else "left")
        for name, r in self.programs.items():
            if "seconds" in r:
                table.add_row(
                    name, f"{r['flops'] / 1e12:.2f}", f"{r['hbm_bytes'] / 1e9:.1f}",
                    f"{sum(r['collective_bytes'].values()) / 1e9:.2f}",
                    _ms(r["compute_seconds"]), _ms(r["memory_seconds"]),
                    _ms(r["interconnect_seconds"]), r["bound"],
                )  # fmt: skip
        return table

    def _slices_table(self) -> Any:
        from rich.table import Table

        table = Table(title="other sizes of this slice (estimated from the programs above)")
        for column in ("slice", "chips", "E-step h", "M-step h", "chip-hours", "fits"):
            table.add_column(column, justify="right")
        for e in self.slices:
            table.add_row(
                e.topology, str(e.chips), f"{e.e_step_hours:.3f}", f"{e.m_step_hours:.3f}",
                f"{e.chip_hours:,.0f}", "yes" if e.fits else "no",
            )  # fmt: skip
        return table

    def _hours(self) -> list[str]:
        lines, e, m, work = [], self.e_step, self.m_step, self.work
        if e:
            shared = work.e_steps != work.iterations
            per = f"E-step, of which there are {work.e_steps}" if shared else "iteration"
            lines.append(
                f"E-step: {work.problems} problems x {work.num_samples} samples,"
                f" {e['tokens_per_second']:,.0f} tokens/s"
                f" ({e['tokens_per_second'] / self.chips:,.0f} a chip),"
                f" {e['hours']:.3f} h per {per}"
                f" ({e['host_hours']:.3f} h of work on the host, beside it)"
            )
        if m:
            lines.append(
                f"M-step: {m['steps']:,.0f} steps of {m['step_seconds']:.2f} s ({work.optimizer}),"
                f" useful MFU {100 * m['mfu']:.0f}%, {m['hours']:.3f} h per iteration"
                f" ({m['validation_hours']:.3f} h of it validation)"
            )
        elif not work.has_m_step:
            lines.append(f"M-step: {NO_M_STEP}")
        lines.append(
            f"{work.iterations} iterations: {self.hours:.2f} h, {self.chip_hours:,.0f} chip-hours"
            f" at the roofline; peaks from {self.peaks_source}"
        )
        count = sum("seconds" in r for r in self.programs.values())
        lines.append(
            f"compiling these {count} programs took {self.compile_seconds:.0f} s here, one after"
            " another; a run compiles them once"
        )
        return lines


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


def _e_step(results: Mapping[str, Any], work: Work, where: Slice) -> dict[str, float]:
    """Returns rates and hours of sampling.

    A visit takes as long as the device or the host, whichever is slower; a host schedules all slots
    of its mesh. Each sample's question is copied into its slot once: read and written.
    """
    if "decode" not in results:
        return {}
    decode = results["decode"]
    slots = decode["slots"]
    host = HOST_SECONDS_PER_SLOT * slots / work.samplers
    visit = max(decode["seconds"], host)
    rate = slots * work.slot_use * work.decode_steps / visit
    samples = work.problems * work.num_samples
    decoding = samples * work.mean_solution / rate
    prefill = results.get("prefix", {}).get("seconds", 0.0)
    for width, batches in work.prefilled.items():
        prefill += batches * results.get(f"prefill {width}", {}).get("seconds", 0.0)
    inserted = 0.0
    if "insert" in results:
        rows = samples / slots
        inserted = rows * results["insert"]["hbm_bytes"] / where.chip.hbm_bandwidth
    return {
        "tokens_per_second": rate,
        "prefill_hours": prefill / 3600,
        "insert_hours": inserted / 3600,
        "decode_hours": decoding / 3600,
        "host_hours": decoding / visit * host / 3600,
        "hours": (prefill + inserted + decoding) / 3600,
    }


def _m_step(
    results: Mapping[str, Any],
    work: Work,
    where: Slice,
    model: ModelConfig,
    e_step: Mapping[str, float],
) -> dict[str, float]:
    """Returns rates and hours of training.

    Useful FLOPs are 6 for each parameter and token of an example, 4 where the weights are frozen;
    recomputation, padding and the prefix do not count. A validation answers greedily with the
    programs of the E-step, after each epoch and at the start.
    """
    if "train" not in results:
        return {}
    seconds = results["train"]["seconds"]
    tokens = work.batch_examples * work.mean_example
    useful = (4 if work.is_adapter else 6) * model.num_params * tokens
    validation = 0.0
    if "decode" in results and work.validation_problems:
        decode = results["decode"]
        rounds = math.ceil(work.validation_problems / decode["slots"])
        step = decode["seconds"] / work.decode_steps
        validation = (work.epochs + 1) * rounds * work.max_new_tokens * step
    return {
        "steps": work.optimizer_steps,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "mfu": useful / seconds / where.chips / where.chip.flops,
        "efficiency": results["train"].get("efficiency", 1.0),
        "validation_hours": validation / 3600,
        "hours": (work.optimizer_steps * seconds + validation) / 3600,
    }


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _size(name: str, result: Mapping[str, Any]) -> str:
    if name.startswith("train"):
        return f"{result['rows']} rows"
    return f"{result['slots']} slots" if name.startswith("decode") else ""
