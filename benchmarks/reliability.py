"""What a run survives: kills at random instants, and malformed input.

    python benchmarks/reliability.py kills --count 100
    python benchmarks/reliability.py kills --count 50 --signals TERM INT
    python benchmarks/reliability.py fuzz --count 10000

`kills` starts the tiny run of the tests again and again, sends its process group a signal at random
instants (one of SIGNALS, SIGKILL by default) until it has done so COUNT times, then compares what
the runs end with with a run that nothing interrupted. `fuzz` runs COUNT random commands in this
process and shows those that end with a traceback, with more than one line, or with an exit code
other than 0 and 2.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from restem.run import layout, reader  # noqa: E402
from restem.runtime import storage  # noqa: E402
from tests.helpers import tiny  # noqa: E402
from tests.helpers.hosts import Job, Machine  # noqa: E402


def start(machine: Machine, folder: pathlib.Path, workdir: pathlib.Path) -> Job:
    """Starts the tiny run in a process group of its own, or continues it."""
    argv = ["run", f"--gin_file={folder}/tiny.gin", f"--workdir={workdir}", "--quiet"]
    return machine.start(1, argv, folder / f"{workdir.name}.log")


def finish(job: Job) -> None:
    """Lets a run end."""
    if job.codes() != [0]:
        raise SystemExit(job.output())


def differences(one: layout.Workdir, other: layout.Workdir) -> list[str]:
    """Returns the names of what two finished runs do not have in common."""
    found = []

    def compare(name: str, a: object, b: object) -> None:
        if a != b:
            found.append(name)

    for i in (0, 1, 2):
        a, b = one.iteration(i), other.iteration(i)
        for name in ("letters", "letters.train"):
            reports = [storage.read_json(d.evaluation(name)) for d in (a, b)]
            for key in ("pass@1", "mean_reward", "mean_tokens", "n"):
                compare(f"{i}/{name}/{key}", *(report.get(key) for report in reports))
        if not i:
            continue
        fields = lambda s: (s.problem_id, s.sample_index, s.text, s.token_ids, s.reward)
        compare(f"{i}/samples", *(list(map(fields, reader.read_samples(d))) for d in (a, b)))
        compare(f"{i}/selection", *(storage.read_json(d.selection) for d in (a, b)))
        ends = [storage.read_json(d.improvement) for d in (a, b)]
        for key in ("best_validation", "best_step", "steps", "validation"):
            compare(f"{i}/improvement/{key}", *(end[key] for end in ends))
        compare(f"{i}/training is left", b.training.exists(), False)
    compare("lease is left", other.lease.exists(), False)
    return found


def kills(count: int, seed: int, signals: Sequence[str]) -> None:
    """Kills runs `count` times, at instants spread evenly over what a run has left to do."""
    rng = random.Random(seed)
    machine = Machine()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tiny.write_run(folder)
        whole = folder / "whole"
        finish(start(machine, folder, whole))  # fills the cache of compiled programs
        began = time.monotonic()
        finish(start(machine, folder, folder / "again"))
        seconds = time.monotonic() - began
        print(f"a run that nothing interrupts takes {seconds:.1f} s of wall clock")
        killed, runs, wrong = 0, 0, 0
        steps: collections.Counter[str] = collections.Counter()
        while killed < count:
            workdir = folder / f"killed_{runs}"
            runs, deaths = runs + 1, 0
            while True:
                job = start(machine, folder, workdir)
                deadline = time.monotonic() + rng.uniform(0, 1) * seconds
                while killed < count and job.is_running(0) and time.monotonic() < deadline:
                    time.sleep(0.005)
                if killed == count or not job.is_running(0):
                    finish(job)
                    break
                number = signal.Signals[f"SIG{rng.choice(signals)}"]
                try:
                    os.killpg(job.pids[0], number)
                except ProcessLookupError:  # it has not made its group yet
                    os.kill(job.pids[0], number)
                job.codes()
                killed, deaths = killed + 1, deaths + 1
                steps[step(layout.Workdir(workdir))] += 1
            found = differences(layout.Workdir(whole), layout.Workdir(workdir))
            wrong += bool(found)
            print(f"run {runs}: killed {deaths} times; differs in {found or 'nothing'}", flush=True)
        print(f"{killed} kills of {runs} runs, of which {wrong} ended differently")
        print("killed in:", ", ".join(f"{name} {n}" for name, n in steps.most_common()))
    machine.close()


def step(files: layout.Workdir) -> str:
    """Returns the step in which a run is."""
    if not files.identity.exists():
        return "start"
    for i in (1, 2):
        directory = files.iteration(i)
        if i == 1 and not directory.path.exists():
            return "evaluation of 0"
        if not directory.generation.exists():
            return f"E-step {i}"
        if not directory.improvement.exists():
            return f"M-step {i}"
        if not directory.evaluation("letters.train").exists():
            return f"evaluation of {i}"
    return "end"


def fuzz(count: int, seed: int, first: int) -> None:
    """Runs random commands; prints those that end badly."""
    from tests.helpers.fuzzing import Fuzzer

    kinds: collections.Counter[str] = collections.Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(pathlib.Path(name), seed)
        os.chdir(name)
        began = time.process_time()
        for number in range(first, first + count):
            argv = fuzzer.command(number)
            kinds[argv[0] if argv else ""] += 1
            if (failure := fuzzer.failure(argv)) is not None:
                bad += 1
                shown = [a if len(a) < 200 else f"{a[:200]}..." for a in argv]
                print(f"{number}: {shown}\n    {failure[:500]}", flush=True)
    verbs = ", ".join(f"{verb or 'none'} {n}" for verb, n in kinds.most_common(8))
    print(f"{count} commands ({verbs}): {bad} ended badly")
    print(f"{time.process_time() - began:.0f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("kills", "fuzz"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=("KILL", "TERM", "INT"))
    parser.add_argument("--first", type=int, default=0, help="number of the first command (fuzz)")
    arguments = parser.parse_args()
    if arguments.what == "kills":
        kills(arguments.count, arguments.seed, arguments.signals)
    else:
        fuzz(arguments.count, arguments.seed, arguments.first)


if __name__ == "__main__":
    main()
