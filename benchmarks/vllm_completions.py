"""Samples an E-step with vLLM: requests of restem in, completions for restem out.

    restem generate --gin_file=restem_math.gin --gin.MODEL=hf:/models/gemma-3-1b-pt \\
        --workdir=runs/math --requests=requests.jsonl
    python benchmarks/vllm_completions.py --model=/models/gemma-3-1b-pt --requests=requests.jsonl \\
        --output=completions.jsonl
    restem generate --gin_file=restem_math.gin --gin.MODEL=hf:/models/gemma-3-1b-pt \\
        --workdir=runs/math --completions=completions.jsonl

This needs `vllm` (0.8 or newer) and the standard library, but neither restem nor JAX, so it can run
in an environment of its own. `--model` is the folder of the policy that restem names: the base
model in iteration 1, then what `restem export --iteration=N` writes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SAMPLING = (
    "n", "temperature", "top_k", "top_p", "max_tokens", "stop", "stop_token_ids",
    "include_stop_str_in_output",
)  # fmt: skip
"""Fields of a request that are arguments of `vllm.SamplingParams`."""


def completions(
    requests: Sequence[Mapping[str, Any]], outputs: Iterable[Any], *, logprobs: bool
) -> Iterator[dict[str, Any]]:
    """Yields a line per sample from vLLM's `RequestOutput`s, which are in the requests' order."""
    for request, output in zip(requests, outputs, strict=True):
        for sample in sorted(output.outputs, key=lambda sample: sample.index):
            yield {
                "problem_id": request["problem_id"],
                "text": sample.text,
                "token_ids": list(sample.token_ids),
                "logprob": sample.cumulative_logprob if logprobs else None,
                "finish_reason": sample.finish_reason,
            }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of the policy")
    parser.add_argument("--requests", required=True, help="file of `restem generate --requests`")
    parser.add_argument("--output", required=True, help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    parser.add_argument("--dtype", default="auto", help="data type of weights and activations")
    parser.add_argument("--tensor_parallel_size", type=int, default=1, help="number of GPUs")
    parser.add_argument(
        "--logprobs", action="store_true", help="record log-probabilities, which costs time"
    )
    arguments = parser.parse_args(argv)
    lines = Path(arguments.requests).read_text().splitlines()
    requests = [json.loads(line) for line in lines if line.strip()]

    from vllm import LLM, SamplingParams

    engine = LLM(
        model=arguments.model,
        dtype=arguments.dtype,
        seed=arguments.seed,
        tensor_parallel_size=arguments.tensor_parallel_size,
        enable_prefix_caching=True,  # all prompts of a task begin with the same shots
    )
    outputs = engine.generate(
        [{"prompt_token_ids": request["prompt_token_ids"]} for request in requests],
        [
            SamplingParams(
                **{name: request[name] for name in SAMPLING},
                logprobs=0 if arguments.logprobs else None,
            )
            for request in requests
        ],
    )
    unfinished = Path(arguments.output + ".unfinished")
    with unfinished.open("w") as file:
        for line in completions(requests, outputs, logprobs=arguments.logprobs):
            file.write(json.dumps(line) + "\n")
    unfinished.rename(arguments.output)


if __name__ == "__main__":
    main()
