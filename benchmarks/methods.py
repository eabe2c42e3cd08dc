"""Runs every method on one task at one budget of samples; see docs/methods.md.

    python benchmarks/methods.py --workdir=runs/methods --teacher=orbax:FOLDER  # of another run
    python benchmarks/methods.py --workdir=runs/methods --table         # of finished runs

SmolLM2-135M-Instruct on `arithmetic`, unless --gin_file names another run: --problems training
problems and --problems x --samples samples in all, however a method spends them; the optimizer and
batch size of the demo, one epoch, no validation, so that the last policy is the one tested. Each
of --seeds draws its own problems. The runs of a seed share them and the evaluation of the base
policy. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

from scipy import stats

DEMO = "restem_demo.gin"
# One epoch on all examples, where the demo limits their number.
OF_THE_DEMO = (
    "select.max_examples=None", "adamw.learning_rate=5e-5", "improve.batch_examples=16",
    "improve.epochs=1",
)  # fmt: skip


def settings(problems: int, samples: int, iterations: int) -> dict[str, list[str]]:
    """Gin bindings of each method that spend `problems` x `samples` samples.

    Args:
      problems: Training problems.
      samples: Samples per problem, over all iterations.
      iterations: Of the methods that sample all problems in each iteration.
    """
    each, half = samples // iterations, samples // 2
    batch = problems // max(1, half)  # so that `samples` mini-batches take half samples each

    def loop(iterations, number):
        return [f"em.iterations={iterations}", f"generate.num_samples={number}"]

    minibatches = [*loop(samples, half), f"em.problems_per_iteration={batch}"]
    minibatches += [f"em.evaluate_every={samples}"]
    return {
        "restem": [*loop(iterations, each), "select.cap=2"],
        "rest": [*loop(2, samples), "em.generate_every=2", "select.cap=2"],
        "rft": loop(1, samples),
        "star": loop(half, 1),  # and at most as many with a hint
        "iml": minibatches,
        "raft": minibatches,
        "rwr": loop(iterations, each),
        "exit": loop(iterations, each),
        "self_improve": loop(1, samples),
        "trice": [
            *loop(samples, 1), f"em.problems_per_iteration={problems}",
            f"em.evaluate_every={samples}", "improve.batch_examples=256",  # all, in one step
        ],
        "sft": ["em.iterations=1"],
        "distill": [*loop(1, samples), "select.cap=2"],
        "reinforced_icl": loop(1, samples),
    }  # fmt: skip


def indivisible(names: list[str], problems: int, samples: int, iterations: int) -> str | None:
    """Returns why these methods cannot all spend `problems` x `samples` samples, or None."""
    divided = {
        f"--samples={samples} by --iterations={iterations}": (
            ("restem", "rwr", "exit"), samples % iterations,
        ),
        f"--samples={samples} by 2": (("star", "iml", "raft"), samples % 2),
        f"--problems={problems} by half of --samples={samples}": (
            ("iml", "raft"), problems % max(1, samples // 2),
        ),
    }  # fmt: skip
    for division, (dividing, remainder) in divided.items():
        chosen = [name for name in names if name in dividing]
        if chosen and remainder:
            return f"{', '.join(chosen)}: dividing {division} leaves a remainder"
    return None


def run(name: str, bindings: list[str], arguments, seed: int) -> None:
    runs = arguments.workdir / f"seed_{seed}"
    folder = runs / name
    bindings = [
        f"SEED={seed}", f"Run.train_problems={arguments.problems}",
        f"Run.test_problems={arguments.test}", "Run.validation_problems=0",
        *(OF_THE_DEMO if arguments.gin_file == DEMO else ()), *bindings, *arguments.gin,
    ]  # fmt: skip
    if name == "distill":
        bindings.append(f"TEACHER={arguments.teacher}")
    files = [arguments.gin_file, f"methods/{name}.gin"]
    flags = [
        f"--workdir={folder}", *(f"--gin_file={file}" for file in files),
        *(f"--gin.{b}" for b in bindings),
    ]  # fmt: skip

    first = runs / "restem"
    if (first / "summary.json").exists() and not folder.exists():
        parts = ["problems", "iteration_000"]
        if name == "rest" and arguments.iterations == 1:
            parts += ["iteration_001/samples", "iteration_001/generation.json"]
        _copy(first, folder, parts)
    if folder.exists() and not (folder / "run.json").exists():
        flags.append("--repair")  # writes it beside the copies
    print(f"{name}: restem run {' '.join(flags)}", flush=True)
    subprocess.run([sys.executable, "-m", "restem", "run", *flags], check=True)


def _copy(source: pathlib.Path, target: pathlib.Path, parts: list[str]) -> None:
    """Makes the folder `target` of these files and folders of `source`, all of them or none."""
    incomplete = target.with_name(f"{target.name}.incomplete")
    shutil.rmtree(incomplete, ignore_errors=True)
    for part in parts:
        (incomplete / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, incomplete / part)
        else:
            shutil.copy(source / part, incomplete / part)
    incomplete.rename(target)


class Finished:
    """What a finished run spent, and the scores of its base policy and its last one."""

    def __init__(self, folder: pathlib.Path):
        summary = json.loads((folder / "summary.json").read_text())
        iterations, task = summary["iterations"], summary["task"]
        generated = [i["generate"] for i in iterations if "generate" in i]
        trained = [i["train"] for i in iterations if "train" in i]
        tested = [i for i in iterations if task in i["evals"]]
        tests = [i["evals"][task]["pass@1"] for i in tested]
        self.iterations = len(trained)
        self.samples = sum(g["samples"] for g in generated)
        self.examples = sum(t["examples"] for t in trained)
        self.seconds = sum(step["seconds"] for step in generated + trained)
        self.base, self.last = tests[0], tests[-1]
        self.paired = tested[-1].get("versus_base", {}).get(task, {}).get("greedy")


def is_finished(folder: pathlib.Path) -> bool:
    """Returns whether a run has made all its iterations: the config is written after the last."""
    config = folder / "operative_config.gin"
    if not ((folder / "summary.json").exists() and config.exists()):
        return False
    found = re.search(r"^em\.iterations = (\d+)$", config.read_text(), re.MULTILINE)
    made = json.loads((folder / "summary.json").read_text())["iterations"][-1]["iteration"]
    return found is not None and made == int(found[1])


def row(name: str, runs: list[Finished]) -> str:
    mean = lambda field: statistics.fmean(getattr(r, field) for r in runs)
    scores = ", ".join(f"{100 * r.last:.1f}" for r in runs)
    gain = _gain([100 * (r.last - r.base) for r in runs])
    if len(runs) == 1 and runs[0].paired:
        low, high = runs[0].paired["ci"]
        gain += f" ({100 * low:+.1f} to {100 * high:+.1f}), p = {runs[0].paired['p_value']:.2g}"
    return (
        f"| `{name}` | {mean('iterations'):.0f} | {mean('samples'):.0f} | {mean('examples'):.0f} "
        f"| {mean('seconds'):.0f} | {scores} | **{100 * mean('last'):.1f}** | {gain} |"
    )


def _gain(gains: list[float]) -> str:
    """Returns the mean over seeds with the 95% interval of Student's t."""
    centre = statistics.fmean(gains)
    if len(gains) < 2:
        return f"{centre:+.1f}"
    # Not `t.interval`, which is undefined where all seeds gain the same.
    half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    return f"{centre:+.1f} ({centre - half:+.1f} to {centre + half:+.1f})"


