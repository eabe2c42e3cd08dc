"""The result of a plan: memory, roofline and hours, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from restem.models import ModelConfig
from restem.plan import advice
from restem.plan.chips import Slice
from restem.plan.work import Work
from restem.sampling import widths

HOST_SECONDS_PER_SLOT = 0.5e-6
"""Seconds that the scheduler takes for a slot in each visit: 0.52 ms for 8 steps of 1,024 slots and
1.64 ms for 4,096, measured on one core of a Xeon with AVX-512."""

NO_E_STEP = "the policy samples nothing (generate.num_samples = 0); decoding is validation"
"""What is said in place of the E-step of such a run."""

NO_M_STEP = "not planned, because em.improve takes the place of fine-tuning"
"""What is said in place of the M-step of such a run."""


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
    """Whether every program fits with the chosen slots and rows, and so does validation."""
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
    notes: tuple[str, ...] = ()
    """What the plan leaves out."""
    validation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Where validation decodes beside the state of training; see `worker.validation`."""

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
        notes: Sequence[str] = (),
        validation: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Returns a plan, with the steps' times computed from those of the programs."""
        best = {
            name: results.get(f"{name}, largest that fits", result)
            for name, result in results.items()
            if "," not in name
        }
        usable = {name: r for name, r in best.items() if r["fits"]}
        e_step = _e_step(usable, work, where)
        m_step = _m_step(usable, work, where, model, validation or {})
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
            fits=all(r["fits"] for name, r in results.items() if "," not in name)
            and "error" not in (validation or {}),
            largest=largest,
            work=work,
            e_step=e_step,
            m_step=m_step,
            hours=hours,
            chip_hours=hours * where.chips,
            compile_seconds=sum(r.get("compile_seconds", 0.0) for r in results.values()),
            slices=slices,
            advice=advice.advise(where, usable, work, slices),
            notes=tuple(notes),
            validation=validation or {},
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
        if self.validation:
            show(f"validation {_place(self.validation)}")
        for line in self.notes:
            show(f"note: {line}")
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
        elif not work.num_samples:
            lines.append(f"E-step: {NO_E_STEP}")
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
    """Returns rates and hours of sampling; none if the policy samples nothing.

    A visit takes as long as the device or the host, whichever is slower; a host schedules all slots
    of its mesh. Sampling takes at least as long as its longest solution. Each sample's question is
    copied into its slot once: read and written.
    """
    if "decode" not in results or not work.num_samples:
        return {}
    decode = results["decode"]
    slots = decode["slots"]
    host = _host_seconds(decode, work)
    visit = max(decode["seconds"], host)
    samples = work.problems * work.num_samples
    tokens = samples * work.mean_solution
    longest = work.longest_solution * _step_seconds(decode, work, samples)
    decoding = max(tokens / (slots * work.slot_use * work.decode_steps) * visit, longest)
    prefill = results.get("prefix", {}).get("seconds", 0.0)
    for width, batches in work.prefilled.items():
        prefill += batches * results.get(f"prefill {width}", {}).get("seconds", 0.0)
    inserted = 0.0
    if "insert" in results:
        rows = samples / slots
        inserted = rows * results["insert"]["hbm_bytes"] / where.chip.hbm_bandwidth
    return {
        "tokens_per_second": tokens / decoding,
        "prefill_hours": prefill / 3600,
        "insert_hours": inserted / 3600,
        "decode_hours": decoding / 3600,
        "host_hours": decoding / visit * host / 3600,
        "longest_hours": longest / 3600,
        "hours": (prefill + inserted + decoding) / 3600,
    }


def _host_seconds(decode: Mapping[str, Any], work: Work) -> float:
    """Returns the seconds that the scheduler of a host takes for a visit."""
    return HOST_SECONDS_PER_SLOT * decode["slots"] / work.samplers


def _step_seconds(decode: Mapping[str, Any], work: Work, samples: int) -> float:
    """Returns the seconds of a decode step in the smallest batch with a slot for each sample.

    Its slots are one of `widths.LEVELS` of all slots. Products, caches and the work of the host are
    fewer with fewer slots; the weights are read all the same.
    """
    divisor = max((d for d in widths.LEVELS if samples * d <= decode["slots"]), default=1)
    caches = work.decode_steps * decode["memory"].get("cache", 0) / decode["hbm_bytes"]
    visit = max(
        decode["compute_seconds"] / divisor,
        decode["memory_seconds"] * (1 - caches * (1 - 1 / divisor)),
        decode["interconnect_seconds"],
        _host_seconds(decode, work) / divisor,
    )
    return visit / work.decode_steps


def _m_step(
    results: Mapping[str, Any],
    work: Work,
    where: Slice,
    model: ModelConfig,
    validated: Mapping[str, Any],
) -> dict[str, float]:
    """Returns rates and hours of training.

    Useful FLOPs are 6 for each parameter and token of an example, 4 where the weights are frozen;
    recomputation, padding and the prefix do not count. A validation answers greedily with the
    programs of the E-step, in the slots that it has beside the state of training, and takes as long
    as a solution of the greatest length.
    """
    if "train" not in results:
        return {}
    seconds = results["train"]["seconds"]
    tokens = work.batch_examples * work.mean_example
    useful = (4 if work.is_adapter else 6) * model.num_params * tokens
    validation = 0.0
    if "decode" in results and work.validation_problems:
        decode = results["decode"]
        slots = min(decode["slots"], validated.get("slots", math.inf))
        rounds = math.ceil(work.validation_problems / slots)
        step = _step_seconds(decode, work, min(work.validation_problems, slots))
        validation = work.validations * rounds * work.validation_tokens * step
    return {
        "steps": work.optimizer_steps,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "mfu": useful / seconds / where.chips / where.chip.flops,
        "efficiency": results["train"].get("efficiency", 1.0),
        "validation_hours": validation / 3600,
        "hours": (work.optimizer_steps * seconds + validation) / 3600,
    }


def _place(validation: Mapping[str, Any]) -> str:
    """Returns the rest of a sentence about where validation decodes."""
    if "error" in validation:
        return f"does not fit beside the state of training: {validation['error']}"
    text = f"fits beside the state of training: {validation['slots']} slots"
    if validation["step"] == "e_step":
        return f"{text} on the mesh of the E-step"
    return f"{text} on the mesh of training, where a token takes longer than is planned here"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _size(name: str, result: Mapping[str, Any]) -> str:
    if name.startswith("train"):
        return f"{result['rows']} rows"
    return f"{result['slots']} slots" if name.startswith("decode") else ""
