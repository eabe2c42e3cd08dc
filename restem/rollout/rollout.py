"""`Rollout`: a policy that samples solutions to a task's problems, each with its verdict."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from restem import partitioning, records
from restem.checkpoints.policy import Policy
from restem.records import Problem, Sample, TaskCard
from restem.rollout import prompts
from restem.rollout.verification import Verifier, verified, verified_together
from restem.runtime import distributed
from restem.runtime.profiles import PROFILE
from restem.runtime.progress import progress
from restem.sampling import Engine, Request, Sampling, Tuning
from restem.sampling.steps import prepare_params
from restem.training import bytes_on_device

GREEDY = Sampling(temperature=0.0)
"""Greedy decoding: always the most likely token."""


Key = tuple[str, int]
"""What identifies a sample in a step: the problem's id and the sample's index."""


@dataclasses.dataclass
class Costs:
    """Time and tokens that the passes of a rollout have cost so far."""

    seconds: float = 0.0
    """Wall-clock seconds, including verification."""
    seconds_sampling: float = 0.0
    """Wall-clock seconds until the last sample was finished."""
    tokens: int = 0
    """Number of sampled tokens."""

    def add(self, other: Costs) -> None:
        self.seconds += other.seconds
        self.seconds_sampling += other.seconds_sampling
        self.tokens += other.tokens


@dataclasses.dataclass(frozen=True)
class Rollout:
    """A policy, the task that it solves, and the verifier of its solutions.

    If the mesh spans hosts, every host makes the same calls and receives all samples.
    """

    policy: Policy
    """Policy that writes the solutions."""
    card: TaskCard
    """Task: prefix, stop strings, length limit."""
    verifier: Verifier
    """Source of the rewards."""
    key: int
    """Random key of these passes, derived from the run's seed, the iteration and the purpose."""
    sampling: Sampling = GREEDY
    """Temperature and truncation."""
    max_new_tokens: int | None = None
    """Length limit of a solution in tokens; None: the task's limit."""
    mesh: Mesh | None = None
    """Mesh of devices; None: this host's first device."""
    validation_mesh: Mesh | None = None
    """Mesh on which `greedy_reward` samples, if it is another one: that of the E-step, while
    `mesh` is that of training."""
    slots: int | None = None
    """Samples decoded concurrently; None: chosen by the engine."""
    reserved: int = 0
    """Bytes of each device that something else takes while this rollout samples, such as the state
    of training."""
    costs: Costs = dataclasses.field(default_factory=Costs, compare=False)
    """Costs of all passes, including those of rollouts made by `replace`."""

    def replace(self, **changes: Any) -> Rollout:
        return dataclasses.replace(self, **changes)

    @property
    def is_shared(self) -> bool:
        """Whether the mesh spans hosts, so that all hosts run one program together."""
        return partitioning.is_shared(self.mesh)

    def placed(self) -> Rollout:
        """Returns this rollout with the policy's parameters laid out on the mesh."""
        if self.mesh is None:
            return self
        policy = self.policy
        params = partitioning.place_params(policy.params, policy.config, self.mesh)
        return self.replace(policy=policy.replace(params=params))

    def sample(
        self,
        problems: Sequence[Problem],
        num_samples: int,
        *,
        inputs: Sequence[str] | None = None,
        first_sample: int = 0,
        source: str = "policy",
        what: str = "sampling",
        shard_of: Callable[[Problem], int] = lambda problem: 0,
        skip: Collection[Key] = (),
    ) -> Generator[Sample, None, None]:
        """Yields `num_samples` solutions to every problem, each as soon as it is verified.

        On a mesh of several hosts, those of a shard are yielded together.

        Args:
          problems: the problems to sample.
          num_samples: number of solutions per problem.
          inputs: queries to ask in place of the problems' own.
          first_sample: index of the first sample of each problem.
          source: value of `Sample.source`.
          what: name of the step on the progress bar.
          shard_of: shard of a problem.
          skip: samples that exist already; on a mesh of several hosts, none.

        Raises:
          UserError: a prompt and its solution exceed the policy's context length.
        """
        began = time.monotonic()
        correct = 0
        total = len(problems) * num_samples - len(skip)
        with progress(what, total=total, unit="samples") as bar:
            completed = self._completed(
                problems, num_samples, inputs, first_sample, source, bar.wait, frozenset(skip)
            )
            if self.is_shared:
                sizes = collections.Counter(map(shard_of, problems))
                for shard in sizes:
                    sizes[shard] *= num_samples
                samples = verified_together(completed, self.verifier, shard_of, sizes)
            else:
                samples = verified(completed, self.verifier)
            for sample in samples:
                correct += sample.correct
                bar.advance(1, note=f"{correct} correct")
                yield sample
        self.costs.seconds += time.monotonic() - began

    def greedy_reward(self, problems: Sequence[Problem], *, what: str = "validating") -> float:
        """Returns the mean reward of one greedy answer per problem: the reward on D_val.

        If every host has a validation mesh of its own, each answers its share of the problems.
        """
        greedy = self.replace(sampling=GREEDY)
        if self.validation_mesh is not None:
            # Every host takes part in moving the policy, also one without a share of the problems.
            held = self.reserved or bytes_on_device(self.policy.params)  # on the mesh of training
            greedy = greedy.rounded().replace(mesh=self.validation_mesh, reserved=held).placed()
        share = problems
        is_shared_out = self.validation_mesh is not None and not greedy.is_shared
        if is_shared_out:
            share = distributed.share(problems)
        rewards = [s.reward for s in greedy.sample(share, 1, what=what)] if share else []
        if is_shared_out:
            rewards = [r for of_host in distributed.gather(what, rewards) for r in of_host]
        return math.fsum(rewards) / len(problems)

    def rounded(self) -> Rollout:
        """Returns this rollout with the parameters in the form that the sampler reads.

        Where they are moved to another mesh after that, fewer bytes cross between devices.
        """
        policy = self.policy
        params = prepare_params(policy.params, policy.config)
        return self.replace(policy=policy.replace(params=params))

    def _completed(
        self,
        problems: Sequence[Problem],
        num_samples: int,
        inputs: Sequence[str] | None,
        first_sample: int,
        source: str,
        on_wait: Callable[[str], None],
        skip: frozenset[Key],
    ) -> Iterator[list[tuple[Problem, Sample]]]:
        """Yields the solutions that each visit of the device finished, not yet verified."""
        began = time.monotonic()
        policy, card = self.policy, self.card
        max_new_tokens = self.max_new_tokens or card.max_new_tokens
        tokens = prompts.tokenize(
            card,
            problems,
            policy.vocabulary,
            max_new_tokens=max_new_tokens,
            max_length=policy.config.max_length,
            inputs=inputs,
        )
        requests, asked = [], []
        for i, (problem, question) in enumerate(zip(problems, tokens.questions, strict=True)):
            wanted = range(first_sample, first_sample + num_samples)
            for indices in _missing(wanted, problem, skip):
                request = Request(
                    tokens=question,
                    num_samples=len(indices),
                    problem_key=records.stable_key(problem.problem_id),
                    first_sample=indices.start,
                )
                requests.append(request)
                asked.append(i)
        engine = Engine(
            policy.config,
            prompts.of_task(card, policy.vocabulary),
            sampling=self.sampling,
            max_new_tokens=max_new_tokens,
            stop=card.stop,
            stop_after=card.stop_after,
            slots=self.slots,
            tuning=Tuning(reserved=self.reserved),
            mesh=self.mesh,
        )
        params = self.placed().policy.params
        with PROFILE.traced("decode") as advance:
            visits = engine.visits(
                params,
                tokens.prefix,
                requests,
                key=self.key,
                on_progress=advance,
                on_wait=on_wait,
            )
            for completions in visits:
                found = []
                for completion in completions:
                    self.costs.tokens += len(completion.token_ids)
                    position = asked[completion.request_index]
                    problem = problems[position]
                    sample = Sample(
                        problem_id=problem.problem_id,
                        sample_index=completion.sample_index,
                        text=completion.text,
                        token_ids=tuple(completion.token_ids),
                        logprob=completion.logprob,
                        finish_reason=completion.finish_reason,
                        inputs=None if inputs is None else inputs[position],
                        source=source,
                    )
                    found.append((problem, sample))
                yield found
        self.costs.seconds_sampling += time.monotonic() - began


def _missing(wanted: range, problem: Problem, skip: frozenset[Key]) -> Iterator[range]:
    """Yields the runs of consecutive indices in `wanted` that `skip` lacks."""
    start = wanted.start
    for i in wanted:
        if (problem.problem_id, i) in skip:
            if start < i:
                yield range(start, i)
            start = i + 1
    if start < wanted.stop:
        yield range(start, wanted.stop)
