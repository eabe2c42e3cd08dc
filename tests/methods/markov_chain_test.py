"""TRICE's estimate is unbiased, by enumeration, and its chains are carried over."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized
from etils import epath

from restem import methods, records
from restem.methods import markov_chain
from restem.records import Problem
from restem.run import layout
from restem.runtime import storage
from restem.steps.select import select
from restem.steps.settings import SelectSettings
from restem.steps.strategies import Everything
from tests.helpers.solutions import A, B, sample


class TriceTest(parameterized.TestCase):
    """Problems with a few possible solutions each, so that every expectation is a finite sum."""

    LOGITS = np.array([[0.3, -0.5, 1.0], [0.0, 0.8, -1.2], [-0.4, 0.2, 0.1]])
    CORRECT = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], bool)

    def setUp(self):
        super().setUp()
        p = np.exp(self.LOGITS)
        self.p = p / p.sum(axis=1, keepdims=True)
        posterior = self.p * self.CORRECT
        self.posterior = posterior / posterior.sum(axis=1, keepdims=True)

    def score(self, m, y):
        """d log p(y) / d logits, [problems, solutions]."""
        gradient = np.zeros_like(self.p)
        gradient[m] = np.eye(3)[y] - self.p[m]
        return gradient

    def estimate(self, states, proposals, **settings):
        """The mean over examples of weight * score: a step with normalisation "none"."""
        problems = [Problem(str(m), "train", "?") for m in range(len(states))]
        samples = []
        for m, (state, proposed) in enumerate(zip(states, proposals, strict=True)):
            ys = [*proposed, *([] if state is None else [state])]
            for i, y in enumerate(ys):
                source = "policy" if i < len(proposed) else "chain"
                samples.append(sample(str(m), i, float(self.CORRECT[m, y]), str(y), source=source))
        chosen = select(
            problems=problems,
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(
                keep=Everything(),
                distinct="none",
                cap=None,
                weight=methods.ControlVariate(**settings),
            ),
        )
        self.assertEqual(sum(chosen.report["buckets"].values()), len(samples))
        total = np.zeros_like(self.p)
        for e in chosen.examples:
            total += e.weight * self.score(int(e.problem_id), int(e.targets))
        return total / max(1, len(chosen.examples))

    def exact(self):
        """Mean over problems of the gradient of log p(correct)."""
        return (self.posterior - self.p) / len(self.p)

    @parameterized.parameters(True, False)
    def test_unbiased_by_enumeration(self, enabled):
        mean, square = np.zeros_like(self.p), 0.0
        for states in itertools.product(range(3), repeat=3):
            p_states = np.prod([self.posterior[m, y] for m, y in enumerate(states)])
            if p_states == 0:
                continue
            for proposals in itertools.product(range(3), repeat=3):
                p_all = p_states * np.prod([self.p[m, y] for m, y in enumerate(proposals)])
                g = self.estimate(states, [(y,) for y in proposals], enabled=enabled)
                mean += p_all * g
                square += p_all * (g**2).sum()
        np.testing.assert_allclose(mean, self.exact(), atol=1e-12)
        self.assertGreater(square, (mean**2).sum())

    def test_unbiased_with_several_proposals(self):
        self.p, self.posterior = self.p[:2], self.posterior[:2]
        mean = np.zeros_like(self.p)
        pairs = list(itertools.product(range(3), repeat=2))
        for states in itertools.product(range(3), repeat=2):
            for one, two in itertools.product(pairs, repeat=2):
                weight = np.prod([self.posterior[m, y] for m, y in enumerate(states)])
                weight *= np.prod([self.p[m, y] for m, ys in enumerate((one, two)) for y in ys])
                if weight:
                    mean += weight * self.estimate(states, (one, two))
        np.testing.assert_allclose(mean, self.exact(), atol=1e-12)

    def test_a_chain_that_begins_is_unbiased(self):
        # Problem 1 has no state yet: where its first correct proposal comes, it counts as a draw
        # from the posterior, without the variate; until then it has no part.
        mean, probability = np.zeros_like(self.p), 0.0
        for s0, s2 in itertools.product(range(3), repeat=2):
            for ys in itertools.product(range(3), repeat=3):
                weight = self.posterior[0, s0] * self.posterior[2, s2]
                weight *= np.prod([self.p[m, y] for m, y in enumerate(ys)])
                if weight == 0:
                    continue
                g = self.estimate((s0, None, s2), [(y,) for y in ys])
                if self.CORRECT[1, ys[1]]:
                    mean, probability = mean + weight * g, probability + weight
                else:
                    np.testing.assert_array_equal(g[1], 0)
        np.testing.assert_allclose(mean / probability, self.exact(), atol=1e-12)

    def test_variance_goes_to_zero_as_the_policy_improves(self):
        self.p = np.array([[0.98, 0.01, 0.01]] * 3)
        self.CORRECT = np.array([[1, 0, 0]] * 3, bool)
        np.testing.assert_array_equal(self.estimate((0, 0, 0), [(0,)] * 3), 0)
        self.assertGreater(np.abs(self.estimate((0, 0, 0), [(0,)] * 3, enabled=False)).max(), 0)

    def test_the_table_of_the_docstring(self):
        def weights(state, proposal):
            # beta = 0.6: three of the five other proposals are correct.
            others = [sample(f"o{i}", 0, float(i < 3)) for i in range(5)]
            mine = [sample("a", 0, proposal)] + (
                [sample("a", 1, 1.0, source="chain")] if state else []
            )
            problems = [A, *(Problem(f"o{i}", "train", "?") for i in range(5))]
            chosen = select(
                problems=problems,
                samples=mine + others,
                iteration=1,
                seed=0,
                settings=SelectSettings(
                    keep=Everything(), distinct="none", cap=None, weight=methods.ControlVariate()
                ),
            )
            found = {e.sample_index: e.weight for e in chosen.examples if e.problem_id == "a"}
            begun = 3 + bool(found)
            scale = len(chosen.examples) / begun
            return {i: round(w / scale, 6) for i, w in found.items()}

        self.assertEqual(weights(False, 0.0), {})
        self.assertEqual(weights(False, 1.0), {0: 1.0})
        self.assertEqual(weights(True, 0.0), {0: -0.6, 1: 1.0})
        self.assertEqual(weights(True, 1.0), {0: 0.4})

    def test_the_state_is_carried_over_iterations_that_skip_the_problem(self):
        files = layout.Workdir(epath.Path(self.create_tempdir().full_path))

        def write(i, samples):
            shard = layout.shard_path(files.iteration(i).samples, 0, 1)
            storage.write_table(shard, records.samples_to_table(samples))

        write(1, [sample("a", 0, 1.0, "first"), sample("b", 0, 0.0)])
        write(2, [sample("b", 0, 1.0, "second")])
        write(3, [sample("b", 0, 0.0), sample("b", 1, 1.0, "second", source="chain")])
        proposals = [sample("a", 0, 0.0), sample("b", 0, 0.0)]
        states = methods.MarkovChain()(
            rollout=None, problems=[A, B], samples=proposals, directory=files.iteration(4)
        )
        self.assertEqual(
            {s.problem_id: (s.text, s.source, s.sample_index, s.token_ids) for s in states},
            {"a": ("first", "chain", 1, (7, 0)), "b": ("second", "chain", 1, (7, 1))},
        )

    def test_a_proposal_that_was_cut_off_is_not_accepted(self):
        self.assertFalse(markov_chain.is_accepted(sample("a", 0, 1.0, finish="length")))


if __name__ == "__main__":
    absltest.main()
