"""Reads GGUF files: header, and tensors of every type that `gguf.quants` dequantises.

The header is parsed here rather than by `gguf.GGUFReader`, which makes a NumPy array of every token
of the vocabulary (16 s for Gemma's 262,144 on a laptop's core). The format is described at
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from restem.errors import UserError

# struct codes of GGUF's scalar types; 8 is a string, 9 an array.
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Shape, type and place of a tensor in the file."""

    shape: tuple[int, ...]
    """In NumPy's order, [out, in]."""
    kind: int
    """A `gguf.GGMLQuantizationType`."""
    offset: int
    """First byte in the file."""
    row_bytes: int
    """Bytes per row; of the whole tensor, if it has one dimension."""


class GGUFFile:
    """A GGUF file: `metadata`, and tensors read a few rows at a time, by any number of threads."""

    def __init__(self, path: epath.PathLike, *more: epath.PathLike):
        """Reads the header.

        Args:
          path: the file.
          *more: the pieces that follow `path`, in order, if the file is in pieces.

        Raises:
          UserError: a path is missing or a folder, or the files together are not a GGUF file.
        """
        self.path = epath.Path(path)
        self._pieces = [self.path, *map(epath.Path, more)]
        for piece in self._pieces:
            if not piece.exists():
                raise UserError(f"{piece} does not exist; gguf: takes the path of a GGUF file")
            if piece.is_dir():
                raise UserError(f"{piece} is a folder; gguf: takes a file (for a folder, use hf:)")
        length = sum(piece.stat().length for piece in self._pieces)
        try:
            with self._open() as file:
                self.metadata, self.tensors = _parse_header(_Header(file, length))
        except (struct.error, ValueError, LookupError, EOFError, RecursionError) as error:
            raise UserError(
                f"{self.path} is not a whole GGUF file ({error}); copy or download it again"
            ) from error

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        # Long-context factors of Llama 3 are read by `gguf_config` and are not a parameter.
        return {n: t.shape for n, t in self.tensors.items() if n != "rope_freqs.weight"}

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Returns rows of a tensor as float32, [rows, ...].

        Raises:
          UserError: the file ends early, or the gguf package cannot dequantise the tensor's type.
        """
        from gguf import GGMLQuantizationType, quants

        tensor = self.tensors[name]
        start, stop, _ = rows.indices(tensor.shape[0])
        if len(tensor.shape) == 1:
            start, count = 0, 1
        else:
            count = stop - start
        with self._open() as file:
            file.seek(tensor.offset + start * tensor.row_bytes)
            raw = file.read(count * tensor.row_bytes)
        if len(raw) != count * tensor.row_bytes:
            raise UserError(f"{self.path} ends inside {name}; copy or download it again")
        kind = GGMLQuantizationType(tensor.kind)
        packed = np.frombuffer(raw, np.uint8).reshape(count, tensor.row_bytes)
        try:
            values = quants.dequantize(packed, kind)
        except NotImplementedError as error:
            raise UserError(
                f"{self.path}: {name} is of type {kind.name}, which the gguf package does not "
                "dequantise; use another quantisation of the model"
            ) from error
        if len(tensor.shape) == 1:
            return values.reshape(tensor.shape)[rows]
        return values.reshape(count, *tensor.shape[1:])

    def _open(self):
        if len(self._pieces) == 1:
            return self.path.open("rb")
        return io.BufferedReader(_Joined(self._pieces), 1 << 16)


class _Joined(io.RawIOBase):
    """Files read one after the other, as if they were one."""

    def __init__(self, pieces: Sequence[epath.Path]):
        self._pieces = pieces
        self._ends = np.cumsum([piece.stat().length for piece in pieces]).tolist()
        self._at = 0
        self._index = -1
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        index = int(np.searchsorted(self._ends, self._at, side="right"))
        if index == len(self._ends):
            return 0
        begin = self._ends[index - 1] if index else 0
        if index != self._index:
            self._close_piece()
            self._file, self._index = self._pieces[index].open("rb"), index
        self._file.seek(self._at - begin)
        data = self._file.read(min(len(buffer), self._ends[index] - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._close_piece()
        super().close()

    def _close_piece(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Header:
    """A cursor over the header's bytes."""

    def __init__(self, file, length: int):
        self._file = file
        self._length = length
        self._data = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        if size > self._length:  # a damaged size, which must not be allocated
            raise EOFError("it ends inside its header")
        while len(self._data) - self._at < size:
            more = self._file.read(max(1 << 20, size))
            if not more:
                raise EOFError("it ends inside its header")
            self._data = self._data[self._at :] + more
            self._at = 0
        self._at += size
        return self._data[self._at - size : self._at]

    def scalar(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        return layout.unpack(self.take(layout.size))[0]

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, count = self.scalar("I"), self.scalar("Q")
            if kind in _SCALARS:
                size = struct.calcsize(_SCALARS[kind])
                return np.frombuffer(self.take(size * count), "<" + _SCALARS[kind]).tolist()
            return [self.value(kind) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"a value of unknown type {kind}")
        return self.scalar(_SCALARS[kind])

    def end(self) -> int:
        """Returns how many bytes of the file have been taken."""
        return self._file.tell() - (len(self._data) - self._at)


def _parse_header(header: _Header) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns metadata and tensors by name."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if header.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = header.scalar("I")
    if version not in (2, 3):
        raise ValueError(f"version {version} is not 2 or 3")
    tensor_count, value_count = header.scalar("Q"), header.scalar("Q")
    metadata = {}
    for _ in range(value_count):
        key = header.string()
        metadata[key] = header.value(header.scalar("I"))
    infos = []
    for _ in range(tensor_count):
        name = header.string()
        shape = tuple(header.scalar("Q") for _ in range(header.scalar("I")))[::-1]
        infos.append((name, shape, header.scalar("I"), header.scalar("Q")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    begin = -(-header.end() // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in infos:
        if not shape:
            raise ValueError(f"{name} has no dimensions")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        row = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
        if row % block:
            raise ValueError(f"{name} has shape {list(shape)}, no whole blocks of {block}")
        tensors[name] = Tensor(shape, kind, begin + offset, row // block * block_bytes)
    return metadata, tensors
