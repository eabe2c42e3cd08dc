"""Times one decode step on a CPU beside its parts alone; sampling.md has the results.

    PYTHONPATH=. python benchmarks/decode.py
    PYTHONPATH=. python benchmarks/decode.py --shape=qwen --dtype=bfloat16 --layers=6 --slots=192 \\
        --question=128 --ring=320 --prefix=0

A step of the sampler with random weights is timed, and then its parts, each alone: the products
with weights, over the matrices of all layers in turn, so that they are read from memory as in the
step; the head; attention to the slots' own keys and values, over the caches of all layers; and
drawing. What is left is the rest of the step: norms, rotary embedding, attention to the prompt,
writes, and temporaries. The rate of a large product in the same dtype is measured in the same run,
and so is drawing by top-p 0.95 at temperature 1, which no step does here, of `--flat` rows whose
likeliest tokens do not reach 0.95, and others whose do.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time

import jax
import jax.numpy as jnp
from training import SHAPE

from restem import models
from restem.models import kv_cache
from restem.models.dense import Transposed, dense, product_by_head
from restem.sampling import Sampling, filters, shapes, steps

SHAPES = {
    "smollm2": SHAPE,
    "qwen": dict(
        vocab_size=151_936, num_layers=24, embed_dim=896, num_heads=14, num_kv_heads=2, head_dim=64,
        mlp_dim=4864, tied_head=True, rope_theta=1e6, qkv_bias=True,
    ),
}  # fmt: skip


def timed(calls: dict, rounds: int) -> dict[str, tuple[float, float]]:
    """Returns the median seconds of each call, and how many CPUs it kept busy.

    The calls take turns, so that a machine whose speed changes is as fast for one as for another.
    """
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            seconds = time.perf_counter() - start
            if turn:  # the first compiles
                times[name].append((seconds, (time.process_time() - cpu) / seconds))
    medians = {}
    for name, pairs in times.items():
        medians[name] = tuple(statistics.median(column) for column in zip(*pairs, strict=True))
    return medians


class Step:
    """A decode step of full slots, and its parts."""

    def __init__(self, arguments):
        shape = dict(SHAPES[arguments.shape])
        if arguments.layers:
            shape["num_layers"] = arguments.layers
        config = models.ModelConfig(**shape, dtype=arguments.dtype)
        self.config, self.arguments = config, arguments
        params = models.init_params(config, jax.random.key(0), arguments.dtype)
        self.params = models.layers_for_one_cpu(params)
        dtype = shapes.Shapes(config, True, None).slot_dtype
        slots = steps.empty_slots(
            config, (arguments.question,), (arguments.slots,), arguments.ring, unstacked=True,
            dtype=dtype,
        )  # fmt: skip
        number = lambda value: jnp.full((arguments.slots,), value, jnp.int32)
        rows = dataclasses.replace(
            slots.rows,
            position=number(arguments.prefix + arguments.question + arguments.ring // 2),
            count=number(arguments.ring // 2),
            limit=number(1 << 30),
            active=jnp.ones((arguments.slots,), bool),
        )
        self.slots = dataclasses.replace(slots, rows=rows)
        self.prefix = None
        if arguments.prefix:
            of = kv_cache.shapes(config, None, arguments.prefix)
            zeros = lambda struct: jnp.zeros(struct.shape, struct.dtype)
            self.prefix = kv_cache.unstack(kv_cache.prefix(zeros(of.keys), zeros(of.values)))
        drawing = filters.Drawing.of(Sampling(temperature=0.7, top_k=40))
        keep = jnp.ones((arguments.slots,), bool)

        def decode(params, prefix, questions, ring, rows):
            slots = steps.Slots(questions, ring, rows)
            return steps.decode(params, config, drawing, (0,), 1, prefix, slots, jnp.int32(0), keep)

        self.decode = jax.jit(decode, donate_argnums=(3, 4))
        self.draw = jax.jit(
            lambda drawing, logits, rows: filters.draw(drawing, logits, rows.key, rows.active)
        )
        self.top_k = drawing

    def run(self):
        slots = self.slots
        ring, rows, *drawn = self.decode(
            self.params, self.prefix, slots.questions, slots.ring, slots.rows
        )
        self.slots = dataclasses.replace(slots, ring=ring, rows=rows)
        return drawn

    def caches(self) -> tuple:
        """The slots' own keys and values."""
        return (*self.slots.questions.groups, self.slots.ring)

    def weights(self) -> dict[str, list]:
        """The layers' matrices by name, as the step reads them."""
        c = self.config
        found: dict[str, list] = {}
        for layer in self.params["layers"]:
            for name in ("query", "key", "value", "out"):
                w = layer["attention"][name]
                if not isinstance(w, Transposed):
                    w = w.reshape(-1, c.embed_dim) if name == "out" else w.reshape(c.embed_dim, -1)
                found.setdefault("out" if name == "out" else "query, key, value", []).append(w)
            for name in ("gate_up", "down"):
                found.setdefault(name, []).append(layer["mlp"][name])
        return found


