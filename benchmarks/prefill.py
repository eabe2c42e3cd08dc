"""Times the prefill of questions on a CPU, with blocks of queries of several sizes.

    PYTHONPATH=. python benchmarks/prefill.py 4x128 1x384 1x1024 1x4096 --blocks 64 128 192 4096

Each argument is QUESTIONSxCOLUMNS, behind a prompt of `--prefix` tokens. A block of as many queries
as there are columns scores all at once. The block that the sampler takes is called "own"; blocks
take turns, so that a machine whose speed changes is as fast for one as for another.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
from decode import SHAPES, timed

from restem import models
from restem.models import kv_cache


def prefill(config: models.ModelConfig, params, prefix: int, questions: int, columns: int):
    """A function that reads the questions behind the prompt; returns their keys and values."""
    caches = ()
    if prefix:
        of = kv_cache.shapes(config, None, prefix)
        cache = kv_cache.prefix(*(jnp.zeros(x.shape, x.dtype) for x in (of.keys, of.values)))
        caches = (kv_cache.unstack(cache),)
    tokens = jnp.ones((questions, columns), jnp.int32)
    positions = jnp.broadcast_to(prefix + jnp.arange(columns), tokens.shape)
    program = jax.jit(
        lambda params, caches: (
            models.forward(params, config, tokens, positions, caches=caches).block
        )
    )
    return lambda: program(params, caches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="+", help="QUESTIONSxCOLUMNS")
    parser.add_argument("--shape", choices=SHAPES, default="qwen")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layers", type=int, default=6, help="0: all")
    parser.add_argument("--prefix", type=int, default=320, help="tokens of the prompt")
    parser.add_argument("--blocks", type=int, nargs="+", default=[], help="queries per block")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_intermixed_args()
    jax.config.update("jax_platforms", "cpu")

    shape = dict(SHAPES[arguments.shape])
    if arguments.layers:
        shape["num_layers"] = arguments.layers
    config = models.ModelConfig(**shape, dtype=arguments.dtype)
    params = models.layers_for_one_cpu(
        models.init_params(config, jax.random.key(0), arguments.dtype)
    )
    for spec in arguments.questions:
        questions, columns = map(int, spec.split("x"))
        calls = {}
        for block in (None, *sorted({min(block, columns) for block in arguments.blocks})):
            name = f"{block}" if block else "own"
            calls[name] = prefill(
                config.replace(query_block=block), params, arguments.prefix, questions, columns
            )
        medians = timed(calls, arguments.rounds)
        times = "  ".join(f"{name}: {1e3 * s:.0f} ms" for name, (s, _) in medians.items())
        print(f"{spec} behind {arguments.prefix}: {times}", flush=True)


if __name__ == "__main__":
    main()
