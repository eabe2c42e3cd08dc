"""Times training steps on a CPU against PyTorch; training.md has the results.

    pip install torch==2.13.0 transformers        # the other side
    PYTHONPATH=. python benchmarks/training.py

Three ways to train the same model (the shape of SmolLM2-135M, float32, AdamW) on the same examples
(questions of about 25 tokens and solutions of about 35 behind a few-shot prompt of 300). With
--dtype=bfloat16, activations and products are in bfloat16 (PyTorch: autocast):

    packed    restem: examples packed behind one copy of the prompt
    unpacked  restem: one example per row, the prompt repeated in each
    torch     transformers: one example per row, padded, the prompt repeated; the best of several
              batch sizes, gradients accumulated to one optimizer step for all examples

Each has its own process, which is idle while another is timed; rounds alternate between them, and
the best round counts. Weights and tokens are random, which does not change the time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time

import numpy as np

SHAPE = dict(
    vocab_size=49152, num_layers=30, embed_dim=576, num_heads=9, num_kv_heads=3, head_dim=64,
    mlp_dim=1536, tied_head=True, rope_theta=100_000.0,
)  # fmt: skip


def make_examples(count: int, prefix_length: int):
    """A prompt, and (question, solution) pairs of the demo's lengths."""
    rng = np.random.default_rng(0)

    def tokens(low, high):
        return rng.integers(1, SHAPE["vocab_size"], rng.integers(low, high)).tolist()

    prefix = tokens(prefix_length, prefix_length + 1)
    return prefix, [(tokens(18, 33), tokens(25, 46)) for _ in range(count)]


class Restem:
    """Our trainer, packed or with one example per row."""

    def __init__(self, arguments, *, packed: bool):
        import jax

        from restem import models
        from restem.steps.micro_batches import micro_batches
        from restem.steps.settings import ImproveSettings
        from restem.training import Shape, TokenExample, Trainer, optimizers, sizes_of

        self.jax = jax
        prefix, pairs = make_examples(arguments.examples, arguments.prefix)
        config = models.ModelConfig(dtype=arguments.dtype, **SHAPE)
        if packed:
            examples = [TokenExample(q, s) for q, s in pairs]
            settings = ImproveSettings(
                batch_examples=len(pairs), micro_batch_tokens=arguments.max_tokens,
                remat=arguments.remat,
            )  # fmt: skip
            shape, remat = micro_batches(
                sizes_of(examples), config, settings, room=None, prefix_length=len(prefix),
                mesh=None,
            )  # fmt: skip
        else:
            examples = [TokenExample(prefix + q, s) for q, s in pairs]
            prefix = []
            shape = Shape(max(e.length for e in examples), rows_per_batch=8)
            remat = arguments.remat or "full"
        config = config.replace(remat=remat)
        rng = np.random.default_rng(0)
        trainer = Trainer(
            config,
            optimizer=optimizers.adamw(total_steps=100, learning_rate=1e-5),
            prefix_ids=prefix,
            batch_examples=len(pairs),
            shape=shape,
        )
        epoch = trainer.pack(examples, seed=0, epoch=0)
        self.notes = {
            "micro_batches": int(epoch[0].num_micro),
            "micro_batch": [trainer.rows_per_batch, trainer.row_length],
            "efficiency": round(epoch.efficiency(), 3),
            "remat": remat,
        }
        self.batch = epoch[0]
        self.trainer = trainer
        self.dtype = arguments.dtype
        self.state = trainer.init(
            jax.tree.map(
                lambda p: 0.03 * rng.standard_normal(p.shape, dtype=np.float32),
                models.param_shapes(config),
            )
        )
        self.step()

    def step(self) -> None:
        self.state, metrics = self.trainer.train_step(self.state, self.batch)
        self.jax.block_until_ready((self.state, metrics))

    def matmul(self) -> tuple[float, float]:
        """The rate of a product of the model's size, per second and per CPU second."""
        jnp = self.jax.numpy
        x, w = jnp.ones((2048, 576), self.dtype), jnp.ones((576, 1536), self.dtype)
        product = self.jax.jit(lambda x, w: jnp.dot(x, w, preferred_element_type=jnp.float32))
        product(x, w).block_until_ready()
        best = best_cpu = 0.0
        for _ in range(20):
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(5):
                out = product(x, w)
            out.block_until_ready()
            flops = 5 * 2 * 2048 * 576 * 1536
            best = max(best, flops / (time.perf_counter() - wall))
            best_cpu = max(best_cpu, flops / (time.process_time() - cpu))
        return best, best_cpu


