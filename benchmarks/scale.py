"""Time and memory of the steps between sampling and training, from 20,000 to 2 million samples.

    python benchmarks/scale.py [--samples=20000,200000,2000000] [--limit_mb=1500] [--folder=DIR]
    python benchmarks/scale.py --samples=40960 --over_mb=100

For each size, synthetic problems and samples are written as the E-step writes them, and then each
step runs in a process of its own under a limit of its address space: the counts of the E-step,
selection, contamination, one epoch of packing, the summary and the report. Each line is JSON:
wall time and CPU time in seconds, and the peak of resident memory in MB. The step "start"
imports what all of them import, and does nothing.

With `--over_mb`, all steps run in this process, first on a small run and then, with so many MB of
address space more than that took, on the large one. The step "everything", which holds all samples
as version 0.1 did, must fail under that limit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

SAMPLES_PER_PROBLEM = 32
PROBLEMS_PER_SHARD = 64
LETTERS = [bytes([97 + i]) for i in range(26)]
STEPS = ("counts", "selection", "contamination", "packing", "summary", "report")


def write(folder: pathlib.Path, samples: int, *, tests: int = 500) -> None:
    """Writes a run whose only E-step has drawn `samples` samples.

    Args:
      folder: folder of the run.
      samples: number of samples, 32 per problem.
      tests: number of test problems.
    """
    import numpy as np
    from etils import epath

    from restem import records
    from restem.records import Problem, TaskCard
    from restem.run import layout
    from restem.runtime import storage

    files = layout.Workdir(epath.Path(folder))
    count = samples // SAMPLES_PER_PROBLEM
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(5000)])

    def problems():
        for split, number in (("train", count), ("test", tests)):
            for i in range(number):
                text = " ".join(words[rng.integers(0, len(words), 40)])
                query = f"Problem:\n{text}\n\nSolution:"
                yield Problem(f"{split}-{i:08d}", split, query, answer=str(i % 97))

    card = TaskCard(task="synthetic", max_new_tokens=256)
    storage.write_table(
        files.problems("synthetic"),
        records.problems_to_table(list(problems()), card),
        rows_per_group=records.PROBLEMS_PER_GROUP,
    )
    storage.write_json(
        files.identity,
        {"format": 2, "base": "none", "task": "synthetic", "seed": 0, "method": "restem"},
    )
    directory = files.iteration(1)
    shards = -(-count // PROBLEMS_PER_SHARD)
    for shard in range(shards):
        first, last = shard * count // shards, (shard + 1) * count // shards
        path = layout.shard_path(directory.samples, shard, shards)
        table = shard_table(range(first, last), rng)
        # The training problems come first in the file of problems.
        metadata = records.samples_to_table([], (first, last)).schema.metadata
        storage.write_table(path, table.replace_schema_metadata(metadata))


def shard_table(problems: range, rng):
    """Returns the samples of some problems as the E-step stores them."""
    import numpy as np
    import pyarrow as pa

    from restem.records import sample_schema

    n = len(problems) * SAMPLES_PER_PROBLEM
    lengths = rng.integers(60, 240, n).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    # A zipf-like draw, which compresses as the tokens of real texts do.
    tokens = np.minimum(rng.zipf(1.3, int(ends[-1])), 40_000).astype(np.int32)
    correct = rng.random(n) < np.repeat(rng.random(len(problems)), SAMPLES_PER_PROBLEM)
    cut = ~correct & (rng.random(n) < 0.1)
    answers = np.where(correct, np.repeat(np.array(problems) % 97, SAMPLES_PER_PROBLEM), 98)
    letters = (97 + tokens % 26).astype(np.uint8).tobytes().decode()
    bounds = ends.tolist()
    text = [letters[a:b] for a, b in itertools.pairwise(bounds)]
    rewards = pa.array(correct.astype(np.float32))
    names = pa.array(answers.astype(str).tolist())
    nothing = pa.nulls(n, pa.string())
    schema = sample_schema()
    fields = {
        "reward": rewards, "method": pa.array(["numeric"] * n), "extracted": names,
        "normalized": names, "detail": pa.array([""] * n), "correct": pa.array(correct),
        "passed": pa.nulls(n, pa.int32()), "total": pa.nulls(n, pa.int32()),
        "sandbox": pa.array([""] * n),
    }  # fmt: skip
    kind = schema.field("verdict").type
    verdict = pa.StructArray.from_arrays(
        [fields[kind.field(i).name] for i in range(kind.num_fields)], fields=list(kind)
    )
    ids = [f"train-{i:08d}" for i in problems for _ in range(SAMPLES_PER_PROBLEM)]
    return pa.table(
        {
            "problem_id": ids,
            "sample_index": np.tile(np.arange(SAMPLES_PER_PROBLEM, dtype=np.int32), len(problems)),
            "text": text,
            "token_ids": pa.ListArray.from_arrays(pa.array(ends), pa.array(tokens)),
            "logprob": rng.uniform(-80, -5, n).astype(np.float32),
            "finish_reason": np.where(cut, "length", "eos").tolist(),
            "reward": rewards,
            "verdict": verdict,
            "inputs": nothing,
            "source": ["policy"] * n,
        },
        schema=schema,
    )


def step(name: str, folder: pathlib.Path) -> None:
    """Runs one step on the run in a folder, as the loop does."""
    from etils import epath

    from restem import em
    from restem.evaluation import contamination
    from restem.report import report
    from restem.run import layout, reader, shards, summary
    from restem.run.problems import ProblemFile
    from restem.run.settings import RunSettings
    from restem.steps import generate
    from restem.steps.settings import Settings

    files = layout.Workdir(epath.Path(folder))
    directory = files.iteration(1)
    problems = ProblemFile(files.problems("synthetic"))

    class Run:
        seed = 0
        settings = RunSettings()

        def directory(self, iteration):
            return files.iteration(iteration)

        def problems(self, split):
            return problems.split(split)

    if name == "counts":
        print(generate.count_shards(directory)["samples"])
    elif name == "selection":
        em.select_examples(run=Run(), settings=Settings(), iteration=1)
    elif name == "contamination":
        tests = {"synthetic": list(problems.split("test"))}
        contamination.of_tasks(problems.split("train"), tests)
    elif name == "packing":
        print(pack(problems.card, shards.StoredExamples(directory)))
    elif name == "summary":
        summary.summarize(reader.read_run(files.path))
    elif name == "report":
        report.report(workdirs=[str(folder)])
    elif name == "everything":
        print(len(reader.read_samples(directory)))


def pack(card, examples) -> int:
    """Tokenises the examples and packs one epoch; returns the number of batches."""
    from restem.steps.examples import corpus_of
    from restem.training import pack as pack_epoch

    class Vocabulary:
        """One letter per token, as `shard_table` writes; tokenisers have their own benchmarks."""

        start_ids: tuple[int, ...] = ()
        eos_ids = frozenset({0})

        def encode(self, text):
            return [ord(letter) for letter in text]

        def prompt_ids(self, text):
            return tuple(self.encode(text))

        def token_bytes(self, token):
            return LETTERS[token % 26]

    prefix, corpus = corpus_of(card, examples, Vocabulary())
    epoch = pack_epoch(
        corpus, row_length=512, rows_per_batch=8, batch_examples=64, prefix_length=len(prefix)
    )
    return sum(1 for batch in epoch if batch.num_examples)


def measure(name: str, folder: pathlib.Path, samples: int, limit_mb: int | None) -> dict:
    """Runs a step in a process of its own; returns its time per sample and its memory.

    Raises:
      RuntimeError: the step failed, for instance because it passed the limit.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, __file__, f"--step={name}", f"--folder={folder}",
         *([f"--limit_mb={limit_mb}"] if limit_mb else [])],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1",
             "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name} of {samples} samples: exit code {process.returncode}")
    return {
        "samples": samples,
        "step": name,
        "wall_seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def within(root: pathlib.Path, samples: int, over_mb: int) -> None:
    """Runs all steps in this process, within `over_mb` of what they take on a small run.

    Raises:
      MemoryError: a step needs more.
    """
    small, large = root / "small", root / "large"
    write(small, 2 * SAMPLES_PER_PROBLEM * PROBLEMS_PER_SHARD, tests=20)
    write(large, samples, tests=20)
    for name in STEPS:
        step(name, small)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + over_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name in STEPS:
        step(name, large)
        print(f"{name}: within the limit", flush=True)
    try:
        step("everything", large)
    except MemoryError:
        print("everything: beyond the limit", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", default="20000,200000,2000000")
    parser.add_argument("--limit_mb", type=int, default=None, help="of address space, per step")
    parser.add_argument("--over_mb", type=int, help="of address space, over a small run's")
    parser.add_argument("--folder", help="where the runs go, and stay")
    parser.add_argument("--step", choices=("start", *STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        if arguments.limit_mb:
            limit = arguments.limit_mb * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        step(arguments.step, pathlib.Path(arguments.folder))
        return
    root = pathlib.Path(arguments.folder or tempfile.mkdtemp(prefix="restem_scale"))
    if arguments.over_mb:
        within(root, int(arguments.samples), arguments.over_mb)
        return
    for size in map(int, arguments.samples.split(",")):
        folder = root / str(size)
        if not folder.exists():
            write(folder, size)
        for leftover in ("iteration_001/dataset", "report"):
            shutil.rmtree(folder / leftover, ignore_errors=True)
        (folder / "iteration_001/selection.json").unlink(missing_ok=True)
        for name in ("start", *STEPS):
            print(json.dumps(measure(name, folder, size, arguments.limit_mb)), flush=True)
    if not arguments.folder:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
