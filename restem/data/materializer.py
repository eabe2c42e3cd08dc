"""Materialisation of tasks in a child process: `python -m restem.data.materializer`.

TensorFlow, which SeqIO needs, would take half a gigabyte of the run's memory and all of a GPU's. A
child process therefore writes `problems/TASK.parquet` and exits. One child process handles all
missing tasks, since TensorFlow takes seconds to start.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
from absl import logging
from etils import epath

from restem.data import problem_cache, sources
from restem.errors import MachineError, UserError
from restem.records import PROBLEMS_PER_GROUP, problems_to_table
from restem.runtime import machine_errors, storage


def materialize(
    requests: Mapping[epath.Path, Mapping[str, Any]],
    *,
    modules: Sequence[str] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Writes the problems of `sources.materialize(**request)` to the path of each request.

    Args:
      requests: arguments of `sources.materialize` by path.
      modules: modules whose import adds the tasks, besides those that gin files import.
      meanwhile: what this process does while a child process reads; not called if nothing is read.

    Raises:
      UserError: as in `sources.materialize`, or if the child died.
    """
    cached = {path: problem_cache.path_of(request) for path, request in requests.items()}
    found = {path: copy for path, copy in cached.items() if copy is not None and copy.exists()}
    for path, copy in found.items():
        logging.info("task %s: as it was read before", requests[path]["task"])
        storage.write_bytes(path, copy.read_bytes())
    requests = {path: request for path, request in requests.items() if path not in found}
    if not requests:
        return
    message = {
        "modules": list(modules),
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
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        child = thread.submit(
            subprocess.run, [sys.executable, "-m", "restem.data.materializer"],
            input=json.dumps(message), env=environment, text=True, capture_output=True,
        )  # fmt: skip
        meanwhile()
    done = child.result()
    if done.returncode in (2, MachineError.exit_code):
        *told, fault = done.stdout.strip().splitlines(keepends=True) or [""]
        sys.stderr.writelines(told)
        raise UserError(fault) if done.returncode == 2 else MachineError(fault)
    if done.returncode:
        raise UserError(
            f"materialising {', '.join(r['task'] for r in requests.values())} failed (exit code"
            f" {done.returncode}): {' '.join(done.stderr.split()[-60:])}"
        )
    sys.stderr.write(done.stdout)
    for path in requests:
        if (kept := cached[path]) is not None:
            with contextlib.suppress(OSError):  # a full disk
                kept.parent.mkdir(parents=True, exist_ok=True)
                storage.write_bytes(epath.Path(kept), path.read_bytes())


def _child(message: Mapping[str, Any]) -> None:
    for module in message["modules"]:
        importlib.import_module(module)
    # The steps are not imported here, so gin does not know their names.
    gin.parse_config(message["gin"], skip_unknown=True)
    for path, request in message["requests"]:
        card, problems = sources.materialize(**request)
        storage.write_table(
            epath.Path(path), problems_to_table(problems, card), rows_per_group=PROBLEMS_PER_GROUP
        )
        counts = collections.Counter(p.split for p in problems)
        listed = ", ".join(f"{n} {split}" for split, n in counts.items())
        print(f"task {card.task}: {listed} problems")
        if card.notes:
            print(f"task {card.task}: {json.dumps(card.notes, sort_keys=True)}")


if __name__ == "__main__":
    try:
        _child(json.loads(sys.stdin.read()))
    except Exception as e:
        fault = machine_errors.explain(e)
        if fault is None:
            raise
        # gin appends lines that name the configurables involved.
        print(str(fault).partition("\n")[0])
        sys.exit(fault.exit_code if isinstance(fault, MachineError) else 2)
