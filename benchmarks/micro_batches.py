"""Times optimizer steps on a CPU with micro-batches of several shapes; training.md has the results.

    PYTHONPATH=. python benchmarks/micro_batches.py 1024x3 416x4 416x1
    PYTHONPATH=. python benchmarks/micro_batches.py 128x12 160x1 320x1 --shape=smollm2 \\
        --dtype=float32 --full --prefix=300 --examples=24 --mean=60 --longest=79 --spread=0.2

Each shape is the length of a row and the rows of a micro-batch. All steps have the same examples,
weights and tokens, which are random, and take turns, so that a machine whose speed changes is as
fast for one as for another. With an adapter, each shape has the cost beside its time that
`training.shape` expects, relative to the first one.
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from decode import SHAPES

from restem import models
from restem.models.lora import Lora
from restem.runtime import host_memory
from restem.training import Shape, TokenExample, Trainer, optimizers, sizes_of
from restem.training.packing import first_fit_decreasing
from restem.training.shape import LayerCosts


class Step:
    """An optimizer step with micro-batches of one shape."""

    def __init__(self, arguments, config, params, examples, shape: Shape):
        prefix = np.random.default_rng(1).integers(1, config.vocab_size, arguments.prefix)
        self.trainer = Trainer(
            config,
            optimizer=optimizers.adamw(total_steps=100, learning_rate=1e-5),
            prefix_ids=prefix.tolist(),
            batch_examples=len(examples),
            shape=shape,
            adapter=None if arguments.full else Lora(rank=16),
        )
        epoch = self.trainer.pack(examples, seed=0, epoch=0)
        self.batch, self.efficiency = epoch[0], epoch.efficiency()
        self.frozen = self.trainer.frozen(params)
        self.state = self.trainer.init(params)

    def __call__(self) -> float:
        """Takes a step and returns its seconds."""
        start = time.perf_counter()
        self.state, metrics = self.trainer.train_step(self.state, self.batch, self.frozen)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shapes", nargs="+", help="LENGTHxROWS")
    parser.add_argument("--shape", choices=SHAPES, default="qwen", help="of the model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--full", action="store_true", help="train all parameters")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--prefix", type=int, default=420, help="tokens of the prompt")
    parser.add_argument("--examples", type=int, default=16, help="examples of a step")
    parser.add_argument("--mean", type=int, default=158, help="tokens of an example")
    parser.add_argument("--longest", type=int, default=402, help="tokens")
    parser.add_argument("--spread", type=float, default=0.42, help="of the logarithm of the tokens")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    host_memory.keep_freed()  # as `restem` does

    config = models.ModelConfig(
        **{**SHAPES[arguments.shape], "vocab_size": arguments.vocab, "remat": "dots"}
        | {"num_layers": arguments.layers, "dtype": arguments.dtype}
    )
    rng = np.random.default_rng(0)
    tokens = lambda count: rng.integers(1, config.vocab_size, count).tolist()
    lengths = rng.lognormal(0, arguments.spread, arguments.examples)
    lengths = (lengths * arguments.mean / lengths.mean()).astype(int).clip(20, arguments.longest)
    examples = [TokenExample(tokens(n - n // 3 + 1), tokens(n // 3)) for n in lengths]
    dtype = jnp.float32 if arguments.full else arguments.dtype
    params = jax.tree.map(
        lambda p: jnp.asarray(0.03 * rng.standard_normal(p.shape, dtype=np.float32), dtype),
        models.param_shapes(config),
    )
    shapes = [Shape(*map(int, text.split("x"))) for text in arguments.shapes]
    steps = [Step(arguments, config, params, examples, shape) for shape in shapes]
    times = [[step() for step in steps] for _ in range(arguments.rounds + 2)][2:]
    costs = LayerCosts.of(config, mesh=None, adapter_on_cpu=True)
    expected = []
    for shape in shapes:
        rows = len(first_fit_decreasing(sizes_of(examples), shape.row_length))
        expected.append(costs.total(shape, [rows], prefix_length=arguments.prefix, parts=1))
    print(f"{len(examples)} examples of {min(lengths)} to {max(lengths)} tokens")
    for i, (shape, step) in enumerate(zip(shapes, steps, strict=True)):
        own = [of_round[i] for of_round in times]
        share = "" if arguments.full else f"; expected {expected[i] / expected[0]:.2f} of the first"
        print(
            f"{shape.row_length} x {shape.rows_per_batch}: {int(step.batch.num_micro)}"
            f" micro-batches, {step.efficiency:.0%} full, best {min(own):.2f} s, median"
            f" {statistics.median(own):.2f} s{share}"
        )


if __name__ == "__main__":
    main()
