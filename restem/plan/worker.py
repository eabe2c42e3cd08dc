"""The process that compiles one program for a slice.

`restem plan` runs `python -m restem.plan.worker` with a job on standard input. JAX must run on the
CPU while libtpu compiles, and the end of the process frees the compiler's memory.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
import sys
import tempfile
import time
from typing import Any


def outline(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the sizes that the engine chooses for a slice; see `compile_program` for the job."""
    _, _, sampler = _sampler(job)
    return {
        "slots": sampler.classes.slots,
        "widths": list(sampler.classes.widths),
        "sizes": list(sampler.classes.sizes),
        "prefill": {width: sampler.batches.rows(width) for width in sampler.batches.widths},
        "decode_steps": sampler.options.decode_steps,
        "ring": sampler.ring,
        "prefix": sampler.prefix,
    }


def validation(job: dict[str, Any]) -> dict[str, Any]:
    """Returns where validation decodes, {"step", "slots"}, or {"error"} where no slot fits.

    Args:
      job: {"model", "topology", "meshes": sizes of the axes of "e_step" and "m_step", "lengths",
        "shapes": `TrainShapes` fields, "arguments": keywords of `shapes.validation`}.
    """
    from restem import models, partitioning
    from restem.errors import UserError
    from restem.plan import programs, shapes
    from restem.plan.chips import Slice
    from restem.plan.lengths import Lengths

    where = Slice.parse(job["topology"])
    devices = where.devices()
    meshes = {
        step: partitioning.make_mesh(**sizes, devices=devices)
        for step, sizes in job["meshes"].items()
    }
    config = models.ModelConfig.from_dict(job["model"])
    try:
        step, slots = shapes.validation(
            config, meshes, Lengths(**job["lengths"]), programs.TrainShapes(**job["shapes"]),
            hbm=where.chip.hbm, **job["arguments"],
        )  # fmt: skip
    except UserError as e:
        return {"error": str(e)}
    return {"step": step, "slots": slots}


