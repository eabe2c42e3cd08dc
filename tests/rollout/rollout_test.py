"""What a rollout asks of the engine, and what becomes of the answers."""

from __future__ import annotations

import dataclasses
from concurrent import futures
from typing import ClassVar
from unittest import mock

import jax
from absl.testing import absltest

from restem import models
from restem.checkpoints.policy import Policy
from restem.errors import UserError
from restem.records import Problem, TaskCard, Verdict
from restem.rollout import GREEDY, Rollout, rollout
from restem.sampling import Sampling
from restem.sampling.requests import Completion
from tests.helpers import tiny

PROBLEMS = [Problem("a", "train", "A?", "1"), Problem("b", "train", "Bb?", "2")]
CARD = TaskCard("t", prefix="shots\n", stop=("\n",), stop_after=(";",), max_new_tokens=9)


class FakeEngine:
    """Answers every request with its question and the index of the sample."""

    calls: ClassVar[list[FakeEngine]] = []

    def __init__(self, config, vocabulary, **options):
        self.config, self.vocabulary, self.options = config, vocabulary, options
        FakeEngine.calls.append(self)

    def visits(self, params, prefix, requests, *, key, on_progress=None, on_wait=None):
        del params, on_progress
        self.prefix, self.requests, self.key = tuple(prefix), list(requests), key
        for index, request in reversed(list(enumerate(requests))):
            for i in range(request.num_samples):
                sample = request.first_sample + i
                text = f"{self.vocabulary.decode(request.tokens)}{sample}"
                yield [Completion(index, sample, (5, 6, sample), text, -0.5, "eos")]


class FakeVerifier:
    """Rewards answers to the first problem."""

    def submit(self, problem, text):
        done = futures.Future()
        done.set_result(Verdict(0.5 if problem.problem_id == "a" else 0.0, detail=text))
        return done


class RolloutTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        params = models.init_params(tiny.config(), jax.random.key(0))
        cls.policy = Policy(tiny.config(), params, tiny.vocabulary(), "orbax:/base")

    def setUp(self):
        super().setUp()
        FakeEngine.calls = []
        self.enter_context(mock.patch.object(rollout, "Engine", FakeEngine))
        self.rollout = Rollout(
            policy=self.policy, card=CARD, verifier=FakeVerifier(), key=11,
            sampling=Sampling(temperature=0.7, top_k=4), slots=3,
        )  # fmt: skip

    def test_every_setting_reaches_the_engine(self):
        list(self.rollout.sample(PROBLEMS, 2, first_sample=3))
        (engine,) = FakeEngine.calls
        self.assertEqual(engine.options["sampling"], Sampling(temperature=0.7, top_k=4))
        self.assertEqual(engine.options["slots"], 3)
        self.assertEqual(engine.options["max_new_tokens"], 9)
        self.assertEqual(engine.options["stop"], ("\n",))
        self.assertEqual(engine.options["stop_after"], (";",))
        self.assertEqual(engine.key, 11)
        self.assertEqual(engine.vocabulary.decode(engine.prefix), "shots\n")
        self.assertEqual([r.num_samples for r in engine.requests], [2, 2])
        self.assertEqual([r.first_sample for r in engine.requests], [3, 3])
        self.assertEqual(
            [engine.vocabulary.decode(r.tokens) for r in engine.requests], ["A?", "Bb?"]
        )
        list(self.rollout.replace(max_new_tokens=4).sample(PROBLEMS, 1))
        self.assertEqual(FakeEngine.calls[1].options["max_new_tokens"], 4)

    def test_a_problem_has_the_same_key_beside_any_others(self):
        list(self.rollout.sample(PROBLEMS, 1))
        list(self.rollout.sample(PROBLEMS[1:], 1))
        both, alone = ([r.problem_key for r in c.requests] for c in FakeEngine.calls)
        self.assertNotEqual(both[0], both[1])
        self.assertEqual(alone, both[1:])

    def test_samples_carry_their_problem_and_its_verdict(self):
        samples = list(self.rollout.sample(PROBLEMS, 2, source="search"))
        self.assertCountEqual(
            [(s.problem_id, s.sample_index, s.text, s.reward) for s in samples],
            [("a", 0, "A?0", 0.5), ("a", 1, "A?1", 0.5), ("b", 0, "Bb?0", 0.0),
             ("b", 1, "Bb?1", 0.0)],
        )  # fmt: skip
        for sample in samples:
            self.assertEqual(sample.verdict.detail, sample.text)
            self.assertEqual(sample.token_ids, (5, 6, sample.sample_index))
            self.assertEqual((sample.logprob, sample.finish_reason), (-0.5, "eos"))
            self.assertEqual((sample.source, sample.inputs), ("search", None))
        self.assertEqual(self.rollout.costs.tokens, 12)

    def test_other_queries_are_asked_and_kept_with_the_samples(self):
        samples = list(self.rollout.sample(PROBLEMS, 1, inputs=["hint A?", "hint B?"]))
        self.assertEqual(
            {s.problem_id: (s.inputs, s.text) for s in samples},
            {"a": ("hint A?", "hint A?0"), "b": ("hint B?", "hint B?0")},
        )

    def test_samples_that_exist_are_not_asked_for(self):
        every = list(self.rollout.sample(PROBLEMS, 5, first_sample=1))
        skip = {("a", 1), ("a", 3), ("a", 4), *(("b", i) for i in range(1, 6)), ("c", 2)}
        asked = [("a", 2), ("a", 5)]
        samples = list(self.rollout.sample(PROBLEMS, 5, first_sample=1, skip=skip))
        requests = FakeEngine.calls[1].requests
        self.assertEqual([(r.first_sample, r.num_samples) for r in requests], [(2, 1), (5, 1)])
        self.assertCountEqual(
            samples, [s for s in every if (s.problem_id, s.sample_index) in asked]
        )
        queries = ["hint A?", "hint B?"]
        (sample,) = self.rollout.sample(PROBLEMS, 1, inputs=queries, skip=[("a", 0)])
        self.assertEqual((sample.problem_id, sample.inputs), ("b", "hint B?"))

    def test_the_validation_reward_is_the_mean_of_greedy_answers(self):
        self.assertEqual(self.rollout.greedy_reward(PROBLEMS), 0.25)
        (engine,) = FakeEngine.calls
        self.assertEqual(engine.options["sampling"], GREEDY)
        self.assertTrue(engine.options["sampling"].is_greedy)
        self.assertEqual([r.num_samples for r in engine.requests], [1, 1])

    def test_a_prompt_that_does_not_fit_is_refused(self):
        card = dataclasses.replace(CARD, max_new_tokens=tiny.config().max_length)
        with self.assertRaisesRegex(UserError, "problem a needs"):
            list(self.rollout.replace(card=card).sample(PROBLEMS, 1))


if __name__ == "__main__":
    absltest.main()
