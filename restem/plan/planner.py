"""`restem plan`, which compiles a run for a TPU slice without needing the slice.

The real TPU compiler (libtpu, extra `restem[plan]`) compiles the sampler's programs and the
trainer's step with the shapes that the run would choose on the slice. Memory is the compiler's own
figure. Times come from a roofline over the chip's published peaks, a lower bound that a run
approaches but does not reach.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from restem import checkpoints
from restem.errors import UserError
from restem.models import ModelConfig
from restem.plan import lengths as lengths_lib
from restem.plan import meshes as meshes_lib
from restem.plan import shapes
from restem.plan import work as work_lib
from restem.plan.advice import PARAMETERS
from restem.plan.chips import Slice
from restem.plan.lengths import Lengths
from restem.plan.result import NO_M_STEP, Plan
from restem.plan.settings import PlanSettings
from restem.plan.work import Work
from restem.plan.worker import fingerprint
from restem.run.settings import RunSettings
from restem.runtime.cache import cache_folder
from restem.steps.settings import Settings
from restem.training import optimizers


def plan(
    settings: PlanSettings,
    of_run: Settings,
    *,
    lengths: Lengths | None = None,
    cache: pathlib.Path | None = None,
    on_progress: Callable[[str], None] = logging.info,
) -> Plan:
    """Compiles the run's programs for a slice and reports memory, time and chip-hours.

    Args:
      settings: settings of `restem plan`.
      of_run: settings of the planned run.
      lengths: lengths of questions and solutions; None: as `settings` say.
      cache: folder for results of compilations; None is `plan` in the cache of restem.
      on_progress: called with a description of each compilation.

    Raises:
      UserError: if no model or topology is named, libtpu is missing, the topology is unknown, the
        model does not divide over a mesh, or the optimizer is not one of restem's.
    """
    compiler = _compiler(settings, of_run, lengths, cache, on_progress)
    where = compiler.where
    results = compiler.all(compiler.steps(settings))
    largest: dict[str, int] = {}
    for name, start, unit in compiler.sizes(results):
        if settings.search == "never" or (results[name]["fits"] and settings.search != "always"):
            continue
        what = "rows" if name == "train" else "slots"
        run = lambda size, name=name, what=what: compiler.compile(name, **{what: size})
        best = _largest(run, results[name], start, unit, where.chip.hbm)
        largest[what] = best[what] if best else 0
        if best and not results[name]["fits"]:
            results[f"{name}, largest that fits"] = best
    work = compiler.work(settings)
    return Plan.of(
        where=where, model=compiler.model, meshes=compiler.meshes, results=results,
        largest=largest, work=work, notes=compiler.notes,
        validation=compiler.validation(results, work),
    )  # fmt: skip


def outline(settings: PlanSettings, of_run: Settings) -> list[str]:
    """Returns what `plan` would compile, one program per line; compiles nothing.

    Raises:
      UserError: as in `plan`, except for errors that only the compiler finds.
    """
    compiler = _compiler(settings, of_run, None, None, logging.info)
    model, where, meshes = compiler.model, compiler.where, compiler.meshes
    lines = [
        f"model     {model.num_layers} layers of {model.embed_dim},"
        f" vocabulary {model.vocab_size:,}",
        f"slice     {where.name}: {where.chips} chips of {where.chip.hbm / 2**30:.0f} GiB",
        f"lengths   {compiler.lengths.source}",
    ]
    for name in compiler.steps(settings):
        step = "m_step" if name == "train" else "e_step"
        mesh = ", ".join(f"{axis} {size}" for axis, size in meshes[step].items())
        counted = ""
        if name == "train":
            made, _, _ = shapes.m_step(
                model, meshes[step], compiler.lengths, of_run, hbm=where.chip.hbm
            )
            counted = f"{made.rows} rows of {made.row_length}; "
        lines.append(f"{name:9} {counted}mesh {mesh}")
    if not work_lib.has_m_step(of_run):
        lines.append(f"train     {NO_M_STEP}")
    lines += [f"note      {note}" for note in compiler.notes]
    return [*lines, "dry run: nothing was compiled"]


def _compiler(
    settings: PlanSettings,
    of_run: Settings,
    lengths: Lengths | None,
    cache: pathlib.Path | None,
    on_progress: Callable[[str], None],
) -> _Compiler:
    """Returns the compiler of a run's programs; see `plan`."""
    model = _model(settings, of_run.run)
    if settings.topology is None:
        raise UserError("plan: which slice? add --gin_file=hardware/NAME.gin, such as v5p_64")
    where = Slice.parse(settings.topology)
    meshes_lib.check(model, of_run.run, where.chips, where.hosts)
    compiler = _Compiler(
        model=model,
        where=where,
        of_run=of_run,
        lengths=lengths or lengths_lib.planned(settings, of_run),
        on_progress=on_progress,
        folder=cache or cache_folder() / "plan",
    )
    if "train" in compiler.steps(settings):
        _check_optimizer(of_run.improve.optimizer)
    return compiler


