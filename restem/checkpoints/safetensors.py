"""Reads rows of tensors from a safetensors file, without mapping it into memory.

The safetensors package maps whole files, whose pages count as the process's own until the kernel
reclaims them, and it cannot read from a bucket. The format is eight bytes of header length, a JSON
header and the tensors (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from restem.errors import UserError

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def _check(name: str, tensor: Mapping[str, Any]) -> None:
    """Raises `ValueError` if a tensor's entry of the header does not have the bytes it needs."""
    shape, (begin, end) = tensor["shape"], tensor["data_offsets"]
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has shape {shape} and data_offsets {[begin, end]}")
    dtype = _DTYPES.get(tensor["dtype"])
    if dtype is not None and math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{name} has shape {shape}, but {end - begin} bytes of {dtype}")


class SafetensorsFile:
    """A safetensors file: its header, and its tensors a few rows at a time."""

    def __init__(self, path: epath.PathLike):
        """Reads the header.

        Raises:
          UserError: the file ends early, or its header is damaged or contradicts itself.
        """
        self.path = epath.Path(path)
        try:
            with self.path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > 10**8:
                    raise ValueError("its header would be over 100 MB")
                header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            for name, tensor in header.items():
                _check(name, tensor)
            end = 8 + size + max((t["data_offsets"][1] for t in header.values()), default=0)
            length = self.path.stat().length
            if length < end:
                raise ValueError(f"it has {length} bytes of {end}")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self.path} is not a whole safetensors file ({error}); copy or download it again"
            ) from error
        self._begin = 8 + size
        self._header = header

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor["shape"]) for name, tensor in self._header.items()}

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Returns rows of a tensor, in the dtype of the file.

        Raises:
          UserError: the tensor is quantised.
        """
        tensor = self._header[name]
        if tensor["dtype"] not in _DTYPES:
            raise UserError(
                f"{self.path}: {name} is of type {tensor['dtype']}; quantised Hugging Face "
                "checkpoints are not supported (GGUF ones are)"
            )
        dtype = _DTYPES[tensor["dtype"]]
        length, *row = tensor["shape"]
        start, stop, _ = rows.indices(length)
        row_bytes = math.prod(row) * dtype.itemsize
        with self.path.open("rb") as file:
            file.seek(self._begin + tensor["data_offsets"][0] + start * row_bytes)
            data = file.read((stop - start) * row_bytes)
        return np.frombuffer(data, dtype).reshape(stop - start, *row)
