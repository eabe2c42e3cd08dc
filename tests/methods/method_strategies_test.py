"""Each method's strategies do what its paper says, without a model where none is needed."""

import dataclasses
import itertools
from concurrent.futures import Future

import numpy as np
from absl.testing import absltest, parameterized
from etils import epath

from restem import methods, records
from restem.methods import markov_chain
from restem.records import Problem, Sample, Verdict
from restem.run import layout
from restem.runtime import storage
from restem.steps.distinct import equation_set
from restem.steps.select import select
from restem.steps.settings import SelectSettings
from restem.steps.strategies import BestOfN, Everything, ExponentialWeight, UnitWeight
from restem.training import TokenExample, Trainer, optimizers
from tests.helpers import tiny
from tests.helpers.gradients import gradients


def sample(problem, index, reward, text=None, *, source="policy", finish="eos", answer="1"):
    verdict = Verdict(reward, "string", answer, answer)
    text = f"{problem}{index}" if text is None else text
    return Sample(problem, index, text, (7, index), -1.0, finish, reward, verdict, source=source)


A, B = Problem("a", "train", "A?", answer="1"), Problem("b", "train", "B?", answer="2")


class ReSTTest(absltest.TestCase):
    def test_the_threshold_rises_over_the_improve_steps(self):
        samples = [sample("a", i, i / 10) for i in range(11)]
        keep = methods.RisingThreshold((0.0, 0.5, 0.9))
        kept = []
        for step in range(4):
            chosen = select(
                problems=[A],
                samples=samples,
                iteration=step + 1,
                seed=0,
                step=step,
                settings=SelectSettings(keep=keep, cap=None, weight=UnitWeight()),
            )
            kept.append([e.sample_index for e in chosen.examples])
        self.assertEqual(kept, [list(range(1, 11)), [6, 7, 8, 9, 10], [10], [10]])

    def test_binary_rewards_make_all_steps_the_same(self):
        # The remark of section 3 of the paper.
        samples = [sample("a", i, float(i % 2)) for i in range(6)]
        keep = methods.RisingThreshold((0.0, 0.5, 0.9))
        kept = [keep.at(step)(A, samples) for step in range(3)]
        self.assertEqual(kept[0], kept[1])
        self.assertEqual(kept[0], kept[2])

    def test_falling_thresholds_are_refused(self):
        with self.assertRaisesRegex(ValueError, "falls"):
            methods.RisingThreshold((0.5, 0.1))


class RFTTest(absltest.TestCase):
    def test_one_solution_of_each_set_of_equations_and_no_cap(self):
        texts = [f"{i} + 1 = {i + 1}" for i in range(30)]
        samples = [sample("a", i, 1.0, text) for i, text in enumerate(texts)]
        samples += [sample("a", 30 + i, 1.0, f"So {text}.") for i, text in enumerate(texts)]
        chosen = select(
            problems=[A],
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(distinct="equations", cap=None),
        )
        self.assertEqual([e.sample_index for e in chosen.examples], list(range(30)))
        self.assertLen({equation_set(s) for s in samples}, 30)


class RAFTTest(absltest.TestCase):
    def test_exactly_the_best_of_each_problem(self):
        rng = np.random.default_rng(0)
        samples = [sample("ab"[i % 2], i, float(r)) for i, r in enumerate(rng.random(20))]
        chosen = select(
            problems=[A, B],
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(keep=BestOfN(), weight=UnitWeight()),
        )
        best = {
            p: max((s for s in samples if s.problem_id == p), key=lambda s: s.reward) for p in "ab"
        }
        self.assertEqual(
            [(e.problem_id, e.sample_index, e.weight) for e in chosen.examples],
            [(p, best[p].sample_index, 1.0) for p in "ab"],
        )


class RWRTest(absltest.TestCase):
    def test_gradient_is_the_exponentially_weighted_one(self):
        import jax
        import jax.numpy as jnp

        from restem import models

        jax.config.update("jax_disable_most_optimizations", True)
        self.addCleanup(jax.config.update, "jax_disable_most_optimizations", False)
        samples = [
            dataclasses.replace(sample("a", i, r), token_ids=tuple(range(9 + i, 12 + 2 * i)))
            for i, r in enumerate((0.0, 0.4, 2.5))
        ]
        beta = 0.7
        chosen = select(
            problems=[A],
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(
                keep=Everything(), cap=None, distinct="none", weight=ExponentialWeight(beta)
            ),
        ).examples
        question = [5, 6, 7]
        config = tiny.config()
        params = models.init_params(config, jax.random.key(0))
        trainer = Trainer(
            config, optimizer=optimizers.adamw(total_steps=1), row_length=32, rows_per_batch=1,
            batch_examples=8, normalisation="example",
        )  # fmt: skip
        tokens = [TokenExample(question, e.target_ids, e.weight) for e in chosen]
        gradient, _ = gradients(trainer, params, trainer.pack(tokens, seed=0, epoch=0)[0])

        length = max(len(question) + len(s.token_ids) for s in samples)
        ids = np.zeros((len(samples), length), np.int32)
        is_target = np.zeros(ids.shape, bool)
        for i, s in enumerate(samples):
            text = [*question, *s.token_ids]
            ids[i, : len(text)] = text
            is_target[i, len(question) : len(text)] = True
        f = np.exp(np.array([s.reward for s in samples]) / beta)

        def by_hand(params):
            positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
            hidden = models.forward(params, config, ids, positions).hidden
            log_p = jax.nn.log_softmax(models.logits(params, config, hidden))
            of_ids = jnp.take_along_axis(log_p[:, :-1], ids[:, 1:, None], axis=2)[..., 0]
            return -(f * (of_ids * is_target[:, 1:]).sum(axis=1)).sum() / f.sum()

        for one, two in zip(
            jax.tree.leaves(gradient),
            jax.tree.leaves(jax.jit(jax.grad(by_hand))(params)),
            strict=True,
        ):
            np.testing.assert_allclose(one, two, atol=2e-5, rtol=2e-3)


