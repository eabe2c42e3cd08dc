"""`restem plan`, which compiles a run for a TPU slice without needing the slice.

The real TPU compiler (libtpu, extra `restem[plan]`) compiles the sampler's prefill and decode and
the trainer's step with the shapes of the run. Memory is the compiler's own figure. Times come from
a roofline over the chip's published peaks, a lower bound that a run approaches but does not reach.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from restem import partitioning
from restem.errors import UserError
from restem.models import ModelConfig
from restem.plan import programs
from restem.plan.chips import Slice
from restem.plan.result import Plan
from restem.plan.settings import PlanSettings
from restem.plan.worker import fingerprint
from restem.run import bindings
from restem.run.settings import MeshSettings
from restem.runtime.cache import cache_folder
from restem.sampling.engine import BUCKET
from restem.steps.settings import Settings


def plan(
    settings: PlanSettings,
    of_run: Settings,
    *,
    cache: pathlib.Path | None = None,
    on_progress: Callable[[str], None] = logging.info,
) -> Plan:
    """Compiles the run's programs for a slice and reports memory, time and chip-hours.

    Args:
      settings: settings of `restem plan`.
      of_run: settings of the planned run.
      cache: folder for results of compilations; None is `plan` in the cache of restem.
      on_progress: called with a description of each compilation.

    Raises:
      UserError: if no model or topology is named, libtpu is missing, the topology is unknown, or
        the model does not divide over the mesh.
    """
    where, meshes, sizes = _sized(settings, of_run)
    compiler = _Compiler(
        settings=settings, sizes=sizes, meshes=meshes, on_progress=on_progress,
        folder=cache or cache_folder() / "plan", remat=of_run.improve.remat,
    )  # fmt: skip
    results: dict[str, dict[str, Any]] = {n: compiler.compile(n) for n in settings.steps}
    largest: dict[str, int] = {}
    for name, argument, start in (("decode", "slots", sizes.slots), ("train", "rows", sizes.rows)):
        if name not in results or settings.search == "never":
            continue
        if results[name]["fits"] and settings.search != "always":
            continue
        best = _largest(
            compiler.of_size(name, argument), results[name], start, sizes.unit(name),
            where.chip.hbm,
        )  # fmt: skip
        largest[argument] = best[argument] if best else 0
        if best and not results[name]["fits"]:
            results[f"{name}, largest that fits"] = best
    return Plan.of(
        where=where,
        model=compiler.sampled_model,
        meshes=meshes,
        results=results,
        largest=largest,
        work=sizes.work,
    )


def outline(settings: PlanSettings, of_run: Settings) -> list[str]:
    """Returns what `plan` would compile, one program per line; compiles nothing.

    Raises:
      UserError: as in `plan`, except for errors that only the compiler finds.
    """
    where, meshes, sizes = _sized(settings, of_run)
    assert settings.model is not None  # or `_sized` had refused
    lines = [
        f"model     {settings.model.num_layers} layers of {settings.model.embed_dim},"
        f" vocabulary {settings.model.vocab_size:,}",
        f"slice     {settings.topology}: {where.chips} chips of {where.chip.hbm / 2**30:.0f} GiB",
    ]
    for name in settings.steps:
        mesh = ", ".join(f"{axis} {size}" for axis, size in meshes[_step(name)].items())
        lines.append(f"{name:9} {sizes.counted(name)}; mesh {mesh}")
    return [*lines, "dry run: nothing was compiled"]


def _sized(
    settings: PlanSettings, of_run: Settings
) -> tuple[Slice, dict[str, dict[str, int]], _Sizes]:
    """Returns the slice, the meshes of both steps on it, and the sizes of a run's arrays."""
    if settings.model is None:
        raise UserError("plan: which policy? add --gin_file=models/NAME.gin, such as gemma3_27b")
    if settings.topology is None:
        raise UserError("plan: which slice? add --gin_file=hardware/NAME.gin, such as v5p_64")
    where = Slice.parse(settings.topology)
    meshes = {
        "e_step": _sizes(where, of_run.run.e_step_mesh),
        "m_step": _sizes(where, of_run.run.m_step_mesh),
    }
    return where, meshes, _Sizes.of(settings, of_run, meshes)


