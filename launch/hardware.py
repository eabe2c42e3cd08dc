"""The devices of a job: the gin file that lays out policies on them, and which policies divide.

Functions that read meshes and policies import JAX, and do so late.
"""

from __future__ import annotations

import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import Any

from launch import commands, image
from launch.jobs import Resources
from restem.errors import UserError

_FILES = image.ROOT / "gin" / "hardware"


def file_of(asked: Resources) -> str:
    """Returns the name of the hardware file for a slice or GPUs."""
    if asked.slice:
        for file in sorted(_FILES.glob("*.gin")):
            line = rf'^plan\.topology = "{re.escape(asked.slice.name)}"'
            if re.search(line, file.read_text(encoding="utf-8"), re.MULTILINE):
                return f"hardware/{file.name}"
    elif asked.hosts == 1 and (_FILES / f"gpu_{asked.gpu_count}.gin").exists():
        return f"hardware/gpu_{asked.gpu_count}.gin"
    return "hardware/any.gin"


def _devices(asked: Resources) -> int:
    """Returns the number of devices of a job; 0: those that its hosts find."""
    if asked.slice is not None:
        return asked.slice.chips
    return asked.hosts * asked.gpu_count


def check_sizes(run: Any, asked: Resources) -> None:
    """Checks that the meshes of a run have as many devices as its job.

    Raises:
      UserError: they do not.
    """
    from restem.plan import meshes

    if devices := _devices(asked):
        meshes.of_run(run, devices, asked.hosts)


def reading(models: Sequence[str], asked: Resources) -> list[list[str]]:
    """Returns the commands that read the shapes of policies in a bucket."""
    if not _devices(asked):
        return []
    return [_cat(model) for model in models if model.startswith("hf:") and "://" in model]


def _cat(model: str) -> list[str]:
    return ["gcloud", "storage", "cat", f"{model.removeprefix('hf:').rstrip('/')}/config.json"]


def check_policies(points: Sequence[tuple[str, Any]], asked: Resources, *, ask: bool) -> None:
    """Checks that policies divide over the meshes of their jobs.

    A policy whose shapes cannot be read from here is left to restem.

    Args:
      points: policy reference and `RunSettings` of each job.
      asked: hosts and accelerators.
      ask: whether gcloud may read a policy in a bucket.

    Raises:
      UserError: a policy does not divide; the message names flags with which it does.
    """
    from restem.plan import meshes

    devices = _devices(asked)
    if not devices:
        return
    known: dict[str, Any] = {}
    for model, run in points:
        if model not in known:
            known[model] = _config(model, ask=ask)
        if known[model] is not None:
            meshes.check(known[model], run, devices, asked.hosts)


def _config(model: str, *, ask: bool) -> Any:
    """Returns the `ModelConfig` of a policy; None if it cannot be read from here."""
    from restem import checkpoints
    from restem.checkpoints import hf, hf_config

    try:
        if "://" not in model:
            return checkpoints.load_header(model).config
        if not (ask and model.startswith("hf:")):
            return None
        code, text, _ = commands.ask(_cat(model))
        if code:  # a folder of `peft`, perhaps
            return None
        with tempfile.TemporaryDirectory(prefix="restem-launch-") as folder:
            (pathlib.Path(folder) / "config.json").write_text(text, encoding="utf-8")
            return hf_config.config(hf.HFFolder(folder))
    except (UserError, OSError, ValueError, KeyError):
        return None
