"""Measures sampling and training on one GPU, against transformers, in about six minutes.

    PYTHONPATH=. python benchmarks/gpu.py
    PYTHONPATH=. python benchmarks/gpu.py --tiny        # a CPU: does the script work?

Weights and tokens are random, in the shape of Llama 3.2 1B in bfloat16: neither changes the time.
Each section runs in a process of its own, one after another, and prints a line of JSON:

    machine       versions; bytes/s of a copy and FLOP/s of a bfloat16 product, measured
    doctor        `restem doctor`
    tests         tests of the engine on this device
    decode        sampling with 256 and 512 slots, layers stacked and unstacked, and with 1, 8 and
                  32 tokens per visit of the host
    train         optimizer steps of one M-step, with each kind of recomputation
    transformers  `generate` and a training loop over the same model, prompts and examples
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
SHAPE = dict(
    vocab_size=128256, num_layers=16, embed_dim=2048, num_heads=32, num_kv_heads=8, head_dim=64,
    mlp_dim=8192, tied_head=True, rope_theta=500_000.0, max_length=8192,
)  # fmt: skip
TINY = SHAPE | dict(
    vocab_size=512, num_layers=2, embed_dim=64, num_heads=4, num_kv_heads=2, head_dim=16,
    mlp_dim=128,
)  # fmt: skip
SECTIONS = ("machine", "doctor", "tests", "decode", "train", "transformers")


class Work:
    """The prompt, questions and examples that all samplers and trainers get."""

    def __init__(self, tiny: bool):
        self.shape = TINY if tiny else SHAPE
        self.slots = (8, 16) if tiny else (256, 512)
        self.new_tokens = 8 if tiny else 128
        self.examples = 8 if tiny else 64
        rng = np.random.default_rng(0)
        draw = lambda n: rng.integers(1, self.shape["vocab_size"], n).tolist()
        self.prefix = draw(32 if tiny else 700)
        self.questions = [draw(int(n)) for n in rng.integers(8, 32 if tiny else 120, 1024)]
        self.pairs = [
            (draw(int(q)), draw(int(s)))
            for q, s in rng.integers((8, 8), (24, 24) if tiny else (120, 400), (self.examples, 2))
        ]


class Numbers:
    """A vocabulary without an end: every sample has all its tokens."""

    eos_ids = frozenset()

    def __init__(self, size: int):
        self.size = size

    def token_bytes(self, token_id):
        return b"x"


def config_of(work: Work, **changes):
    from restem import models

    return models.ModelConfig(dtype="bfloat16", **{**work.shape, **changes})


def params_of(config):
    import jax
    import jax.numpy as jnp

    from restem import models

    return jax.jit(lambda: models.init_params(config, jax.random.key(0), jnp.bfloat16))()


def best_seconds(function, rounds: int = 3) -> float:
    """Returns the least seconds of a call, after one that compiles."""
    function()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def machine(work: Work) -> dict:
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    small = work.shape is TINY
    size, length = (256, 2**20) if small else (8192, 2**30)
    a = jnp.ones((size, size), jnp.bfloat16) * 0.01
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda x: x + 1)
    x = jnp.ones((length,), jnp.int8)
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")
    }
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "memory": (device.memory_stats() or {}).get("bytes_limit"),
        "versions": versions,
        "flops": 2 * size**3 / best_seconds(lambda: product(a).block_until_ready(), 10),
        "bandwidth": 2 * length / best_seconds(lambda: copy(x).block_until_ready(), 10),
    }


def doctor(work: Work) -> dict:
    del work
    done = subprocess.run(
        [sys.executable, "-m", "restem", "doctor"], capture_output=True, text=True, cwd=ROOT
    )
    return {"rc": done.returncode, "output": (done.stdout + done.stderr)[-3000:]}


def tests(work: Work) -> dict:
    del work
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "tests/sampling/engine_test.py", "tests/models/attention_test.py"],
        capture_output=True, text=True, cwd=ROOT, timeout=150,
    )  # fmt: skip
    return {"rc": done.returncode, "output": done.stdout[-1500:]}


def decode(work: Work) -> dict:
    import jax

    config = config_of(work)
    params = params_of(config)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    cases = [(n, unstacked, 8) for n in work.slots for unstacked in (False, True)]
    cases += [(work.slots[0], False, steps) for steps in (1, 32)]
    found = []
    for slots, unstacked, steps in cases:
        stats = _sampled(work, config, params, slots, unstacked, steps)
        column = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim
        # Weights and prefix are read once per step; questions and tokens for each slot.
        own = max(map(len, work.questions[:slots])) + work.new_tokens
        read = weights + column * (len(work.prefix) + slots * own)
        step = stats.decode_seconds / (stats.slot_steps / slots)
        found.append(
            {
                "slots": slots,
                "unstacked": unstacked,
                "steps_per_visit": steps,
                "tokens_per_second": stats.tokens / stats.decode_seconds,
                "ms_per_step": 1e3 * step,
                "bytes_per_second": read / step,
                "prefill_seconds": stats.prefill_seconds,
                "compile_seconds": stats.compile_seconds,
            }
        )
    return {"cases": found}


def _sampled(work, config, params, slots, unstacked, steps):
    """Returns the engine's figures of a second pass, which compiles nothing."""
    from restem.sampling import Engine, Request, Sampling, Stats, Tuning

    engine = Engine(
        config, Numbers(config.vocab_size), sampling=Sampling(temperature=0.7, top_k=40),
        max_new_tokens=work.new_tokens, slots=slots,
        tuning=Tuning(decode_steps=steps, unstacked=unstacked),
    )  # fmt: skip
    requests = [Request(tuple(q), 1, problem_key=i) for i, q in enumerate(work.questions[:slots])]
    compiled = 0.0
    for _ in range(2):
        compiled += engine.stats.compile_seconds
        engine.stats = Stats()
        for _ in engine.sample(params, work.prefix, requests, key=0):
            pass
    engine.stats.compile_seconds += compiled
    return engine.stats


