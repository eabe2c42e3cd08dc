"""Runs every method on the demo's task at one budget of samples; see docs/methods.md.

    python benchmarks/methods.py --workdir=runs/methods --teacher=orbax:FOLDER  # of another run
    python benchmarks/methods.py --workdir=runs/methods --table         # of finished runs

SmolLM2-135M-Instruct on `arithmetic`: --problems training problems and --problems x --samples
samples in all, however a method spends them; the optimizer and batch size of the demo, one epoch,
no validation, so that the last policy is the one tested. All runs share the problems and the
evaluation of the base policy. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys


def settings(problems: int, samples: int) -> dict[str, list[str]]:
    """Gin bindings of each method that spend `problems` x `samples` samples."""
    half, batch = samples // 2, problems // 3

    def loop(iterations, number):
        return [f"em.iterations={iterations}", f"generate.num_samples={number}"]

    minibatches = [*loop(samples, half), f"em.problems_per_iteration={batch}"]
    minibatches += [f"em.evaluate_every={samples}"]
    return {
        "restem": [*loop(2, half), "select.cap=2"],
        "rest": [*loop(2, samples), "em.generate_every=2", "select.cap=2"],
        "rft": loop(1, samples),
        "star": loop(half, 1),  # and at most as many with a hint
        "iml": minibatches,
        "raft": minibatches,
        "rwr": loop(2, half),
        "exit": loop(2, half),
        "self_improve": loop(1, samples),
        "trice": [
            *loop(samples, 1), f"em.problems_per_iteration={problems}",
            f"em.evaluate_every={samples}",
        ],
        "sft": ["em.iterations=1"],
        "distill": [*loop(1, samples), "select.cap=2"],
        "reinforced_icl": loop(1, samples),
    }  # fmt: skip


def run(name: str, bindings: list[str], arguments, folder: pathlib.Path) -> None:
    bindings = [
        f"Run.train_problems={arguments.problems}", f"Run.test_problems={arguments.test}",
        "Run.validation_problems=0", "select.max_examples=None", "adamw.learning_rate=5e-5",
        "improve.batch_examples=16", "improve.epochs=1", *bindings,
    ]  # fmt: skip
    if name == "distill":
        bindings.append(f"TEACHER={arguments.teacher}")
    files = ["restem_demo.gin", f"methods/{name}.gin"]
    flags = [
        f"--workdir={folder}", *(f"--gin_file={file}" for file in files),
        *(f"--gin.{b}" for b in bindings),
    ]  # fmt: skip
    # The methods' programs are largely the same.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(arguments.workdir.absolute() / "compilation_cache")}

    def restem(verb: str, *more: str) -> None:
        print(f"{name}: restem {verb} {' '.join([*flags, *more])}", flush=True)
        command = [sys.executable, "-m", "restem", verb, *flags, *more]
        subprocess.run(command, check=True, env=os.environ | cache)

    base = arguments.workdir / "restem" / "iteration_000"
    if base.exists() and not (folder / "iteration_000").exists():
        # The base policy is the same for all: its evaluation is copied into every new run.
        restem("generate", "--iteration=1")
        shutil.copytree(base, folder / "iteration_000")
    restem("run")


def row(name: str, folder: pathlib.Path) -> str:
    iterations = json.loads((folder / "summary.json").read_text())["iterations"]
    generated = [i["generate"] for i in iterations if "generate" in i]
    trained = [i["train"] for i in iterations if "train" in i]
    seconds = sum(g["seconds"] for g in generated) + sum(t["seconds"] for t in trained)
    tests = [i["evals"]["arithmetic"] for i in iterations if "arithmetic" in i["evals"]]
    if name == "base":
        return f"| the base policy | | | | | {_interval(tests[0])} |"
    return (
        f"| `{name}` | {len(trained)} | {sum(g['samples'] for g in generated)} "
        f"| {sum(t['examples'] for t in trained)} | {seconds:.0f} | {_interval(tests[-1])} |"
    )


def _interval(test: dict) -> str:
    low, high = test["ci95"]
    return f"**{test['pass@1']:.1%}** ({low:.1%} to {high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--teacher", help="reference of the policy that `distill` learns from")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    methods = settings(arguments.problems, arguments.samples)
    names = arguments.methods or [m for m in methods if m != "distill" or arguments.teacher]
    for name in [] if arguments.table else names:
        run(name, methods[name], arguments, arguments.workdir / name)
    print("| method | iterations | samples | examples | seconds | test pass@1 (95% interval) |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(row("base", arguments.workdir / names[0]))
    for name in names:
        if (arguments.workdir / name / "summary.json").exists():
            print(row(name, arguments.workdir / name))


if __name__ == "__main__":
    main()
