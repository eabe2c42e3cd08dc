"""Materialises tasks in a process of its own: `python -m restem.data.materialize`.

TensorFlow, which SeqIO brings, would take half a gigabyte of the run's memory, and on a GPU all of
the card's. So the run asks a child, which writes `problems/TASK.parquet` and is gone. One child
serves all tasks that are missing: it takes some seconds to start.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import gin
from etils import epath

from restem.errors import UserError


def materialize(requests: Mapping[epath.Path, Mapping[str, Any]]) -> None:
    """Writes the problems that `sources.materialize(**request)` gives to the path of each request.

    Raises:
      UserError: as there, or the child died.
    """
    if not requests:
        return
    message = {
        "gin": gin.config_str(),
        "requests": [[str(path), dict(request)] for path, request in requests.items()],
    }
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "3",  # TensorFlow looks for GPUs, loudly
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # for task modules that gin imports
    }
    done = subprocess.run(
        [sys.executable, "-m", "restem.data.materialize"],
        input=json.dumps(message), env=environment, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode == 2:
        raise UserError(done.stdout.strip())
    if done.returncode:
        raise UserError(
            f"materialising {', '.join(r['task'] for r in requests.values())} failed (exit code"
            f" {done.returncode}): {' '.join(done.stderr.split()[-60:])}"
        )
    sys.stderr.write(done.stdout)


def _child(message: Mapping[str, Any]) -> None:
    from restem.data import jsonl, registry, sources  # noqa: F401  gin binds what is in them
    from restem.records import problems_to_table
    from restem.runtime import storage

    registry.names()  # adds the built-in tasks, whose options gin may bind
    # Bindings of the steps, which are not imported here, are of no concern.
    gin.parse_config(message["gin"], skip_unknown=True)
    for path, request in message["requests"]:
        card, problems = sources.materialize(**request)
        storage.write_table(epath.Path(path), problems_to_table(problems, card))
        counts = collections.Counter(p.split for p in problems)
        listed = ", ".join(f"{n} {split}" for split, n in counts.items())
        print(f"task {card.task}: {listed} problems")
        if card.notes:
            print(f"task {card.task}: {json.dumps(card.notes, sort_keys=True)}")


if __name__ == "__main__":
    try:
        _child(json.loads(sys.stdin.read()))
    except UserError as e:
        print(str(e).partition("\n")[0])  # gin adds lines that name the configurables it passed
        sys.exit(2)
