"""TRICE: a Markov chain of solutions for every problem, and its control variate.

Phan et al. 2023 (arXiv 2312.02179) maximise log p(correct | x), the marginal over solutions y. Its
gradient is E[grad log p(y | x)] under the posterior p(y | x, correct), which is sampled by a Markov
chain: the state of problem m is a correct solution y_m, the policy proposes y'_m ~ p(y | x_m), and
the proposal becomes the state if it is correct. (It is an independence sampler: the Metropolis-
Hastings ratio of two correct solutions is 1.)

The control variate rests on E[grad log p(y')] = 0 over proposals y'. With y_m the state after the
proposal and beta_m any number that does not depend on y'_m,

    g = 1/M sum_m [ grad log p(y_m | x_m) - beta_m grad log p(y'_m | x_m) ]

has the same mean with and without the second term. beta_m is the share of correct proposals among
the *other* problems. A correct proposal is its own new state, so its weight in training is 1 -
beta_m: as the policy improves, beta_m approaches 1 and the estimate approaches 0. A wrong proposal
has weight -beta_m, and the old state has weight 1.

    iteration   chain before   proposal   examples (beta = 0.6)
    1           none           wrong      none: the chain has not begun
    2           none           A correct  A: 1        the first state is a draw from the posterior
    3           A              B wrong    A: 1, B: -0.6
    4           A              C correct  C: 0.4

The paper's text was not available when this was written, so the estimator is derived here from the
two facts above; tests enumerate a small problem to show that it is unbiased. It is unbiased if the
policy samples at temperature 1 without truncation and its solutions end with an end-of-sequence
token. Truncated proposals count as wrong and yield no example, because the likelihood of the whole
solution is unknown. Proposals that a stop string ended are trained on with an end-of-sequence token
in place of the string.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import gin
import numpy as np
from etils import epath

from restem.methods.unsolved import first_free_index
from restem.records import Problem, Sample
from restem.rollout import Rollout
from restem.run import layout, shards
from restem.run.layout import IterationDir, Workdir
from restem.runtime import storage

Chain = tuple[Sample | None, list[Sample]]
"""The state of a chain before an iteration, and its proposals."""


def is_accepted(proposal: Sample) -> bool:
    """Returns whether a proposal becomes the state: it must be correct and finished."""
    return proposal.correct and proposal.finish_reason != "length"


def split_chain(samples: Iterable[Sample]) -> Chain:
    """Splits the samples of one problem into the previous state and the proposals, in order."""
    state, proposals = None, []
    for sample in sorted(samples, key=lambda s: s.sample_index):
        if sample.source == "chain":
            state = sample
        else:
            proposals.append(sample)
    return state, proposals


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class MarkovChain:
    """Adds the previous state of each problem's chain to the proposals of an iteration.

    The previous state is the one that the last iteration with this problem ended in, after its
    proposals were accepted or rejected. Its source is "chain"; it keeps the reward and token ids of
    the original sample.
    """

    def __call__(
        self,
        *,
        rollout: Rollout,
        problems: Sequence[Problem],
        samples: Sequence[Sample],
        directory: IterationDir,
    ) -> list[Sample]:
        index = first_free_index(samples)
        states = last_states(directory, {p.problem_id for p in problems})
        return [
            dataclasses.replace(state, sample_index=index, source="chain")
            for state in states.values()
        ]


def last_states(directory: IterationDir, problem_ids: set[str]) -> dict[str, Sample]:
    """Returns the chains' states before an iteration; problems without a state are left out."""
    files = Workdir(directory.path.parent)
    now = int(directory.path.name.split("_")[1])
    wanted, states = set(problem_ids), {}
    for i in sorted((i for i in files.iterations() if 0 < i < now), reverse=True):
        if not wanted:
            break
        for path in _with_any(files.iteration(i), wanted):
            samples = [s for s in shards.read(path)[0] if s.problem_id in wanted]
            for problem_id, (state, proposals) in _chains(samples).items():
                wanted.remove(problem_id)
                for proposal in proposals:
                    state = proposal if is_accepted(proposal) else state
                if state is not None:
                    states[problem_id] = state
    return states


def _with_any(directory: IterationDir, problem_ids: set[str]) -> Iterator[epath.Path]:
    """Yields the shards of an iteration that have samples of any of these problems.

    Shards are sorted by problem, so the first and last problem of each say which may have any. The
    set may shrink between two shards.
    """
    paths, first, last = _bounds(str(directory.samples))
    may_have = (first <= max(problem_ids)) & (last >= min(problem_ids))
    for index in np.flatnonzero(may_have).tolist():
        if problem_ids:
            yield paths[index]