def _model(settings: PlanSettings, run: RunSettings) -> ModelConfig:
    """Returns the decoder of the policy, with activations in the dtype of the run."""
    model = settings.model
    if model is None:
        if not isinstance(run.base, str):  # none is named, or gin requires one
            raise UserError(
                "plan: which policy? name it with --gin.MODEL=hf:FOLDER, or add"
                " --gin_file=models/NAME.gin, such as gemma3_27b"
            )
        model = checkpoints.load_header(run.base).config
    return model.replace(dtype=run.compute_dtype)


def _check_optimizer(optimizer: Callable[..., Any]) -> None:
    """Checks that the process which compiles the training step can make the optimizer.

    Raises:
      UserError: it is the user's own.
    """
    known = (optimizers.adamw, optimizers.adafactor)
    if inspect.unwrap(optimizer) not in map(inspect.unwrap, known):
        raise UserError(
            f"plan: knows adamw and adafactor, not improve.optimizer = @{optimizer.__name__}; plan"
            " with --gin.improve.optimizer=@adamw, or @adafactor, whichever has a state as large"
        )


@dataclasses.dataclass(frozen=True)
class _Compiler:
    """Compiles the programs of a run, each in its own process, or reads them from the cache."""

    model: ModelConfig
    """The decoder, in the dtype of activations."""
    where: Slice
    """The slice."""
    of_run: Settings
    """Settings of the run."""
    lengths: Lengths
    """Lengths of its questions and solutions."""
    on_progress: Callable[[str], None]
    """Called with a description of each compilation."""
    folder: pathlib.Path
    """Folder of results."""

    @property
    def meshes(self) -> dict[str, dict[str, int]]:
        """Sizes of the axes of the meshes "e_step" and "m_step"."""
        return meshes_lib.of_run(self.of_run.run, self.where.chips, self.where.hosts)

    @property
    def asked(self) -> Lengths:
        """Lengths of an E-step, which may ask a mini-batch of the questions."""
        size = self.of_run.loop.problems_per_iteration
        return self.lengths if size is None else self.lengths.batch(size)

    def steps(self, settings: PlanSettings) -> list[str]:
        """Returns the programs of `settings.steps` that the run has."""
        lacking = set()
        if not work_lib.has_m_step(self.of_run):
            lacking.add("train")
        if not self.lengths.prefix:
            lacking.add("prefix")
        return [step for step in settings.steps if step not in lacking]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plan leaves out."""
        if self.of_run.run.teacher is None:
            return ()
        return (
            "the E-step is planned with the policy itself, not with its teacher, Run.teacher; plan"
            " a run with the teacher as policy for the time and memory of sampling",
        )

    def all(self, steps: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the results of the programs of these steps, by name."""
        results = {}
        for step in steps:
            if step == "prefill":
                for width in self.outline()["prefill"]:
                    results[f"prefill {width}"] = self.compile(step, width=int(width))
            else:
                results[step] = self.compile(step)
        return results

    def sizes(self, results: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        """Returns (program, its size, divisor of its size) of those whose size can change."""
        parts = {step: m["data"] * m["fsdp"] for step, m in self.meshes.items()}
        found = []
        if "decode" in results:
            found.append(("decode", results["decode"]["slots"], parts["e_step"]))
        if "train" in results:
            row_parts = parts["m_step"] // results["train"]["shapes"]["length_parts"]
            found.append(("train", results["train"]["rows"], row_parts))
        return found

    def outline(self, slots: int | None = None) -> dict[str, Any]:
        """Returns the sizes that the engine chooses."""
        return self._run(self._sampler_job("outline", slots))

    def compile(
        self, name: str, *, width: int = 0, slots: int | None = None, rows: int | None = None
    ) -> dict[str, Any]:
        """Returns the worker's result for a program, with other slots or rows if given."""
        if name == "train":
            made, config, efficiency = shapes.m_step(
                self.model, self.meshes["m_step"], self.lengths, self.of_run,
                hbm=self.where.chip.hbm, rows=rows,
            )  # fmt: skip
            job: dict[str, Any] = {
                "program": name, "model": config.to_dict(), "topology": self.where.name,
                "mesh": self.meshes["m_step"], "shapes": dataclasses.asdict(made),
            }  # fmt: skip
            sizes = {
                "rows": made.rows, "shapes": dataclasses.asdict(made), "remat": config.remat,
                "efficiency": efficiency,
            }  # fmt: skip
            self.on_progress(
                f"compiling train for {self.where.name}, {made.rows} rows of {made.row_length}"
            )
            return self._run(job) | sizes
        outline = self.outline(slots)
        job = self._sampler_job(name, slots) | {"decode_steps": outline["decode_steps"]}
        if width:
            job["width"] = width
        of_width = f", {width} columns" if width else ""
        self.on_progress(
            f"compiling {name} for {self.where.name}, {outline['slots']} slots{of_width}"
        )
        sizes = {name: outline[name] for name in ("slots", "widths", "sizes", "ring")}
        return self._run(job) | sizes | {"questions": outline["prefill"].get(str(width))}

    def _sampler_job(self, name: str, slots: int | None) -> dict[str, Any]:
        run, generate = self.of_run.run, self.of_run.generate
        if slots is None and run.e_step_slots is not None:
            slots = run.e_step_slots * meshes_lib.number(run.e_step_mesh, self.where.hosts)
        return {
            "program": name,
            "model": self.model.replace(int8_weights=run.int8_weights).to_dict(),
            "topology": self.where.name,
            "mesh": self.meshes["e_step"],
            "sampler": {
                "lengths": dataclasses.asdict(self.asked),
                "num_samples": max(1, generate.num_samples),
                "max_new_tokens": work_lib.max_new_tokens(self.of_run, self.lengths),
                "sampling": dataclasses.asdict(generate.sampling),
                "dtype": run.dtype,
                "slots": slots,
            },
        }

    def validation(self, results: Mapping[str, Any], work: Work) -> dict[str, Any]:
        """Returns where validation decodes; see `worker.validation`. {}: there is none."""
        if "train" not in results or not work.validation_problems:
            return {}
        run = self.of_run.run
        held = shapes.room(
            self.model, self.meshes["m_step"], self.lengths, self.of_run, hbm=self.where.chip.hbm
        ).held
        return self._run(
            {
                "program": "validation",
                "model": self.model.replace(int8_weights=run.int8_weights).to_dict(),
                "topology": self.where.name,
                "meshes": self.meshes,
                "lengths": dataclasses.asdict(self.lengths.batch(work.validation_problems)),
                "shapes": results["train"]["shapes"],
                "arguments": {
                    "held": held,
                    "max_new_tokens": work.validation_tokens,
                    "slots": run.m_step_slots,
                },
            }
        )

    def _run(self, job: dict[str, Any]) -> dict[str, Any]:
        return _run(job, self.folder)

    def work(self, settings: PlanSettings) -> Work:
        """Returns the amount of work of an iteration."""
        return work_lib.planned(
            settings,
            self.of_run,
            self.lengths,
            asked=self.asked,
            outline=self.outline(),
            samplers=meshes_lib.number(self.of_run.run.e_step_mesh, self.where.hosts),
        )


def _largest(compiled, first, size, unit, hbm) -> dict[str, Any] | None:
    """Returns the largest size, in multiples of `unit`, whose program fits, by compiling.

    The memory that does not grow with the size is known (parameters, optimizer, prefix, code, what
    the run holds besides), so the next size to try follows from the last one that fitted. If none
    has fitted yet, the next size is half of the last one.
    """
    fitting = first if first["fits"] else None
    low, high = (size, math.inf) if first["fits"] else (0, size)
    for _ in range(5):
        if fitting is None:
            candidate = low + (high - low) // 2
        else:
            memory = fitting["memory"]
            constant = (*PARAMETERS, "prefix", "code")
            fixed = sum(memory.get(k, 0) for k in constant)
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


def _run(job: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
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
    # Flags for this machine's own XLA, of which the TPU compiler may not know all.
    "XLA_FLAGS": "",
    # No TPU is needed: do not query the metadata server, and allow several compilers at once.
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
