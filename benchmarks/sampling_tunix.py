"""Times the `Sampler` of google-tunix; `sampling.py` starts this with tunix's own Python.

    pip install google-tunix
    python benchmarks/sampling_tunix.py --tokens=64

The model has the shape of SmolLM2-135M in float32 and random weights, so that rows end at --tokens
and all tokens count. Prompts are as long as the task's. Prints one line of JSON per round.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.generate import sampler
from tunix.models.llama3 import model

VOCAB = 49152


class Numbers:
    """A tokenizer whose texts are numbers; each number is its own id."""

    def encode(self, text, **kwargs):
        return [int(word) for word in text.split()]

    def decode(self, ids, **kwargs):
        return " ".join(map(str, ids))

    def bos_id(self):
        return 1

    def eos_id(self):
        return 2

    def pad_id(self):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=333, help="tokens of prefix and question")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()

    config = model.ModelConfig(
        num_layers=30, vocab_size=VOCAB, embed_dim=576, hidden_dim=1536, num_heads=9, head_dim=64,
        num_kv_heads=3, norm_eps=1e-5, rope_theta=100_000, weight_tying=True,
    )  # fmt: skip
    network = model.Llama3(config, rngs=nnx.Rngs(0))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))}
    assert dtypes == {jnp.dtype("float32")}, dtypes
    padded = 1 << (arguments.prompt - 1).bit_length()  # as the Sampler pads prompts
    cache = sampler.CacheConfig(
        cache_size=padded + arguments.tokens + 16, num_layers=30, num_kv_heads=3,
        head_dim=64,
    )  # fmt: skip
    engine = sampler.Sampler(network, Numbers(), cache)
    rng = np.random.default_rng(0)
    prompts = [
        " ".join(map(str, rng.integers(3, VOCAB, arguments.prompt))) for _ in range(arguments.rows)
    ]

    def run() -> dict:
        start = time.perf_counter()
        out = engine(
            prompts, max_generation_steps=arguments.tokens, max_prompt_length=arguments.prompt,
            temperature=0.7, top_k=40, top_p=1.0, seed=0,
        )  # fmt: skip
        tokens = sum(len(np.asarray(row)) for row in out.tokens)
        return {
            "tokens": tokens,
            "samples": arguments.rows,
            "seconds": time.perf_counter() - start,
        }

    run()  # compiles
    for _ in range(arguments.rounds):
        print(json.dumps(run()), flush=True)


if __name__ == "__main__":
    main()
