"""`metrics.jsonl`: one line per call of `log`, {"step": .., "time": .., NAME: VALUE, ...}.

A value that is not finite, such as the loss of a run that diverged, is null: JSON has no word for
it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping

from restem.run.layout import Workdir
from restem.run.trackers.mirror import Mirror


class JsonLines:
    """Appends scalars to `metrics.jsonl`."""

    def __init__(self, files: Workdir):
        self._mirror = Mirror(files.path)
        self._path = self._mirror.fetch("metrics.jsonl")
        is_cut = self._path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = self._path.open("a", encoding="utf-8")
        if is_cut:  # a kill interrupted the last write
            self._file.write("\n")

    def last_steps(self) -> dict[str, int]:
        """Returns the last logged step of each name; skips a line that a kill truncated."""
        last: dict[str, int] = {}
        for line in self._path.read_text("utf-8").splitlines():
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue
            step = values.pop("step")
            last |= {name: max(step, last.get(name, step)) for name in values if name != "time"}
        return last

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line and flushes it."""
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        line = {"step": step, "time": round(time.time(), 3), **finite}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self._mirror.update()

    def close(self) -> None:
        self._file.close()
        self._mirror.close()