def table(names: list[str], arguments) -> None:
    print(
        "| method | iterations | samples | examples | seconds | pass@1 of each seed | mean | gain |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    folders = [arguments.workdir / f"seed_{seed}" for seed in arguments.seeds]
    for name in names:
        found = [folder / name for folder in folders if (folder / name).exists()]
        runs = [Finished(folder) for folder in found if is_finished(folder)]
        for folder in found:
            if not is_finished(folder):
                print(f"{folder}: not finished, so not in the table", file=sys.stderr)
        if name == names[0] and runs:
            base = [100 * r.base for r in runs]
            scores = ", ".join(f"{score:.1f}" for score in base)
            print(f"| the base policy | | | | | {scores} | **{statistics.fmean(base):.1f}** | |")
        if runs:
            print(row(name, runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--teacher", help="reference of the policy that `distill` learns from")
    parser.add_argument("--gin_file", default=DEMO, help="the run that every method changes")
    parser.add_argument("--gin", nargs="*", default=[], help="bindings of all runs: NAME=VALUE ...")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=2, help="of restem, rwr and exit")
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    methods = settings(arguments.problems, arguments.samples, arguments.iterations)
    names = arguments.methods or list(methods)
    if "distill" in names and not arguments.teacher and not arguments.table:
        parser.error("distill needs --teacher; --methods names the methods to run without it")
    sizes = arguments.problems, arguments.samples, arguments.iterations
    if not arguments.table and (reason := indivisible(names, *sizes)):
        parser.error(reason)
    for seed in [] if arguments.table else arguments.seeds:
        for name in names:
            run(name, methods[name], arguments, seed)
    table(names, arguments)


if __name__ == "__main__":
    main()