def kept_per_problem(of_run: Settings) -> int:
    """Returns the most training examples per problem, so that the M-step is not underestimated."""
    sampled = max(1, of_run.generate.num_samples)  # 0: human solutions, one per problem
    cap = of_run.select.cap
    return sampled if cap is None else min(cap, sampled)


def _sizes(where: Slice, mesh: MeshSettings | None) -> dict[str, int]:
    """Returns the axis sizes of a mesh over all chips of a slice."""
    mesh = mesh or MeshSettings()
    shape = partitioning.mesh_shape(where.chips, data=mesh.data, fsdp=mesh.fsdp, tensor=mesh.tensor)
    return dict(zip(partitioning.AXES, shape, strict=True))


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """The sizes of a run's arrays on its meshes."""

    shapes: programs.Shapes
    """Shapes with the slots and rows of the run's settings."""
    parts: Mapping[str, int]
    """Number of mesh parts that rows are split over, for "e_step" and "m_step"."""
    work: Mapping[str, Any]
    """Work of sampling and training, as `Plan.of` expects it."""

    @property
    def slots(self) -> int:
        return self.shapes.slots

    @property
    def rows(self) -> int:
        return self.shapes.rows

    def unit(self, name: str) -> int:
        """Returns the number that slots or rows are a multiple of."""
        return self.parts[_step(name)]

    def counted(self, name: str) -> str:
        """Returns the size of a program in words."""
        return f"{self.rows} rows" if name == "train" else f"{self.slots} slots"

    @classmethod
    def of(
        cls, settings: PlanSettings, of_run: Settings, meshes: Mapping[str, Mapping[str, int]]
    ) -> _Sizes:
        parts = {step: mesh["data"] * mesh["fsdp"] for step, mesh in meshes.items()}
        tuning = of_run.improve
        slots = of_run.run.e_step_slots or settings.slots_per_part * parts["e_step"]
        columns = _round_up(settings.question_tokens, BUCKET)
        questions = _round_up(max(1, settings.prefill_tokens // columns), parts["e_step"])
        rows = _round_up(tuning.rows_per_batch or 1, parts["m_step"])
        row_length = tuning.row_length or settings.row_length
        example_tokens = settings.mean_question_tokens + settings.mean_new_tokens
        batch_tokens = tuning.batch_examples * example_tokens
        optimizer = tuning.optimizer.__name__
        shapes = programs.Shapes(
            prefix=_round_up(settings.prefix_tokens, BUCKET) if settings.prefix_tokens else 0,
            question=columns,
            new_tokens=_round_up(settings.new_tokens, BUCKET),
            slots=_round_up(slots, parts["e_step"]),
            prefill_questions=questions,
            decode_steps=settings.decode_steps,
            sampling=dataclasses.asdict(of_run.generate.sampling),
            rows=rows,
            row_length=row_length,
            micro_batches=-(-batch_tokens // (rows * row_length)),
            optimizer=optimizer,
            optimizer_options=bindings.arguments_of(optimizer),
            sampler_dtype="int8" if of_run.run.int8_weights else of_run.run.dtype,
            param_dtype=tuning.param_dtype or of_run.run.dtype,
        )
        work = {
            "problems": settings.problems,
            "num_samples": of_run.generate.num_samples,
            "mean_new_tokens": settings.mean_new_tokens,
            "slot_use": settings.slot_use,
            "prefill_questions": questions,
            "decode_steps": settings.decode_steps,
            "examples": settings.problems * kept_per_problem(of_run),
            "epochs": tuning.epochs,
            "batch_examples": tuning.batch_examples,
            "example_tokens": example_tokens,
            "iterations": of_run.loop.iterations,
            "optimizer": optimizer,
        }
        return cls(shapes, parts, work)


@dataclasses.dataclass(frozen=True)
class _Compiler:
    """Compiles the programs of a plan, each in its own process, or reads them from the cache."""

    settings: PlanSettings
    sizes: _Sizes
    meshes: Mapping[str, Mapping[str, int]]
    on_progress: Callable[[str], None]
    folder: pathlib.Path
    remat: str | None

    @property
    def sampled_model(self) -> ModelConfig:
        assert self.settings.model is not None  # or `plan` had refused
        return self.settings.model.replace(dtype="bfloat16")

    def compile(self, name: str, **size: int) -> dict[str, Any]:
        """Returns the worker's result for a program, with different slots or rows if given."""
        changes: dict[str, Any] = {**size}
        shapes = dataclasses.replace(self.sizes.shapes, **changes)
        model = self.sampled_model
        if name == "train":
            model = model.replace(remat=self.remat or "full")
        job = {
            "program": name,
            "model": model.to_dict(),
            "shapes": dataclasses.asdict(shapes),
            "topology": self.settings.topology,
            "mesh": self.meshes[_step(name)],
        }
        counted = f"{shapes.rows} rows" if name == "train" else f"{shapes.slots} slots"
        self.on_progress(f"compiling {name} for {self.settings.topology}, {counted}")
        result = _compile(job, self.folder)
        return result | {"slots": shapes.slots, "rows": shapes.rows}

    def of_size(self, name: str, argument: str) -> Callable[[int], dict[str, Any]]:
        """Returns the program's result as a function of its slots or rows."""
        return lambda size: self.compile(name, **{argument: size})


def _step(name: str) -> str:
    """Returns the step that a program belongs to."""
    return "m_step" if name == "train" else "e_step"


def _largest(compiled, first, size, unit, hbm) -> dict[str, Any] | None:
    """Returns the largest size, in multiples of `unit`, whose program fits, by compiling.

    The memory that does not grow with the size is known (parameters, optimizer, prefix, code), so
    the next size to try follows from the last one that fitted. If none has fitted yet, the next
    size is half of the last one.
    """
    fitting = first if first["fits"] else None
    low, high = (size, math.inf) if first["fits"] else (0, size)
    for _ in range(5):
        if fitting is None:
            candidate = low + (high - low) // 2
        else:
            memory = fitting["memory"]
            fixed = sum(memory.get(k, 0) for k in ("parameters", "optimizer", "prefix", "code"))
            grows = max(1, sum(memory.values()) - fixed)
            candidate = int(low * (hbm - fixed) / grows)
            if candidate >= high:
                candidate = (low + high) // 2
        candidate = int(candidate) // unit * unit
        if candidate <= low:
            break
        result = compiled(candidate)
        if result["fits"]:
            fitting, low = result, candidate
        else:
            high = candidate
    return fitting


def _compile(job: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Runs the worker, or reads its result from the cache."""
    try:
        name = fingerprint(job)
    except ImportError as e:
        raise UserError(f"restem plan needs libtpu ({e}): pip install 'restem[plan]'") from e
    path = folder / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        output = os.path.join(scratch, "result.json")
        done = subprocess.run(
            [sys.executable, "-m", "restem.plan.worker"],
            input=json.dumps({**job, "output": output}),
            capture_output=True,
            text=True,
            env={**os.environ, **_ENVIRONMENT},
        )
        if done.returncode or not os.path.exists(output):
            tail = " ".join(done.stderr.split())[-600:]
            raise UserError(
                f"compiling {job['program']} for {job['topology']} failed"
                f" (exit {done.returncode}): {tail}"
            )
        with open(output, encoding="utf-8") as file:
            result = json.load(file)
    if "user_error" in result:
        raise UserError(result["user_error"])
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(path)
    return result


_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # No TPU is needed: do not query the metadata server, and allow several compilers at once.
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def _round_up(number: int, multiple: int) -> int:
    return max(multiple, -(-number // multiple) * multiple)