class STaRTest(absltest.TestCase):
    def test_the_hinted_query_gives_the_answer_and_the_example_does_not(self):
        hinted = methods.Rationalization().hinted(Problem("a", "train", "A {answer}?", answer="42"))
        self.assertIn("42", hinted)
        made = dataclasses.replace(sample("a", 3, 1.0, source="rationalization"), inputs=hinted)
        (example,) = select(problems=[A], samples=[made], iteration=1, seed=0).examples
        self.assertEqual(example.inputs, "A?")


class SelfImproveTest(absltest.TestCase):
    def test_the_grader_sees_no_gold_and_gives_no_reward(self):
        seen = []

        class Spy:
            def submit(self, problem, text):
                seen.append(problem)
                future = Future()
                future.set_result(Verdict(1.0, "string", "7", "7", "as the gold 42 says"))
                return future

        gold = Problem(
            "a", "train", "A?", answer="42", tests="42", solutions=("42",), metadata={"x": "42"}
        )
        verdict = methods.WithoutGold()(Spy()).submit(gold, "so 7").result()
        self.assertNotIn("42", repr(seen))
        self.assertEqual(verdict, Verdict(0.0, "unlabelled", "7", "7"))

    def test_errors_of_the_grader_come_through(self):
        class Broken:
            def submit(self, problem, text):
                future = Future()
                future.set_exception(ValueError("no"))
                return future

        with self.assertRaisesRegex(ValueError, "no"):
            methods.WithoutGold()(Broken()).submit(A, "").result()


class HumanSolutionsTest(absltest.TestCase):
    def made(self, problems, samples, **settings):
        return methods.HumanSolutions(**settings)(
            rollout=None, problems=problems, samples=samples, directory=None
        )

    def test_every_solution_is_a_sample_beside_the_others(self):
        problem = dataclasses.replace(A, solutions=("one", "two"))
        policy = [sample("a", i, 0.0) for i in range(3)]
        human = self.made([problem, B], policy)
        self.assertEqual([s.text for s in human], ["one", "two"])
        self.assertEqual([s.sample_index for s in human], [3, 4])
        chosen = select(problems=[problem, B], samples=policy + human, iteration=1, seed=0)
        self.assertEqual([(e.targets, e.target_ids) for e in chosen.examples],
                         [("one", ()), ("two", ())])  # fmt: skip
        self.assertLen(self.made([problem], [], max_per_problem=1), 1)

    def test_one_of_each_problem_that_the_policy_solves(self):
        problems = [dataclasses.replace(p, solutions=("one", "two")) for p in (A, B)]
        policy = [sample("a", 0, 0.0), sample("a", 1, 1.0), sample("b", 0, 0.0)]
        samples = policy + self.made(problems, policy)
        chosen = select(
            problems=problems,
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(keep=methods.HumanWhereSolved()),
        )
        self.assertEqual([(e.problem_id, e.targets) for e in chosen.examples], [("a", "one")])


class ManyShotTest(absltest.TestCase):
    def test_shots_are_whole_blocks_of_the_prompt(self):
        chosen = select(
            problems=[A, B], samples=[sample("a", 0, 1.0, " x\n"), sample("b", 0, 1.0, " y")],
            iteration=1, seed=0,
        )  # fmt: skip
        from restem.methods.many_shot import as_prefix

        self.assertEqual(as_prefix(chosen.examples, "\n\n"), "A? x\n\nB? y\n\n")


class DistillTest(absltest.TestCase):
    def test_ids_of_another_vocabulary_are_not_trained_on(self):
        samples = [sample("a", 0, 1.0, source="hf:/models/large"), sample("a", 1, 1.0)]
        chosen = select(problems=[A], samples=samples, iteration=1, seed=0).examples
        self.assertEqual([e.target_ids for e in chosen], [(), (7, 1)])


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