def train(work: Work) -> dict:
    import jax

    from restem.training import TokenExample, Trainer, choose_shape, optimizers, sizes_of

    examples = [TokenExample(q, s) for q, s in work.pairs]
    tokens = sum(e.length for e in examples)
    found = []
    for remat in ("full", "dots"):
        config = config_of(work, remat=remat)
        shape = choose_shape(
            sizes_of(examples), config=config, batch_examples=len(examples),
            prefix_length=len(work.prefix), max_tokens=16384,
        )  # fmt: skip
        trainer = Trainer(
            config, optimizer=optimizers.adamw(total_steps=100, learning_rate=1e-5),
            prefix_ids=work.prefix, batch_examples=len(examples), shape=shape,
        )  # fmt: skip
        epoch = trainer.pack(examples, seed=0, epoch=0)
        state = [trainer.init(params_of(config))]

        def step(trainer=trainer, state=state, batch=epoch[0]):
            state[0], metrics = trainer.train_step(state[0], batch)
            jax.block_until_ready((state[0], metrics))

        seconds = best_seconds(step)
        found.append(
            {
                "remat": remat,
                "micro_batches": int(epoch[0].num_micro),
                "rows": shape.rows_per_batch,
                "row_length": shape.row_length,
                "efficiency": epoch.efficiency(),
                "seconds": seconds,
                "examples_per_second": len(examples) / seconds,
                # 6 a parameter and token: recomputation and the prompt do not count.
                "useful_flops": 6 * config.num_params * tokens / seconds,
                "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
            }
        )
        del state, trainer
    return {"cases": found, "tokens": tokens}


def transformers(work: Work) -> dict:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    s = work.shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=s["vocab_size"], hidden_size=s["embed_dim"],
            num_hidden_layers=s["num_layers"], num_attention_heads=s["num_heads"],
            num_key_value_heads=s["num_kv_heads"], head_dim=s["head_dim"],
            intermediate_size=s["mlp_dim"], tie_word_embeddings=True,
            max_position_embeddings=s["max_length"], eos_token_id=None, pad_token_id=0,
        )
    ).to(device, torch.bfloat16)  # fmt: skip
    return {
        "device": device,
        "generate": [_generated(work, model, n, device) for n in work.slots],
        "train": _trained(work, model, device),
    }


