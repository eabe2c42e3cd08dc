"""The E-step: samples solutions and has them verified while more are sampled.

The samples of an iteration lie in shards of a fixed number of problems. A shard is written once all
of its samples are verified; a resumed step samples the missing shards only. Since a sample is a
function of (policy, problem, sample index, seed), it does not matter in which shard, on which host
or beside which neighbours it is made.

Many hosts sample in one of two ways. On devices of its own (no mesh, or `local_mesh`) each host
takes a share of the shards and waits for no other. On one mesh of all hosts, where the policy does
not fit a host's devices, all run one schedule and each verifies and writes its share.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import gin
import jax
from absl import logging
from etils import epath

from restem import partitioning, records
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.rollout import prompts as prompts_lib
from restem.run import layout
from restem.runtime import distributed, storage
from restem.runtime.preemption import PREEMPTION
from restem.runtime.profiles import PROFILE
from restem.runtime.progress import progress
from restem.sampling import Engine, Request, Sampling
from restem.verify.sandbox import layers

gin.external_configurable(Sampling, module="restem")


class Extend(Protocol):
    """What else joins the samples of some problems once the policy has had its turn.

    STaR's rationalization, human solutions and Markov chains are such; so is a search that makes an
    expert of the policy (ExIt). See `restem.methods`.
    """

    def __call__(
        self,
        *,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        settings: Mapping[str, Any],
        directory: layout.IterationDir,
    ) -> list[Sample]:
        """More verified samples of `problems`, of indices that `samples` do not have.

        Args:
          problems: of one shard.
          samples: what the policy made of them, verified.
          settings: of `sample_and_verify`, less `problems`, `num_samples` and `what`.
          directory: of the iteration.
        """


def sample_and_verify(
    *,
    policy,
    card: TaskCard,
    problems: Sequence[Problem],
    num_samples: int,
    sampling: Sampling,
    max_new_tokens: int | None,
    key: int,
    verifier,
    what: str,
    slots: int | None = None,
    mesh=None,
    inputs: Sequence[str] | None = None,
    first_sample: int = 0,
    source: str = "policy",
    timing: dict[str, float] | None = None,
) -> Generator[Sample, None, None]:
    """Samples `num_samples` solutions of every problem and yields each once it is verified.

    Verification runs on other processes meanwhile, so the time of a pass is that of the slower of
    the two, not their sum. Where the mesh is of all hosts, every host calls this alike and gets all
    samples, in the same order.

    Args:
      policy: who writes the solutions.
      card: the task: prefix, stop strings, length.
      problems: what is asked.
      num_samples: solutions a problem.
      sampling: temperature and truncation.
      max_new_tokens: None takes the task's.
      key: names this pass among all passes of the run (seed, iteration, purpose).
      verifier: a `restem.verify.Verifier` of the task's grader.
      what: the step's name on the progress bar.
      slots: rows of the decode batch; None lets the engine choose.
      mesh: devices; None is this host's first device.
      inputs: queries to ask instead of the problems' own.
      first_sample: index of the first sample of each problem.
      source: written into the samples.
      timing: receives seconds and tokens of the pass.
    """
    max_new_tokens = max_new_tokens or card.max_new_tokens
    tokens = prompts_lib.tokenize(
        card,
        problems,
        policy.vocabulary,
        max_new_tokens=max_new_tokens,
        max_length=policy.config.max_length,
        inputs=inputs,
    )
    engine = Engine(
        policy.config,
        policy.vocabulary,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        stop=card.stop,
        stop_after=card.stop_after,
        slots=slots,
        mesh=mesh,
    )
    requests = [
        Request(
            tokens=question,
            num_samples=num_samples,
            problem_key=records.stable_key(problem.problem_id),
            first_sample=first_sample,
        )
        for problem, question in zip(problems, tokens.questions, strict=True)
    ]
    began = sampled = time.monotonic()
    generated = correct = 0

    def completed() -> Iterator[tuple[Problem, Sample]]:
        nonlocal generated, sampled
        params = policy.params
        if mesh is not None:
            params = partitioning.reshard(params, partitioning.param_shardings(policy.config, mesh))
        with PROFILE.traced("decode") as advance:
            completions = engine.sample(
                params, tokens.prefix, requests, key=key, on_progress=advance
            )
            for completion in completions:
                problem = problems[completion.request_index]
                generated += len(completion.token_ids)
                sample = Sample(
                    problem_id=problem.problem_id,
                    sample_index=completion.sample_index,
                    text=completion.text,
                    token_ids=tuple(completion.token_ids),
                    logprob=completion.logprob,
                    finish_reason=completion.finish_reason,
                    inputs=None if inputs is None else inputs[completion.request_index],
                    source=source,
                )
                yield problem, sample
        sampled = time.monotonic()

    verified = _verified_together if partitioning.is_shared(mesh) else _verified
    with progress(what, total=len(problems) * num_samples, unit="samples") as bar:
        for sample in verified(completed(), verifier):
            correct += sample.correct
            bar.advance(1, note=f"{correct} correct")
            yield sample
    if timing is not None:
        timing["seconds"] = timing.get("seconds", 0.0) + time.monotonic() - began
        timing["seconds_sampling"] = timing.get("seconds_sampling", 0.0) + sampled - began
        timing["tokens"] = timing.get("tokens", 0) + generated


def _verified(completed: Iterable[tuple[Problem, Sample]], verifier) -> Iterator[Sample]:
    """Each sample as soon as its verdict is there."""
    done: queue.SimpleQueue[tuple[Sample, Future[Verdict]]] = queue.SimpleQueue()
    waiting = 0
    for problem, sample in completed:
        future = verifier.submit(problem, sample.text)
        future.add_done_callback(lambda future, sample=sample: done.put((sample, future)))
        waiting += 1
        while not done.empty():
            sample, future = done.get()
            waiting -= 1
            yield records.regraded(sample, future.result())
    for _ in range(waiting):
        sample, future = done.get()
        yield records.regraded(sample, future.result())


_BLOCK = 512
"""Verdicts that hosts tell each other at a time: some 100 kB."""


def _verified_together(completed: Iterable[tuple[Problem, Sample]], verifier) -> Iterator[Sample]:
    """The same on hosts that all have the same samples: each verifies its share of them.

    Verdicts are exchanged a block late, so that verification goes on beside sampling.
    """

    def exchange(block: list[tuple[Sample, Future[Verdict] | None]]) -> Iterator[Sample]:
        own = {i: vars(future.result()) for i, (_, future) in enumerate(block) if future}
        verdicts: dict[str, Any] = {}
        for part in distributed.gather("verification", own):
            verdicts |= part
        for i, (sample, _) in enumerate(block):
            yield records.regraded(sample, Verdict(**verdicts[str(i)]))

    before: list[tuple[Sample, Future[Verdict] | None]] = []
    block: list[tuple[Sample, Future[Verdict] | None]] = []
    for problem, sample in completed:
        own = len(block) % jax.process_count() == jax.process_index()
        block.append((sample, verifier.submit(problem, sample.text) if own else None))
        if len(block) == _BLOCK:
            yield from exchange(before)
            before, block = block, []
    yield from exchange(before)
    yield from exchange(block)


def sample_shards(
    folder: epath.Path,
    *,
    problems: Sequence[Problem],
    num_samples: int,
    problems_per_shard: int,
    what: str,
    extend: Callable[[Sequence[Problem], Sequence[Sample]], list[Sample]] | None = None,
    mesh=None,
    timing: dict[str, float],
    **settings: Any,
) -> int:
    """Samples the shards of `problems` that `folder` lacks; returns when all hosts' are there.

    A preempted job leaves between two shards.

    Args:
      folder: of the shards.
      problems: what is asked.
      num_samples: solutions a problem.
      problems_per_shard: a kill loses at most what is unfinished of the shards under way.
      what: the step's name.
      extend: called with the problems of a shard and their samples; gives more samples.
      mesh: as in `sample_and_verify`; decides how hosts share the work.
      timing: receives seconds (of the slowest host) and tokens (of all).
      **settings: of `sample_and_verify`.

    Returns:
      How many shards were there already.
    """
    shards = max(1, -(-len(problems) // problems_per_shard))
    paths = [layout.shard_path(folder, i, shards) for i in range(shards)]
    shard_of = {p.problem_id: i % shards for i, p in enumerate(problems)}
    missing = distributed.on_first(
        f"{what}: shards", lambda: [i for i, path in enumerate(paths) if not path.exists()]
    )
    if len(missing) < shards:
        logging.info("%s: %d of %d shards are there", folder, shards - len(missing), shards)
    own = distributed.share(missing)
    together = partitioning.is_shared(mesh)
    # Shard after shard, so that a kill finds as many finished as possible.
    of_shard = {
        i: [p for p in problems if shard_of[p.problem_id] == i]
        for i in (missing if together else own)
    }
    gathered: dict[int, list[Sample]] = {i: [] for i in of_shard}

    def finish(shard: int) -> None:
        samples = gathered.pop(shard)
        if extend is not None:
            samples += extend(of_shard[shard], samples)
        samples.sort(key=lambda s: (s.problem_id, s.sample_index))
        if shard in own:
            storage.write_table(paths[shard], records.samples_to_table(samples))
        # Together all hosts finish the same shards in the same order.
        PREEMPTION.leave_if(PREEMPTION.reached() if together else PREEMPTION.noticed())

    stream = sample_and_verify(
        problems=[p for i in of_shard for p in of_shard[i]],
        num_samples=num_samples,
        what=what,
        mesh=mesh,
        timing=timing,
        **settings,
    )
    with contextlib.closing(stream):
        for sample in stream if num_samples and of_shard else ():
            shard = shard_of[sample.problem_id]
            gathered[shard].append(sample)
            if extend is None and len(gathered[shard]) == len(of_shard[shard]) * num_samples:
                finish(shard)
    for shard in sorted(gathered):
        finish(shard)
    timings = distributed.gather(what, timing)
    for name in set().union(*timings):
        merge = max if together or name != "tokens" else sum
        timing[name] = merge(t.get(name, 0) for t in timings)
    return shards - len(missing)


@gin.configurable
def generate(
    *,
    policy,
    card: TaskCard,
    problems: Sequence[Problem],
    directory: layout.IterationDir,
    verifier,
    key: int,
    num_samples: int = 32,
    sampling: Sampling = Sampling(temperature=0.7, top_k=40),
    max_new_tokens: int | None = None,
    slots: int | None = None,
    problems_per_shard: int = 64,
    source: str = "policy",
    grading: Callable[[Any], Any] | None = None,
    extend: Extend | None = None,
    mesh=None,
) -> dict[str, Any]:
    """Samples and verifies solutions of `problems` into `directory.samples`.

    Args:
      policy: the current policy.
      card: the task.
      problems: the training problems of this iteration.
      directory: where the shards go.
      verifier: gives rewards.
      key: of the run's seed and this iteration.
      num_samples: solutions a problem (section 5: 32 for MATH, 64 for APPS); 0 leaves the policy
        out, for human solutions alone.
      sampling: section 5: temperature 0.7, top-k 40.
      max_new_tokens: None takes the task's.
      slots: rows of the decode batch; None lets the engine choose.
      problems_per_shard: a kill loses at most what is unfinished of the shards under way.
      source: written into the policy's samples.
      grading: makes another verifier of `verifier`; `WithoutGold` hides the answers from it.
      extend: adds to the samples; see `Extend`.
      mesh: devices to sample on: None, each host's first; `local_mesh`, each host's own; of
        `make_mesh`, those of all hosts together.

    Returns:
      What `generation.json` holds: counts, seconds and rates.
    """
    if distributed.on_first("start of the E-step", directory.generation.exists):
        return storage.read_json(directory.generation)
    if grading is not None:
        verifier = grading(verifier)
    timing: dict[str, float] = {}
    settings = dict(
        policy=policy, card=card, sampling=sampling, max_new_tokens=max_new_tokens, slots=slots,
        verifier=verifier, key=key, mesh=mesh, timing=timing,
    )  # fmt: skip
    more = None
    if extend is not None:
        more = lambda problems, samples: extend(
            problems=problems, samples=samples, settings=settings, directory=directory
        )
    resumed = sample_shards(
        directory.samples,
        **settings,
        problems=problems,
        num_samples=num_samples,
        problems_per_shard=problems_per_shard,
        source=source,
        extend=more,
        what=f"{directory.path.name}: sampling",
    )

    def report() -> dict[str, Any]:
        samples = directory.read_samples()
        seconds = timing.get("seconds", 0.0)
        counts: dict[str, Any] = {
            "problems": len(problems),
            "samples": len(samples),
            "num_samples": num_samples,
            "tokens": sum(len(s.token_ids) for s in samples),
            "mean_reward": sum(s.reward for s in samples) / max(1, len(samples)),
            "seconds": seconds,
            "seconds_sampling": timing.get("seconds_sampling", 0.0),
            "tokens_per_second": timing.get("tokens", 0) / seconds if seconds else None,
            # A resumed step timed only what it sampled itself.
            "resumed_from_shard": resumed or None,
        }
        if card.grader.get("kind") == "program":
            counts["sandbox"] = layers.in_force()
        storage.write_json(directory.generation, counts)
        return counts

    return distributed.on_first("end of the E-step", report)
