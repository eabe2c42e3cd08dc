"""Measures the cost of running programs as answers, and whether correct ones pass.

    python benchmarks/verify_programs.py throughput   # short programs on one worker
    python benchmarks/verify_programs.py hostile      # the same before and after 10,000 attacks
    python benchmarks/verify_programs.py big          # the same with 1,000 values that cost the judge
    python benchmarks/verify_programs.py overlap      # a sampler and the verifier together
    RESTEM_DATA_DIR=... python benchmarks/verify_programs.py real   # published solutions

Rates are given by the clock and by the CPU time of the verifier's own processes, which other load
on the machine changes little.
"""

# ruff: noqa: E501  (programs in tables)

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from restem.verify.programs.program_pool import ProgramPool
from restem.verify.sandbox import layers
from restem.verify.sandbox.limits import Limits

_ECHO = {"inputs": ["3\n"], "outputs": ["6\n"]}
_CALL = {"fn_name": "f", "inputs": [[3]], "outputs": [[6]]}
_ASSERT = {"entry_point": "f", "test": "def check(f):\n    assert f(3) == 6\n"}
_SHORT = {
    "standard input": ("print(int(input()) * 2)", _ECHO),
    "standard input, 10 tests": (
        "print(int(input()) * 2)",
        {"inputs": _ECHO["inputs"] * 10, "outputs": _ECHO["outputs"] * 10},
    ),
    "call": ("def f(x):\n    return x * 2", _CALL),
    "assert": ("def f(x):\n    return x * 2", _ASSERT),
}
_HOSTILE = (
    "import os\nos._exit(0)",
    "import ctypes\nctypes.string_at(0)",
    "import os\nfor _ in range(8):\n  if os.fork() == 0:\n    import time\n    time.sleep(99)\nos._exit(0)",
    "import os\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: os._exit(1)",
    "x = bytearray(1 << 40)",
    "import os\nos.kill(1, 9)\nos.kill(-1, 9)",
    "import os\nfor n in range(50): open(str(n), 'w').write('x' * 10000)\nos.kill(0, 9)",
    "import os\nwhile True: os.write(1, b'x' * 65536)",
    "def f(): f()\nf()",
    "import os\nfor fd in range(64):\n  try: os.close(fd)\n  except OSError: pass",
    "(" * 5000,
    "import socket\nsocket.create_connection(('127.0.0.1', 80))",
    "import threading, time\nfor _ in range(8): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n1/0",
    "open('/etc/passwd').read()",
    "import builtins, sys\nbuiltins.print = None\nsys.modules.clear()\nprint(6)",
)  # fmt: skip

_BIG = (
    "def f(x): return 1 << 2_000_000",
    "def f(x): return 1 << 8_000_000",
    "def f(x): return 2 ** 1_000_000",
    "def f(x): return {1 << 1_000_000: 1}",
    "from fractions import Fraction\ndef f(x): return Fraction(3 ** 30_000, 2 ** 90_000)",
    "from decimal import Decimal\ndef f(x): return Decimal('1' * 900_000)",
    "def f(x): return 'x' * 30_000_000",
    "def f(x): return [0] * 200_000",
    "def f(x): return range(10 ** 18)",
    "def f(x): raise ValueError('x' * 10 ** 7)",
    "import sys\nsys.set_int_max_str_digits(0)\ndef f(x): print(3 ** 300_000)\nf(0)",
    "def f(x): return 6\n" + "And this is why it is right, as one can see.\n" * 2800,
)
"""Programs whose values, outputs and texts are costly for the judge; the last one is correct."""


