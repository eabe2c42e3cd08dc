"""Fingerprints: hashes of the files of a policy, so that a run notices when they are replaced.

Loading a policy is not needed, and a large model takes less than a second: files of weights are
hashed in pieces that are spread evenly over each file. Fine-tuning changes nearly all numbers of a
matrix, so a replaced model is noticed in the first piece that falls into a changed matrix.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator

from etils import epath

from restem.checkpoints import orbax, peft, pypi
from restem.checkpoints.damage import saved_checksums
from restem.errors import UserError

PIECE = 1 << 16
"""Size of a piece in bytes."""

PIECES = 64
"""Number of pieces per file; a file that is no larger than these is hashed whole."""

_HF_FILES = (
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "chat_template.*", "adapter_config.json",
    "*.safetensors",
)  # fmt: skip
"""Files from which a policy is read; others, such as README.md, may change."""


def fingerprint(reference: str) -> str | None:
    """Returns a SHA-256 of the config, the tokenizer and the weights of a policy.

    Args:
      reference: as in `restem.checkpoints.load`.

    Returns:
      The same value for the same files in any place; None if the files cannot be found or read,
      which loading the policy reports.
    """
    digest = hashlib.sha256()
    try:
        for part in _parts(reference):
            digest.update(part.encode() + b"\n")
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
    return digest.hexdigest()


def _parts(reference: str) -> Iterator[str]:
    """Yields the content that a policy's fingerprint is made of, as lines of text."""
    scheme, _, rest = reference.partition(":")
    rest = os.path.expanduser(rest)
    path = epath.Path(rest)
    match scheme:
        case "pypi":
            yield pypi.find(rest).sha256
        case "gguf":
            yield _hash(path)
        case "hf":
            is_adapter = peft.is_adapter(rest)
            if is_adapter:
                yield from _parts(peft.base_of(rest))
            elif not (path / "config.json").exists():
                raise FileNotFoundError(path)
            for file in sorted({f for pattern in _HF_FILES for f in path.glob(pattern)}):
                yield f"{file.name} {_hash(file)}"
        case "orbax":
            origin = orbax.adapter_origin(path)
            if origin is not None:
                yield from _parts(origin.base)
            for file in (path / "config.json", *sorted((path / "vocabulary").iterdir())):
                yield f"{file.name} {_hash(file)}"
            yield json.dumps(saved_checksums(path), sort_keys=True)
        case _:
            raise ValueError(reference)


def _hash(path: epath.Path) -> str:
    """Returns the size of a file and a hash of its pieces."""
    size = path.stat().length
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= PIECE * PIECES:
            digest.update(file.read())
        else:
            for i in range(PIECES):
                file.seek(i * (size - PIECE) // (PIECES - 1))  # the first and the last bytes too
                digest.update(file.read(PIECE))
    return f"{size} {digest.hexdigest()}"