def _all_shards(folder: epath.Path) -> list[epath.Path]:
    """Returns the shards of a finished E-step, of which a network file system may list a part."""
    listed = layout.shard_paths(folder)
    number = layout.number_of_shards(listed[0]) if listed else 0
    return [layout.shard_path(folder, i, number) for i in range(number)]


@functools.lru_cache(maxsize=8)
def _bounds(folder: str) -> tuple[list[epath.Path], np.ndarray, np.ndarray]:
    """Returns the shards of a finished E-step, and the first and last problem of each, [shards]."""
    found = []
    for path in _all_shards(epath.Path(folder)):
        ids = storage.read_columns(path, ["problem_id"]).column("problem_id")
        if len(ids):
            found.append((path, ids[0].as_py(), ids[-1].as_py()))
    paths, first, last = zip(*found, strict=True) if found else ((), (), ())
    return list(paths), np.array(first, str), np.array(last, str)


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class ControlVariate:
    """Weights of chain states and proposals in TRICE's gradient estimate.

    The weights are scaled so that the mean over the examples with non-zero weight is the estimate:
    with `improve.normalisation = "none"` and all examples in one optimizer step, the gradient
    equals the estimate. Several proposals per problem are as many steps of its chain, and their
    contributions are averaged.
    """

    enabled: bool = True
    """Whether to use the control variate; False: beta is 0, and only the chains' states count."""

    passes = 2

    def sums(
        self, kept: Sequence[Sample], samples: Sequence[Sample], totals: Sequence[Mapping[str, int]]
    ) -> dict[str, int]:
        """Returns a shard's counts: of proposals, then of weighted samples; see `WeightOfAll`."""
        chains = _chains(samples)
        if not totals:
            return {
                "proposed": sum(len(proposals) for _, proposals in chains.values()),
                "correct": sum(_accepted(proposals) for _, proposals in chains.values()),
            }
        weights, begun = self._unscaled(chains, totals[0])
        weighted = sum(weights[s.problem_id, s.sample_index] != 0 for s in kept)
        return {"begun": begun, "weighted": weighted}

    def weights(
        self, kept: Sequence[Sample], samples: Sequence[Sample], totals: Sequence[Mapping[str, int]]
    ) -> list[float]:
        """Returns the weights of `kept`, some negative; 0 for samples that the estimate ignores.

        Args:
          kept: finished samples of a shard, states ("chain") and proposals.
          samples: all samples of the shard.
          totals: what `sums` counts over all shards.
        """
        weights, _ = self._unscaled(_chains(samples), totals[0])
        scale = totals[1]["weighted"] / max(1, totals[1]["begun"])
        return [weights[s.problem_id, s.sample_index] * scale for s in kept]

    def _unscaled(
        self, chains: Mapping[str, Chain], total: Mapping[str, int]
    ) -> tuple[Mapping[tuple[str, int], float], int]:
        """Returns the weights before scaling, by sample, and the number of chains that have begun.

        Args:
          chains: chains of some problems.
          total: number of proposals and of correct ones over all problems.
        """
        weights: dict[tuple[str, int], float] = collections.defaultdict(float)
        begun = 0
        for p, (state, proposals) in chains.items():
            others = total["proposed"] - len(proposals)
            beta = (total["correct"] - _accepted(proposals)) / others if others else 0.0
            beta = beta if self.enabled else 0.0
            of_problem: dict[int, float] = collections.defaultdict(float)
            steps = 0
            for proposal in proposals:
                if state is not None:  # the draw of the first state is not a step of the chain
                    of_problem[proposal.sample_index] -= beta
                state = proposal if is_accepted(proposal) else state
                if state is not None:
                    of_problem[state.sample_index] += 1.0
                    steps += 1
            begun += steps > 0
            for index, weight in of_problem.items():
                weights[p, index] = weight / steps
        return weights, begun


def _chains(samples: Sequence[Sample]) -> dict[str, Chain]:
    """Returns the previous state and the proposals of each problem."""
    by_problem: dict[str, list[Sample]] = collections.defaultdict(list)
    for sample in samples:
        by_problem[sample.problem_id].append(sample)
    return {p: split_chain(group) for p, group in by_problem.items()}


def _accepted(proposals: Sequence[Sample]) -> int:
    return sum(map(is_accepted, proposals))