def cpu_seconds() -> float:
    """CPU seconds of all descendants that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def batch(
    texts: list[tuple[str, dict]], *, workers: int, limits: Limits
) -> tuple[float, float, list]:
    """Clock and CPU seconds of grading `texts`, without starting the pool."""
    before = cpu_seconds()
    with ProgramPool(workers=workers, limits=limits):
        pass
    idle = cpu_seconds() - before
    before = cpu_seconds()
    with ProgramPool(workers=workers, limits=limits) as pool:
        start = time.perf_counter()
        futures = [pool.submit(*row) for row in texts]
        verdicts = [future.result() for future in futures]
        clock = time.perf_counter() - start
    return clock, max(cpu_seconds() - before - idle, 1e-9), verdicts


def throughput(count: int) -> None:
    print("sandbox:", layers.summary(layers.layers()))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the verifier and its caller: one core
    for name, row in _SHORT.items():
        rates = []
        for _ in range(3):
            rows = [row] * (count // len(row[1].get("inputs", "1")))
            clock, cpu, verdicts = batch(rows, workers=1, limits=Limits())
            if not all(verdict.reward for verdict in verdicts):
                raise SystemExit(f"{name}: a correct program failed")
            rates.append((len(rows) / clock, len(rows) / cpu))
        clocks, cpus = zip(*rates, strict=True)
        print(
            f"{name}: {statistics.median(clocks):.0f} programs/s by the clock,"
            f" {statistics.median(cpus):.0f} programs/s and core ({len(rows)} programs, median of 3)"
        )
    before, start = cpu_seconds(), time.perf_counter()
    for _ in range(count // 4):
        subprocess.run([sys.executable, "-I", "-S", "-c", "print(6)"], stdout=subprocess.DEVNULL)
    rate = count // 4 / (cpu_seconds() - before)
    clock = count // 4 / (time.perf_counter() - start)
    print(f"python -I -S -c, no sandbox: {clock:.0f} by the clock, {rate:.0f} per second and core")


def hostile(count: int, programs: tuple[str, ...], tests: dict) -> None:
    """Compares a pool that has run `count` attacks with a fresh one, alternating."""
    limits = Limits(time_limit_s=1.0, memory_mb=256, output_mb=1, processes=16)
    honest = [_SHORT["standard input"]] * 150
    workers = len(os.sched_getaffinity(0))

    with ProgramPool(workers=workers, limits=limits) as pool:

        def rate(pool: ProgramPool, texts: list) -> tuple[float, collections.Counter]:
            start = time.perf_counter()
            futures = [pool.submit(*row) for row in texts]
            verdicts = [future.result() for future in futures]
            found = collections.Counter((v.method, v.reward) for v in verdicts)
            return len(texts) / (time.perf_counter() - start), found

        rate(pool, honest)
        memory = supervisor_kb(pool)
        attacks = [(programs[n % len(programs)], tests) for n in range(count)]
        speed, methods = rate(pool, attacks)
        print(f"{count} attacks at {speed:.0f} per second: {dict(methods)}", flush=True)
        print(f"lost workers: {dict(pool.pool.counts) or 'none'}")
        print(f"memory of the supervisors: {memory} kB before, {supervisor_kb(pool)} kB after")
        with ProgramPool(workers=workers, limits=limits) as fresh:
            for _ in range(5):
                print(
                    f"honest programs/s: {rate(pool, honest)[0]:.0f} after the attacks,"
                    f" {rate(fresh, honest)[0]:.0f} in a fresh pool"
                )


def supervisor_kb(pool: ProgramPool) -> int:
    total = 0
    for pid in pool.pool.pids:
        with open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return total


def overlap(count: int) -> None:
    """A sampler that waits for its accelerator, and the verifier: each alone, in turn, together."""
    per_sample = 0.03
    row = _SHORT["standard input"]

    def sample() -> None:
        time.sleep(per_sample)

    start = time.perf_counter()
    for _ in range(count):
        sample()
    sampling = time.perf_counter() - start
    with ProgramPool() as pool:
        pool.submit(*row).result()
        start = time.perf_counter()
        for future in [pool.submit(*row) for _ in range(count)]:
            future.result()
        verifying = time.perf_counter() - start
        start = time.perf_counter()
        futures = []
        for _ in range(count):
            sample()
            futures.append(pool.submit(*row))
        for future in futures:
            future.result()
        together = time.perf_counter() - start
    print(
        f"{count} samples: sampling {sampling:.1f} s, verification {verifying:.1f} s,"
        f" overlapped {together:.1f} s (sum {sampling + verifying:.1f} s)"
    )


def real(time_limit_s: float) -> None:
    folder = os.environ.get("RESTEM_DATA_DIR")
    if not folder:
        raise SystemExit("set RESTEM_DATA_DIR to the folder that holds apps/, humaneval/, mbpp/")

    def rows(name: str) -> list[dict]:
        with gzip.open(os.path.join(folder, name), "rt") as lines:
            return [json.loads(line) for line in lines]

    human_eval = rows("humaneval/test.jsonl.gz")
    solved = [row for row in rows("apps/train_introductory.jsonl.gz") if row["solutions"]]
    sets = {
        "HumanEval, prompt + completion": [
            (row["task_id"], row["prompt"] + row["canonical_solution"],
             {name: row[name] for name in ("test", "entry_point")}) for row in human_eval
        ],
        "HumanEval, completion": [
            (row["task_id"], row["canonical_solution"],
             {name: row[name] for name in ("test", "entry_point", "prompt")}) for row in human_eval
        ],
        "MBPP": [(row["task_id"], row["code"], row) for row in rows("mbpp/mbpp.jsonl.gz")],
        "APPS": [
            (f"{row['problem_id']}/{n}", text, row["input_output"])
            for row in solved for n, text in enumerate(json.loads(row["solutions"]))
        ],
    }  # fmt: skip
    limits = Limits(time_limit_s=time_limit_s)
    for name, entries in sets.items():
        with ProgramPool(limits=limits) as pool:
            start = time.perf_counter()
            futures = [pool.submit(text, tests) for _, text, tests in entries]
            verdicts = [future.result() for future in futures]
            seconds = time.perf_counter() - start
        passed = sum(verdict.reward for verdict in verdicts)
        print(f"{name}: {passed:.0f} of {len(entries)} pass, {seconds:.0f} s")
        if name == "APPS":
            problems = {entry[0].split("/")[0] for entry in entries}
            right = {e[0].split("/")[0] for e, v in zip(entries, verdicts, strict=True) if v.reward}
            print(f"  {len(right)} of {len(problems)} problems have a solution that passes")
        for (label, _, _), verdict in zip(entries, verdicts, strict=True):
            if not verdict.reward:
                print(f"  {label} {verdict.method}: {verdict.detail[:150]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("throughput", "hostile", "big", "overlap", "real"))
    parser.add_argument(
        "--count", type=int, help="programs (300), attacks (10,000; big: 1,000), samples (200)"
    )
    parser.add_argument("--time_limit_s", type=float, default=10.0, help="for `real`")
    flags = parser.parse_args()
    if flags.what == "real":
        real(flags.time_limit_s)
    elif flags.what == "throughput":
        throughput(flags.count or 300)
    elif flags.what == "overlap":
        overlap(flags.count or 200)
    elif flags.what == "hostile":
        hostile(flags.count or 10_000, _HOSTILE, _ECHO)
    else:
        hostile(flags.count or 1_000, _BIG, _CALL)


if __name__ == "__main__":
    main()