def inputs(w) -> int:
    """Number of inputs of a matrix."""
    return w.shape[1] if isinstance(w, Transposed) else w.shape[0]


def products(step: Step, weights: list):
    """A function that multiplies rows of activations by each of the matrices."""

    def every(x, weights):
        # Barriers keep the compiler from computing only the entries that are returned.
        of = lambda w: jax.lax.optimization_barrier(dense(x[:, :, : inputs(w)], w))[0, 0, 0]
        return [of(w) for w in weights]

    widest = max(inputs(w) for w in weights)
    x = jnp.ones((step.arguments.slots, 1, widest), step.config.dtype)
    program = jax.jit(every)
    return lambda: program(x, weights)


def attention(step: Step):
    """A function that scores the slots' own columns, and sums values, in every layer."""
    c, caches = step.config, step.caches()
    group = c.num_heads // c.num_kv_heads

    def every(q, weights, caches):
        found = []
        for cache, p in zip(caches, weights, strict=True):
            for keys, values in zip(cache.keys, cache.values, strict=True):
                for product in (product_by_head(q, keys), product_by_head(p, values)):
                    found.append(jax.lax.optimization_barrier(product)[0, 0, 0, 0])
        return found

    def ones(cache_dtype, columns):
        return jnp.ones((step.arguments.slots, c.num_kv_heads, group, columns), cache_dtype)

    dtype = caches[0].keys[0].dtype
    q = ones(dtype, c.head_dim)
    weights = [ones(dtype, cache.values[0].shape[-2]) for cache in caches]
    program = jax.jit(every)
    return lambda: program(q, weights, step.caches())  # the step replaces its ring


def large_product(dtype: str):
    """A function that multiplies 2048 x 2048 matrices, summed in float32."""
    x = jnp.ones((2048, 2048), dtype)
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
    return lambda: product(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", type=int, default=0, help="0: all")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--question", type=int, default=32, help="columns for questions")
    parser.add_argument("--ring", type=int, default=64, help="columns for sampled tokens")
    parser.add_argument("--prefix", type=int, default=320, help="tokens of the prompt")
    parser.add_argument("--flat", type=int, default=4, help="rows that top-p has to search")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")

    step, rows = Step(arguments), arguments.slots
    hidden = jnp.ones((rows, step.config.embed_dim), step.config.dtype)
    head = jax.jit(lambda params, x: models.logits(params, step.config, x))
    logits = jax.random.normal(jax.random.key(1), (rows, step.config.vocab_size))
    calls = {"large": large_product(arguments.dtype), "step": step.run}
    sizes = {}
    for name, weights in step.weights().items():
        calls[name] = products(step, weights)
        sizes[name] = sum(math.prod(w.shape) for w in weights)
    calls["head"] = lambda: head(step.params, hidden)
    sizes["head"] = step.config.vocab_size * step.config.embed_dim
    calls["own keys and values"] = attention(step)
    calls["drawing"] = lambda: step.draw(step.top_k, logits, step.slots.rows)
    top_p = filters.Drawing.of(Sampling(temperature=1.0, top_p=0.95))
    peaked = jnp.where(jnp.arange(rows)[:, None] < arguments.flat, 1, 20) * logits
    calls["top-p"] = lambda: step.draw(top_p, peaked, step.slots.rows)
    medians = timed(calls, arguments.rounds)

    rate = 2 * 2048**3 / medians.pop("large")[0]
    whole, _ = medians.pop("step")
    by_top_p, _ = medians.pop("top-p")
    flops = 2 * sum(sizes.values()) * rows
    c = step.config
    columns = arguments.prefix + arguments.question + arguments.ring
    attended = 4 * rows * columns * c.num_layers * c.num_heads * c.head_dim  # scores and sums
    read = sum(leaf.nbytes for cache in step.caches() for leaf in (*cache.keys, *cache.values))
    print(f"product of 2048 x 2048: {rate / 1e9:.0f} GFLOP/s")
    print(f"{'part':24} {'ms':>7} {'share':>6} {'CPUs':>5}  rate")

    def line(name, seconds, cpus="", speed=""):
        print(f"{name:24} {seconds * 1e3:7.1f} {seconds / whole:6.0%} {cpus:>5}  {speed}")

    for name, (seconds, cpus) in medians.items():
        speed = ""
        if name in sizes:
            speed = f"{2 * sizes[name] * rows / seconds / 1e9:.0f} GFLOP/s"
        elif name == "own keys and values":
            speed = f"{read / seconds / 1e9:.1f} GB/s"
        line(name, seconds, f"{cpus:.1f}", speed)
    line("the rest", whole - sum(seconds for seconds, _ in medians.values()))
    line("the step", whole, speed=f"{flops / whole / 1e9:.0f} GFLOP/s")
    alone = flops / sum(medians[name][0] for name in sizes)
    print(f"share of the rate of a large product: the step {flops / whole / rate:.0%},", end=" ")
    print(f"{(flops + attended) / whole / rate:.0%} with the products of attention,", end=" ")
    print(f"its products with weights alone {alone / rate:.0%}")
    print(f"drawing by top-p, {arguments.flat} of {rows} rows flat: {by_top_p * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
