"""Methods that are settings of selection: RFT, RAFT, RWR and distillation."""

import dataclasses

import numpy as np
from absl.testing import absltest

from restem.steps.distinct import equation_set
from restem.steps.select import select
from restem.steps.settings import SelectSettings
from restem.steps.strategies import BestOfN, Everything, ExponentialWeight, UnitWeight
from restem.training import Shape, TokenExample, Trainer, optimizers
from tests.helpers import tiny
from tests.helpers.compilation import compile_quickly
from tests.helpers.gradients import gradients
from tests.helpers.solutions import A, B, sample


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

        compile_quickly(self)
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
            config, optimizer=optimizers.adamw(total_steps=1), shape=Shape(32, 1),
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


class DistillTest(absltest.TestCase):
    def test_ids_of_another_vocabulary_are_not_trained_on(self):
        samples = [sample("a", 0, 1.0, source="hf:/models/large"), sample("a", 1, 1.0)]
        chosen = select(problems=[A], samples=samples, iteration=1, seed=0).examples
        self.assertEqual([e.target_ids for e in chosen], [(), (7, 1)])


if __name__ == "__main__":
    absltest.main()
