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
from collections.abc import Iterable, Sequence

import gin

from restem.methods.unsolved import first_free_index
from restem.records import Problem, Sample
from restem.rollout import Rollout
from restem.run import reader
from restem.run.layout import IterationDir, Workdir


def is_accepted(proposal: Sample) -> bool:
    """Returns whether a proposal becomes the state: it must be correct and finished."""
    return proposal.correct and proposal.finish_reason != "length"


def split_chain(samples: Iterable[Sample]) -> tuple[Sample | None, list[Sample]]:
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
        by_problem: dict[str, list[Sample]] = collections.defaultdict(list)
        for sample in reader.read_samples(files.iteration(i)):
            if sample.problem_id in wanted:
                by_problem[sample.problem_id].append(sample)
        for problem_id, samples in by_problem.items():
            wanted.remove(problem_id)
            state, proposals = split_chain(samples)
            for proposal in proposals:
                state = proposal if is_accepted(proposal) else state
            if state is not None:
                states[problem_id] = state
    return states


@gin.configurable(module="restem.methods")
@dataclasses.dataclass(frozen=True)
class ControlVariate:
    """The weights of states and proposals in the gradient estimate above.

    The weights are scaled so that the mean over the examples with non-zero weight is the estimate:
    with `improve.normalisation = "none"` and all examples in one optimizer step, the gradient
    equals the estimate. Several proposals per problem are as many steps of its chain, and their
    contributions are averaged.
    """

    enabled: bool = True
    """Whether to use the control variate; False: beta is 0, and only the chains' states count."""

    def of_all(self, kept: Sequence[Sample], samples: Sequence[Sample]) -> list[float]:
        """Returns the weights of `kept`, some negative; 0 for samples that the estimate ignores.

        Args:
          kept: finished samples, states ("chain") and proposals.
          samples: all samples of the iteration.
        """
        by_problem: dict[str, list[Sample]] = collections.defaultdict(list)
        for sample in samples:
            by_problem[sample.problem_id].append(sample)
        chains = {p: split_chain(group) for p, group in by_problem.items()}
        correct = {p: sum(map(is_accepted, group)) for p, (_, group) in chains.items()}
        proposed = {p: len(group) for p, (_, group) in chains.items()}
        weights: dict[tuple[str, int], float] = collections.defaultdict(float)
        begun = 0
        for p, (state, proposals) in chains.items():
            others = sum(proposed.values()) - proposed[p]
            beta = (sum(correct.values()) - correct[p]) / others if others else 0.0
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
        of_kept = [weights[s.problem_id, s.sample_index] for s in kept]
        scale = sum(w != 0 for w in of_kept) / max(1, begun)
        return [w * scale for w in of_kept]