class Torch:
    """A plain loop: one example per row, padded to the longest, labels only on the solution."""

    def __init__(self, arguments):
        import torch
        import transformers

        self.torch = torch
        torch.manual_seed(0)
        torch.set_num_threads(os.cpu_count())
        self.autocast = lambda: torch.autocast(
            "cpu", torch.bfloat16, enabled=arguments.dtype == "bfloat16"
        )
        prefix, pairs = make_examples(arguments.examples, arguments.prefix)
        config = transformers.LlamaConfig(
            vocab_size=SHAPE["vocab_size"],
            hidden_size=SHAPE["embed_dim"],
            intermediate_size=SHAPE["mlp_dim"],
            num_hidden_layers=SHAPE["num_layers"],
            num_attention_heads=SHAPE["num_heads"],
            num_key_value_heads=SHAPE["num_kv_heads"],
            rope_theta=SHAPE["rope_theta"],
            tie_word_embeddings=True,
        )
        self.model = transformers.LlamaForCausalLM(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.0)
        longest = max(len(q) + len(s) for q, s in pairs) + len(prefix)
        self.tokens = torch.zeros(len(pairs), longest, dtype=torch.long)
        self.mask = torch.zeros_like(self.tokens)
        self.labels = torch.full_like(self.tokens, -100)
        for i, (question, solution) in enumerate(pairs):
            ids = torch.tensor([*prefix, *question, *solution])
            self.tokens[i, : len(ids)] = ids
            self.mask[i, : len(ids)] = 1
            self.labels[i, len(ids) - len(solution) : len(ids)] = ids[-len(solution) :]
        self.notes = {}
        seconds = {}
        for size in arguments.torch_batches:
            self._accumulate(1, slice(0, 1))
            start = time.process_time()
            self._accumulate(size, slice(0, size))
            # By CPU time, which another process on the machine disturbs less; both are alike on
            # a quiet one, since all cores work.
            seconds[size] = (time.process_time() - start) / size
        self.size = min(seconds, key=seconds.get)
        self.notes = {
            "examples_per_cpu_second_by_batch": {k: round(1 / v, 3) for k, v in seconds.items()},
            "batch": self.size,
        }
        self.optimizer.zero_grad(set_to_none=True)

    def _accumulate(self, size, rows):
        targets = (self.labels[rows] != -100).sum()
        for start in range(rows.start, rows.stop, size):
            own = slice(start, min(start + size, rows.stop))
            with self.autocast():
                loss = self.model(
                    input_ids=self.tokens[own],
                    attention_mask=self.mask[own],
                    labels=self.labels[own],
                    num_items_in_batch=targets,
                ).loss
            loss.backward()

    def step(self) -> None:
        self._accumulate(self.size, slice(0, len(self.tokens)))
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


CONTENDERS = {
    "packed": lambda a: Restem(a, packed=True),
    "unpacked": lambda a: Restem(a, packed=False),
    "torch": Torch,
}


def serve(name: str, arguments, pipe) -> None:
    """A contender's process: runs what it is asked to and answers with the figures."""
    contender = CONTENDERS[name](arguments)
    pipe.send(contender.notes)
    while (order := pipe.recv()) != "end":
        cpu, wall = time.process_time(), time.perf_counter()
        result = getattr(contender, order)()
        pipe.send(
            {
                "result": result,
                "seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            }
        )


def useful_flops(arguments) -> float:
    """FLOPs of a packed step: products of forward and backward passes on real tokens, each once.

    2 FLOPs per weight and token forward, twice that backward; the prompt once; the head on targets
    alone; attention of each query to the keys that it sees.
    """
    prefix, pairs = make_examples(arguments.examples, arguments.prefix)
    s = SHAPE
    weights = s["num_layers"] * (
        s["embed_dim"] * s["head_dim"] * 2 * (s["num_heads"] + s["num_kv_heads"])
        + 3 * s["embed_dim"] * s["mlp_dim"]
    )
    lengths = np.asarray([len(q) + len(t) - 1 for q, t in pairs])
    seen = (lengths * (len(prefix) + (lengths + 1) / 2)).sum()
    seen += len(prefix) * (len(prefix) + 1) / 2
    attention = 4 * s["num_layers"] * s["num_heads"] * s["head_dim"] * seen
    head = 2 * s["vocab_size"] * s["embed_dim"] * sum(len(t) for _, t in pairs)
    return 3 * (2 * weights * (lengths.sum() + len(prefix)) + attention + head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=64, help="examples of a step")
    parser.add_argument("--prefix", type=int, default=300, help="tokens of the prompt")
    parser.add_argument("--max_tokens", type=int, help="of a packed micro-batch")
    parser.add_argument("--remat", choices=("none", "full", "dots"), help="as a run chooses")
    parser.add_argument("--torch_batches", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    arguments = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    pipes = {}
    processes = []
    report: dict = {}
    for name in arguments.only:  # one after another, so that none is warmed up beside another
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(name, arguments, theirs), daemon=True)
        process.start()
        processes.append(process)
        theirs.close()  # so that the end of the process ends the wait for its answer
        report[name] = pipes[name].recv()
        print(f"{name} is ready: {report[name]}", flush=True)

    def ask(name, order):
        pipes[name].send(order)
        return pipes[name].recv()

    rounds = {name: [] for name in pipes}
    rates = []
    for i in range(arguments.rounds):
        for name in pipes:
            rounds[name].append(ask(name, "step"))
            print(f"round {i + 1}, {name}: {rounds[name][-1]}", flush=True)
        if "packed" in pipes:
            rates.append(ask("packed", "matmul")["result"])
    for name, answers in rounds.items():
        best = min(a["seconds"] for a in answers)
        cpu = min(a["cpu_seconds"] for a in answers)
        report[name] |= {
            "seconds": round(best, 2),
            "examples_per_second": round(arguments.examples / best, 3),
            "examples_per_cpu_second": round(arguments.examples / cpu, 3),
            "peak_gb": round(max(a["peak_gb"] for a in answers), 2),
        }
        pipes[name].send("end")
    for process in processes:
        process.join()
    if "packed" in report:
        packed = report["packed"]
        flops = useful_flops(arguments) / arguments.examples
        for per, top in zip(("second", "cpu_second"), np.max(rates, axis=0), strict=True):
            rate = flops * packed[f"examples_per_{per}"]
            packed[f"useful_gflops_per_{per}"] = round(rate / 1e9)
            packed[f"matmul_gflops_per_{per}"] = round(top / 1e9)
            packed[f"share_of_matmul_by_{per}"] = round(rate / top, 3)
        for other in report.keys() - {"packed"}:
            packed[f"times_{other}"] = {
                per: round(packed[f"examples_per_{per}"] / report[other][f"examples_per_{per}"], 2)
                for per in ("second", "cpu_second")
            }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
