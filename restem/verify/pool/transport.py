"""The transport between restem's processes: frames of bytes over two descriptors.

A frame is a 4-byte little-endian length followed by that many bytes. Workers and their parents
exchange frames of JSON (a *message*); jailed programs exchange frames of
`restem.verify.programs.codec`.
Nothing that arrives is ever unpickled.
"""

from __future__ import annotations

import json
import os
import select
import struct
from typing import Any

MAX_FRAME = 256 << 20
"""Maximum bytes in one frame; a longer one ends the connection."""
_HEAD = struct.Struct("<I")


class FrameError(ValueError):
    """A frame is longer than its reader or writer allows."""


def frame(data: bytes, *, limit: int = MAX_FRAME) -> bytes:
    """Returns `data` with its length before it.

    Raises:
      FrameError: `data` is longer than `limit`.
    """
    if len(data) > limit:
        raise FrameError(f"a frame of {len(data)} bytes is over the limit of {limit}")
    return _HEAD.pack(len(data)) + data


def message(value: Any) -> bytes:
    """Returns a frame of JSON in ASCII, so that lone surrogates survive."""
    return frame(json.dumps(value, ensure_ascii=True).encode("ascii"))


class FrameBuffer:
    """Collects bytes as they arrive and returns whole frames, in time linear in the bytes."""

    def __init__(self, limit: int = MAX_FRAME):
        self.limit = limit
        self._bytes = bytearray()

    def __len__(self) -> int:
        """Returns the number of bytes that do not form a whole frame yet."""
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """Adds bytes.

        Raises:
          FrameError: if the next frame's header announces more than `limit` bytes.
        """
        self._bytes += data
        size = self._size()
        if size is not None and size > self.limit:
            raise FrameError(f"a frame of {size} bytes is over the limit of {self.limit}")

    def take(self) -> bytes | None:
        """Returns the next frame's bytes, or None while it is incomplete."""
        size = self._size()
        end = _HEAD.size + (size or 0)
        if size is None or len(self._bytes) < end:
            return None
        data = bytes(memoryview(self._bytes)[_HEAD.size : end])
        del self._bytes[:end]
        return data

    def _size(self) -> int | None:
        return _HEAD.unpack_from(self._bytes)[0] if len(self._bytes) >= _HEAD.size else None


class Channel:
    """Blocking exchange of frames over two descriptors, for processes that can be killed."""

    def __init__(self, read_fd: int, write_fd: int):
        self.read_fd, self.write_fd = read_fd, write_fd

    def send(self, data: bytes) -> None:
        self._write(frame(data))

    def receive(self, limit: int = MAX_FRAME) -> bytes:
        """Returns the next frame's bytes.

        Raises:
          EOFError: if the other side is gone.
          FrameError: if the frame is longer than `limit`.
        """
        (size,) = _HEAD.unpack(self._exactly(_HEAD.size))
        if size > limit:
            raise FrameError(f"a frame of {size} bytes is over the limit of {limit}")
        return self._exactly(size)

    def send_message(self, value: Any) -> None:
        self._write(message(value))

    def receive_message(self) -> Any:
        return json.loads(self.receive())

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.write_fd, rest) :]
            except BlockingIOError:
                select.select([], [self.write_fd], [])

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self.read_fd, min(size, 1 << 20))
            if not part:
                raise EOFError("the other side is gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