def _generated(work, model, rows, device) -> dict:
    import torch

    prompts = [[*work.prefix, *q] for q in work.questions[:rows]]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)

    @torch.inference_mode()
    def generate():
        model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=0.7, top_k=40,
            min_new_tokens=work.new_tokens, max_new_tokens=work.new_tokens,
        )  # fmt: skip
        _synchronize(device)

    try:
        seconds = best_seconds(generate, rounds=1)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"rows": rows, "error": "out of memory"}
    return {"rows": rows, "tokens_per_second": rows * work.new_tokens / seconds}


def _trained(work, model, device) -> dict:
    """One example per row, padded, the prompt repeated; float32 moments, gradients accumulated."""
    import torch

    model.train()
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
    texts = [([*work.prefix, *q], t) for q, t in work.pairs]
    longest = max(len(q) + len(t) for q, t in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (q, t) in enumerate(texts):
        ids[i, : len(q) + len(t)] = torch.tensor([*q, *t])
        mask[i, : len(q) + len(t)] = 1
        labels[i, len(q) : len(q) + len(t)] = torch.tensor(t)
    ids, mask, labels = (x.to(device) for x in (ids, mask, labels))
    size = min(8, len(texts))

    def step():
        for start in range(0, len(texts), size):
            own = slice(start, start + size)
            loss = model(input_ids=ids[own], attention_mask=mask[own], labels=labels[own]).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _synchronize(device)

    seconds = best_seconds(step, rounds=2)
    return {"seconds": seconds, "examples_per_second": len(texts) / seconds, "rows": size}


def _synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def summary(found: dict) -> dict:
    """Returns shares of the measured peaks, and ratios to transformers."""
    made: dict = {}
    peak, cases = found.get("machine", {}), found.get("decode", {}).get("cases", [])
    trained = found.get("train", {}).get("cases", [])
    if "bandwidth" in peak and cases:
        best = max(cases, key=lambda c: c["tokens_per_second"])
        made["share_of_bandwidth"] = max(c["bytes_per_second"] for c in cases) / peak["bandwidth"]
        made["tokens_per_second"] = best["tokens_per_second"]
    if "flops" in peak and trained:
        made["share_of_flops"] = max(c["useful_flops"] for c in trained) / peak["flops"]
    other = found.get("transformers", {})
    rates = [c["tokens_per_second"] for c in other.get("generate", []) if "error" not in c]
    if rates and cases:
        made["times_generate"] = made["tokens_per_second"] / max(rates)
    if "train" in other and trained:
        ours = max(c["examples_per_second"] for c in trained)
        made["times_training"] = ours / other["train"]["examples_per_second"]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights")
    parser.add_argument("--sections", choices=SECTIONS, nargs="+", default=SECTIONS)
    parser.add_argument("--section", choices=SECTIONS, help="run one section in this process")
    parser.add_argument("--timeout", type=int, default=150, help="seconds for each section")
    arguments = parser.parse_args()
    if arguments.section:
        print("\n" + json.dumps(globals()[arguments.section](Work(arguments.tiny))))
        return
    found: dict = {}
    for name in arguments.sections:
        command = [sys.executable, __file__, f"--section={name}", *["--tiny"] * arguments.tiny]
        began = time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=arguments.timeout,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            lines = done.stdout.strip().splitlines()
            failed = {"error": done.stderr[-2000:]}
            found[name] = failed if done.returncode else json.loads(lines[-1])
        except subprocess.TimeoutExpired:
            found[name] = {"error": f"took more than {arguments.timeout} s"}
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"section": name, "seconds": seconds, **found[name]}), flush=True)
    print(json.dumps({"summary": summary(found)}))


if __name__ == "__main__":
    main()
