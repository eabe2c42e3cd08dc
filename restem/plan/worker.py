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


def compile_program(job: dict[str, Any]) -> dict[str, Any]:
    """Lowers and compiles a program.

    Args:
      job: {"program", "model": ModelConfig fields, "shapes": `Shapes` fields, "topology",
        "mesh": sizes of the axes}.

    Returns:
      {"fits", "memory": bytes on a chip by kind, "flops": on a chip, "hbm_bytes",
      "collective_bytes" by kind, "seconds": roofline, "buffers": the largest temporaries,
      "compile_seconds", "notes"}, or {"fits": False, "error", "memory", "buffers"} where the
      compiler ran out of HBM.
    """
    import jax

    from restem import models, partitioning
    from restem.plan import costs, programs
    from restem.plan.chips import Slice

    where = Slice.parse(job["topology"])
    mesh = partitioning.make_mesh(**job["mesh"], devices=where.devices())
    config = models.ModelConfig.from_dict(job["model"])
    shapes = programs.Shapes(**job["shapes"])
    name = job["program"]
    program = programs.PROGRAMS[name](config, shapes, mesh)
    start = time.monotonic()
    traced = program.trace()
    trips: tuple[int, ...] = ()
    if name == "train":
        chips_rows = shapes.rows // partitioning.batch_parts(mesh)
        trips = (shapes.micro_batches, -(-chips_rows * shapes.row_length // shapes.head_chunk))
    flops = costs.flops(traced.jaxpr.jaxpr, trips) / where.chips
    memory = dict(program.kinds)
    result: dict[str, Any] = {
        "program": name,
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
    memory["padding"] = max(0, stats.argument_size_in_bytes - sum(memory.values()))
    memory["temporaries"] = stats.temp_size_in_bytes
    memory["results"] = max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
    memory["code"] = stats.generated_code_size_in_bytes
    hbm = _hbm_bytes(name, config, shapes, program.kinds, mesh)
    sent = costs.collective_bytes(hlo, trips)
    line = costs.Roofline.of(where.chip, flops, hbm, sum(sent.values()))
    return result | {
        "fits": sum(memory.values()) <= where.chip.hbm,
        "memory": memory,
        "hbm_bytes": hbm,
        "collective_bytes": sent,
        "compute_seconds": line.compute,
        "memory_seconds": line.memory,
        "interconnect_seconds": line.interconnect,
        "seconds": line.seconds,
        "bound": line.bound,
    }


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


def _hbm_bytes(name, config, shapes, kinds, mesh) -> float:
    from restem import partitioning
    from restem.plan import costs

    fsdp = mesh.shape["fsdp"]
    if name != "train":
        rounds = shapes.decode_steps if name == "decode" else 1
        return costs.hbm_bytes(name, kinds, fsdp=fsdp, rounds=rounds)
    width = 2 if config.dtype == "bfloat16" else 4
    stored = 2 if shapes.param_dtype == "bfloat16" else 4
    tokens = shapes.rows // partitioning.batch_parts(mesh) * shapes.row_length
    return costs.hbm_bytes(
        "train", kinds, fsdp=fsdp, rounds=shapes.micro_batches,
        activations=tokens * config.embed_dim * config.num_layers * width,
        compute_ratio=width / stored,
    )  # fmt: skip


def fingerprint(job: dict[str, Any]) -> str:
    """Returns the name of a job's result in the cache, a hash of job, compiler and code."""
    import importlib.metadata

    from restem import models, partitioning, sampling, training

    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode())
    for package in ("jax", "libtpu"):
        digest.update(importlib.metadata.version(package).encode())
    here = pathlib.Path(__file__).parent
    sources = [pathlib.Path(partitioning.__file__)]
    sources += [here / name for name in ("worker.py", "programs.py", "costs.py", "chips.py")]
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
        result = compile_program(job)
    except UserError as e:
        result = {"user_error": str(e)}
    with open(output, "w", encoding="utf-8") as file:
        json.dump(result, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
