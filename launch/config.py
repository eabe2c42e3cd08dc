"""The settings that a user sets up once: project, bucket, slice and model of every launch.

A TOML file in the user's configuration folder holds them; flags of the same names override it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import os
import pathlib
import re
import tomllib
from collections.abc import Callable, Mapping

from restem.errors import UserError

ACCELERATORS = ("chip", "topology", "gpu_type", "gpu_count")
"""Fields that name a slice or GPUs."""
EXECUTORS = ("local", "vertex", "tpu_vm", "gke")
CAPACITIES = ("on_demand", "spot", "reserved")

_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/\S*)?")
_ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
_ASKED = (
    "executor", "project", "zone", "bucket", "chip", "topology", "model", "data", "image",
)  # fmt: skip
"""Fields that `--setup` asks for on a terminal."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a launch; None and empty values count as not set."""

    executor: str | None = None
    """Where jobs run: local, vertex, tpu_vm or gke."""
    project: str | None = None
    """Google Cloud project."""
    zone: str | None = None
    """Zone of the accelerators, such as us-west4-a; Vertex AI uses its region."""
    bucket: str | None = None
    """Folder of all runs, such as gs://bucket/runs."""
    chip: str | None = None
    """TPU chip: v4, v5e, v5p or v6e."""
    topology: str | None = None
    """Shape of the slice, such as 4x4 or 4x4x4."""
    gpu_type: str | None = None
    """GPU on Vertex AI, such as a100."""
    gpu_count: int | None = None
    """Number of GPUs per host."""
    capacity: str | None = None
    """Kind of capacity: on_demand, spot or reserved."""
    model: str | None = None
    """Policy reference that every host can read, such as hf:gs://bucket/models/gemma-3-4b-pt."""
    data: str | None = None
    """Folder of the published data sets, such as gs://bucket/data."""
    image: str | None = None
    """Container image; without a tag, it is built from this checkout and tagged by its content."""
    service_account: str | None = None
    """Service account that jobs run as: an e-mail address, on GKE a Kubernetes service account."""
    context: str | None = None
    """kubectl context of the GKE cluster."""
    namespace: str | None = None
    """Kubernetes namespace."""

    def __post_init__(self):
        for name, known in (("executor", EXECUTORS), ("capacity", CAPACITIES)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise UserError(f"{name} {value!r}: choose one of {', '.join(known)}")
        if self.zone is not None and not _ZONE.fullmatch(self.zone):
            raise UserError(f"zone {self.zone!r} is not a zone of Google Cloud, such as us-west4-a")
        for name in ("bucket", "data"):
            value = getattr(self, name)
            if value is not None and not _BUCKET.fullmatch(value):
                raise UserError(
                    f"{name} {value!r} is not a folder in a bucket, such as gs://mine/runs"
                )

    @property
    def region(self) -> str | None:
        return self.zone and self.zone.rpartition("-")[0]

    def require(self, *names: str) -> None:
        """Checks that settings are set.

        Raises:
          UserError: if any are missing; names them and how to set them.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise UserError(
                f"--executor={self.executor} needs {', '.join(f'--{m}' for m in missing)}: give"
                " them as flags, or keep them with launch/xm_launch.py --setup"
            )

    def on_this_machine(self) -> Config:
        """Returns the settings without a slice or GPUs: a local run takes the devices it finds."""
        return dataclasses.replace(self, **dict.fromkeys(ACCELERATORS))

    def over(self, other: Config) -> Config:
        """Returns these settings, with those of `other` where they are not set.

        A TPU chip given here overrides a GPU in `other`, and the reverse.
        """
        mine = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        theirs = dataclasses.asdict(other)
        for ours, left in ((("gpu_type",), ("chip", "topology")), (("chip",), ("gpu_type",))):
            if any(name in mine for name in ours):
                theirs |= dict.fromkeys(left)
        return Config(**{**theirs, **mine})


def path() -> pathlib.Path:
    """Returns the path of the user's file."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return pathlib.Path(folder) / "restem" / "launch.toml"


def read(file: pathlib.Path) -> Config:
    """Returns the settings of a file, all unset if the file does not exist.

    Raises:
      UserError: if it is not TOML, or has an unknown name or a wrong value.
    """
    if not file.exists():
        return Config()
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{file} is not TOML: {e}") from e
    kinds = {f.name: int if f.name == "gpu_count" else str for f in dataclasses.fields(Config)}
    for name, value in found.items():
        if name not in kinds:
            raise UserError(f"{file}: unknown setting {name!r}; known are {', '.join(kinds)}")
        if type(value) is not kinds[name]:
            raise UserError(f"{file}: {name} = {value!r} is no {kinds[name].__name__}")
    try:
        return Config(**found)
    except UserError as e:
        raise UserError(f"{file}: {e}") from e


def write(file: pathlib.Path, config: Config) -> None:
    """Writes the settings that are set to a file."""
    lines = ["# Settings of launch/xm_launch.py on this machine; flags come before them."]
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if value is not None:
            lines.append(f"{field.name} = {json.dumps(value)}")  # JSON strings are TOML strings
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ask(config: Config, prompt: Callable[[str], str]) -> Config:
    """Returns `config` with the user's answers to prompts; an empty answer keeps a value."""
    answers: dict[str, str] = {}
    for name in _ASKED:
        now = getattr(config, name)
        question = f"{name} ({_HELP[name].rstrip('.')})" + (f" [{now}]" if now else "")
        if answer := prompt(f"{question}: ").strip():
            answers[name] = answer
    return Config(**answers).over(config)


def _help() -> Mapping[str, str]:
    """Returns the docstring of each field of `Config`, which flags show too."""
    body = ast.parse(inspect.getsource(Config)).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
    }


_HELP = _help()


def help_of(name: str) -> str:
    """Returns the description of a setting."""
    return _HELP[name]
