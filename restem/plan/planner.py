"""`restem plan`: compiles the run for a TPU slice that is not here, and says what it would take.

The real TPU compiler (libtpu, extra `restem[plan]`) compiles the sampler's prefill and decode and
the trainer's step with the shapes of the run. Memory is the compiler's own figure; times are a
roofline over the chip's published peaks, a lower bound that a run comes near to but does not reach.
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

import gin
from absl import logging

from restem import partitioning
from restem.errors import UserError
from restem.models import ModelConfig, RopeScaling
from restem.plan import programs
from restem.plan.chips import Slice
from restem.plan.result import Plan
from restem.sampling.engine import BUCKET

gin.external_configurable(ModelConfig, module="restem.models")
gin.external_configurable(RopeScaling, module="restem.models")


@gin.configurable
def local_layers(*, num_layers: int, global_every: int) -> tuple[bool, ...]:
    """Flags of sliding-window layers where every `global_every`-th layer is global (Gemma)."""
    return tuple((i + 1) % global_every != 0 for i in range(num_layers))


@gin.configurable
def plan(
    *,
    model: ModelConfig | None = None,
    topology: str | None = None,
    e_mesh: Mapping[str, int] | None = None,
    m_mesh: Mapping[str, int] | None = None,
    problems: int = 7500,
    prefix_tokens: int = 768,
    question_tokens: int = 256,
    mean_question_tokens: int = 100,
    new_tokens: int = 512,
    mean_new_tokens: int = 200,
    num_samples: int | None = None,
    kept_per_problem: int | None = None,
    slots: int | None = None,
    slot_use: float = 0.8,
    prefill_tokens: int = 8192,
    decode_steps: int = 8,
    rows_per_batch: int | None = None,
    row_length: int | None = None,
    batch_examples: int | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    optimizer: str | None = None,
    optimizer_options: Mapping[str, Any] | None = None,
    sampler_dtype: str | None = None,
    param_dtype: str | None = None,
    query_block: int | None = 256,
    steps: tuple[str, ...] = ("prefill", "decode", "train"),
    search: str = "misfit",
    cache_dir: str | None = None,
    on_progress: Callable[[str], None] = logging.info,
) -> Plan:
    """Compiles the run's programs for a slice and puts together memory, time and chip-hours.

    Arguments that are None are taken from the bindings of the run itself (`generate`, `select`,
    `improve`, `em`, `make_mesh` in the scopes e_step and m_step), and else from the paper.

    Args:
      model: the policy.
      topology: the slice, such as "v5e:16x16" or "v5p:4x4x4".
      e_mesh: sizes of the axes while sampling; -1 is what is left.
      m_mesh: the same while training.
      problems: training problems an iteration (MATH has 7,500).
      prefix_tokens: tokens of the few-shot prompt; MATH's four shots are about 700.
      question_tokens: longest question.
      mean_question_tokens: mean question.
      new_tokens: longest solution.
      mean_new_tokens: mean solution.
      num_samples: solutions a problem.
      kept_per_problem: training examples a problem: the cap, so that the M-step is not
        underestimated.
      slots: samples decoded at a time; None is 64 a part of the mesh.
      slot_use: share of slot-steps that give a token.
      prefill_tokens: question tokens prefilled at a time.
      decode_steps: tokens a slot between visits of the host.
      rows_per_batch: packed rows of a micro-batch; None is one a part of the mesh.
      row_length: tokens of a packed row; None is 1024.
      batch_examples: examples an optimizer step.
      epochs: passes over the examples.
      iterations: of ReST-EM.
      optimizer: its name, "adamw" or "adafactor".
      optimizer_options: its arguments.
      sampler_dtype: of the parameters while sampling; None is "int8" where `Run.int8_weights` says
        so, else "bfloat16".
      param_dtype: of the parameters while training.
      query_block: see `ModelConfig.query_block`; training only.
      steps: which programs to compile.
      search: "misfit" looks for the largest slots and micro-batch where those given do not fit,
        "always" also where they do, "never" does not look.
      cache_dir: results of compilations; None is ~/.cache/restem/plan.
      on_progress: told what is compiled.

    Raises:
      UserError: no model or topology is named, libtpu is missing, the topology is unknown, or the
        model does not divide over the mesh.
    """
    if model is None:
        raise UserError("plan: which policy? add --gin_file=models/NAME.gin, such as gemma3_27b")
    if topology is None:
        raise UserError("plan: which slice? add --gin_file=hardware/NAME.gin, such as v5p_64")
    where = Slice.parse(topology)
    run, tuning = _settings("generate"), _settings("improve")
    pick = lambda given, settings, name, otherwise: _first(given, settings.get(name), otherwise)
    num_samples = pick(num_samples, run, "num_samples", 32)
    kept_per_problem = pick(kept_per_problem, _settings("select"), "cap", 10)
    iterations = pick(iterations, _settings("em"), "iterations", 3)
    epochs = pick(epochs, tuning, "epochs", 8)
    batch_examples = pick(batch_examples, tuning, "batch_examples", 64)
    row_length = pick(row_length, tuning, "row_length", 1024)
    in_int8 = _settings("Run").get("int8_weights")
    sampler_dtype = sampler_dtype or ("int8" if in_int8 else "bfloat16")
    param_dtype = pick(param_dtype, tuning, "param_dtype", "float32")
    optimizer = optimizer or str(tuning.get("optimizer") or "adamw").lstrip("@").split("/")[-1]
    if optimizer_options is None:
        optimizer_options = _settings(optimizer)
    meshes = {}
    for step, given in (("e_step", e_mesh), ("m_step", m_mesh)):
        sizes = given if given is not None else _settings("make_mesh", scope=step)
        shape = partitioning.mesh_shape(where.chips, **sizes)
        meshes[step] = dict(zip(partitioning.AXES, shape, strict=True))
    parts = {step: mesh["data"] * mesh["fsdp"] for step, mesh in meshes.items()}

    slots = _round_up(pick(slots, run, "slots", 64 * parts["e_step"]), parts["e_step"])
    columns = _round_up(question_tokens, BUCKET)
    questions = _round_up(max(1, prefill_tokens // columns), parts["e_step"])
    rows = _round_up(pick(rows_per_batch, tuning, "rows_per_batch", 1), parts["m_step"])
    example_tokens = mean_question_tokens + mean_new_tokens

    def shapes_for(slots: int, rows: int) -> programs.Shapes:
        return programs.Shapes(
            prefix=_round_up(prefix_tokens, BUCKET) if prefix_tokens else 0,
            question=columns,
            new_tokens=_round_up(new_tokens, BUCKET),
            slots=slots,
            prefill_questions=questions,
            decode_steps=decode_steps,
            sampling={"temperature": 0.7, "top_k": 40},
            rows=rows,
            row_length=row_length,
            micro_batches=-(-batch_examples * example_tokens // (rows * row_length)),
            optimizer=optimizer,
            optimizer_options=dict(optimizer_options),
            sampler_dtype=sampler_dtype,
            param_dtype=param_dtype,
        )

    config = model.replace(dtype="bfloat16")
    training = config.replace(query_block=query_block, remat="full")

    def compiled(name: str, slots: int = slots, rows: int = rows) -> dict[str, Any]:
        step = "m_step" if name == "train" else "e_step"
        job = {
            "program": name,
            "model": (training if name == "train" else config).to_dict(),
            "shapes": dataclasses.asdict(shapes_for(slots, rows)),
            "topology": topology,
            "mesh": meshes[step],
        }
        size = f"{rows} rows" if name == "train" else f"{slots} slots"
        on_progress(f"compiling {name} for {topology}, {size}")
        result = _compile(job, cache_dir)
        return result | {"slots": slots, "rows": rows}

    results = {name: compiled(name) for name in steps}
    searched = {}
    for name, argument, start in (("decode", "slots", slots), ("train", "rows", rows)):
        if name not in results or search == "never":
            continue
        if results[name]["fits"] and search != "always":
            continue
        unit = parts["m_step" if name == "train" else "e_step"]
        best = _largest(
            lambda size, name=name, argument=argument: compiled(name, **{argument: size}),
            results[name], start, unit, where.chip.hbm,
        )  # fmt: skip
        searched[argument] = best[argument] if best else 0
        if best and not results[name]["fits"]:
            results[f"{name}, largest that fits"] = best

    return Plan.of(
        where=where,
        model=config,
        meshes=meshes,
        results=results,
        largest=searched,
        work={
            "problems": problems,
            "num_samples": num_samples,
            "mean_new_tokens": mean_new_tokens,
            "slot_use": slot_use,
            "prefill_questions": questions,
            "decode_steps": decode_steps,
            "examples": problems * kept_per_problem,
            "epochs": epochs,
            "batch_examples": batch_examples,
            "example_tokens": example_tokens,
            "iterations": iterations,
            "optimizer": optimizer,
        },
    )


def _largest(compiled, first, size, unit, hbm) -> dict[str, Any] | None:
    """The largest size, in multiples of `unit`, whose program fits; every step is compiled.

    What does not grow with the size is known (parameters, optimizer, prefix, code), so the next
    size to try follows from the last that fitted; without one it is half of what did not.
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


def _compile(job: dict[str, Any], cache_dir: str | None) -> dict[str, Any]:
    """Runs the worker, or takes its result from the cache."""
    from restem.plan.worker import fingerprint

    try:
        name = fingerprint(job)
    except ImportError as e:
        raise UserError(f"restem plan needs libtpu ({e}): pip install 'restem[plan]'") from e
    folder = pathlib.Path(cache_dir or pathlib.Path.home() / ".cache" / "restem" / "plan")
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
    # No TPU is asked for: look for none on the metadata server, and let several of us compile.
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def _settings(name: str, *, scope: str | None = None) -> dict[str, Any]:
    """What gin binds to the arguments of a configurable, macros resolved, references as text."""
    try:
        with gin.config_scope(scope):
            bindings = gin.get_bindings(name, resolve_references=False)
    except ValueError:  # not imported, so nothing of it is bound
        return {}

    def plain(value):
        if str(value).startswith("%"):
            return gin.query_parameter(str(value))
        return value

    return {key: plain(value) for key, value in bindings.items()}


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _round_up(number: int, multiple: int) -> int:
    return max(multiple, -(-number // multiple) * multiple)