def _program(job: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Returns slice, mesh, `ModelConfig` and program of a job of `compile_program`."""
    from restem import models, partitioning
    from restem.plan import programs
    from restem.plan.chips import Slice

    if job["program"] != "train":
        where, mesh, sampler = _sampler(job)
        return (
            where,
            mesh,
            sampler.options.config,
            sampler.program(job["program"], job.get("width", 0)),
        )
    where = Slice.parse(job["topology"])
    mesh = partitioning.make_mesh(**job["mesh"], devices=where.devices())
    config = models.ModelConfig.from_dict(job["model"])
    return where, mesh, config, programs.train(config, programs.TrainShapes(**job["shapes"]), mesh)


def compile_program(job: dict[str, Any]) -> dict[str, Any]:
    """Lowers and compiles a program.

    Args:
      job: {"program", "model": ModelConfig fields, "topology", "mesh": sizes of the axes}; for
        "train" also "shapes": `TrainShapes` fields; for the others "sampler": arguments of
        `shapes.sampler`, and for "prefill" the "width".

    Returns:
      {"fits", "memory": bytes on a chip by kind, "flops": on a chip, "hbm_bytes",
      "collective_bytes" by kind, "axis_bytes": sent along each axis of the torus, "seconds":
      roofline, "buffers": the largest temporaries, "compile_seconds", "notes"}, or
      {"fits": False, "error", "memory", "buffers"} where the compiler ran out of HBM.
    """
    import jax

    from restem import partitioning
    from restem.plan import costs

    where, mesh, config, program = _program(job)
    start = time.monotonic()
    traced = program.trace()
    flops = costs.flops(traced.jaxpr.jaxpr, program.trips) / where.chips
    memory = {**program.kinds, **program.held}
    result: dict[str, Any] = {
        "program": job["program"],
        "mesh": dict(mesh.shape),
        "flops": flops,
        "notes": partitioning.check_divisible(config, mesh),
    }
    with tempfile.TemporaryDirectory() as dump:
        # An executable cannot print some large modules. The dump has their text, and the list of
        # buffers even if compilation ran out of memory.
        options = {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
        try:
            with partitioning.use(mesh):
                compiled = traced.lower().compile(compiler_options=options)
            error = None
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            error = " ".join(str(e).split())[:2000]
        result["compile_seconds"] = time.monotonic() - start
        result["buffers"] = largest_buffers(_dumped(dump, "memory-usage-report.txt"))
        hlo = _dumped(dump, "after_optimizations.txt")
    if error is not None:
        needed = re.search(r"\(([\d.]+)([KMG])\) exceeds available HBM", error)
        if needed:
            scale = {"K": 2**10, "M": 2**20, "G": 2**30}[needed[2]]
            memory["needed by the compiler"] = int(float(needed[1]) * scale)
        return result | {"fits": False, "memory": memory, "error": error}
    stats = compiled.memory_analysis()
    given = sum(program.kinds.values())
    memory["padding"] = max(0, stats.argument_size_in_bytes - given)
    memory["temporaries"] = stats.temp_size_in_bytes
    memory["results"] = max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
    memory["code"] = stats.generated_code_size_in_bytes
    hbm = _hbm_bytes(job, config, program.kinds, mesh)
    found = costs.collectives(hlo, program.trips)
    coordinates = [device.coords for device in mesh.devices.flat]
    along = costs.bytes_by_axis(found, coordinates)
    line = costs.Roofline.of(where, flops, hbm, along)
    return result | {
        "fits": sum(memory.values()) <= where.chip.hbm,
        "memory": memory,
        "hbm_bytes": hbm,
        "collective_bytes": costs.bytes_by_kind(found),
        "mesh_bytes": costs.bytes_by_mesh_axis(found, mesh),
        "axis_bytes": along,
        "compute_seconds": line.compute,
        "memory_seconds": line.memory,
        "interconnect_seconds": line.interconnect,
        "seconds": line.seconds,
        "bound": line.bound,
    }


def _sampler(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Returns slice, mesh and programs of the E-step."""
    from restem import models, partitioning
    from restem.plan import shapes
    from restem.plan.chips import Slice
    from restem.plan.lengths import Lengths

    where = Slice.parse(job["topology"])
    mesh = partitioning.make_mesh(**job["mesh"], devices=where.devices())
    config = models.ModelConfig.from_dict(job["model"])
    given = dict(job["sampler"])
    lengths = Lengths(**given.pop("lengths"))
    return where, mesh, shapes.sampler(config, mesh, lengths, hbm=where.chip.hbm, **given)


def largest_buffers(report: str, count: int = 5) -> list[str]:
    """Returns the largest temporaries of XLA's memory report, as "64.00GiB s32[131072,4096]".

    The report has a section for each allocation. An argument is an allocation of one value, and
    temporaries share the allocation with the most values.
    """
    sections = [
        [line.split(";") for line in section.splitlines() if line.count(";") >= 4]
        for section in report.split("cumulative_size;")[1:]
    ]
    rows = max(sections, key=len, default=[])
    return [f"{row[1].strip()} {row[-1].strip()[:100]}" for row in rows[:count]]


def _dumped(folder: str, ending: str) -> str:
    """Returns the text of the largest dumped file with this suffix, which is the program's own."""
    files = sorted(pathlib.Path(folder).glob(f"*{ending}"), key=lambda p: p.stat().st_size)
    return files[-1].read_text(encoding="utf-8") if files else ""


def _hbm_bytes(job, config, kinds, mesh) -> float:
    import jax.numpy as jnp

    from restem import models, partitioning
    from restem.models import lora
    from restem.plan import costs

    fsdp = mesh.shape["fsdp"]
    name = job["program"]
    if name != "train":
        return costs.hbm_bytes(name, kinds, fsdp=fsdp, rounds=job.get("decode_steps", 1))
    shapes = job["shapes"]
    width = jnp.dtype(config.dtype).itemsize
    of_chip = shapes["rows"] * shapes["row_length"] // partitioning.batch_parts(mesh)
    stored = jnp.dtype(shapes["param_dtype"]).itemsize
    trained = config.num_params
    if shapes["adapter"] is not None:
        tree = lora.shapes(models.param_shapes(config), lora.Lora(**shapes["adapter"]))
        import jax

        trained = sum(leaf.size for leaf in jax.tree.leaves(tree))
    parts = fsdp * mesh.shape["tensor"]
    return costs.hbm_bytes(
        "train", {**kinds, "trained": trained / parts}, fsdp=fsdp,
        rounds=shapes["micro_batches"] + bool(shapes["prefix"]),
        activations=of_chip * config.embed_dim * config.num_layers * width,
        compute_ratio=width / stored,
    )  # fmt: skip


def fingerprint(job: dict[str, Any]) -> str:
    """Returns the name of a job's result in the cache, a hash of job, compiler and code."""
    import importlib.metadata

    from restem import models, partitioning, sampling, training
    from restem.steps import preparation

    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode())
    for package in ("jax", "libtpu"):
        digest.update(importlib.metadata.version(package).encode())
    here = pathlib.Path(__file__).parent
    names = ("worker", "programs", "shapes", "costs", "chips")
    sources = [pathlib.Path(module.__file__) for module in (partitioning, preparation)]
    sources += [here / f"{name}.py" for name in names]
    for room in (models, sampling, training):
        sources += sorted(pathlib.Path(room.__file__).parent.glob("*.py"))
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def main() -> int:
    from restem.errors import UserError

    job = json.load(sys.stdin)
    # libtpu logs to both streams, so the result is written to a file.
    output = job.pop("output")
    try:
        make = {"outline": outline, "validation": validation}.get(job["program"], compile_program)
        result = make(job)
    except UserError as e:
        result = {"user_error": str(e)}
    with open(output, "w", encoding="utf-8") as file:
        json.dump(result, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
