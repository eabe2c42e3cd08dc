"""The engine gives what plain decoding gives, whatever shares its batch."""

import dataclasses
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models, partitioning
from restem.errors import UserError
from restem.sampling import Engine, Request, Sampling, Tuning
from restem.sampling.shapes import Shapes
from restem.sampling.stopping import Stops
from restem.sampling.widths import WidthClasses
from tests.helpers import compilation
from tests.sampling.filters_test import chi_square, exact, limit

CONFIG = models.ModelConfig(
    vocab_size=61, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48,
    tied_head=False,
)  # fmt: skip
LOCAL = CONFIG.replace(
    num_kv_heads=1, window=7, local_layers=(True, False), attention_softcap=5.0, qk_norm=True
)
NEW = 12
GREEDY = Sampling(temperature=0.0)


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


class Letters:
    """Ids 0..60; 0 ends a text, id i says one letter, ids from 55 on say two."""

    eos_ids = frozenset({0})
    size = 61

    def token_bytes(self, token_id):
        if token_id == 0:
            return b""
        if token_id >= 55:
            return b"%c%c" % (65 + token_id - 55, 66 + token_id - 55)
        return b"%c" % (64 + token_id)


@functools.cache
def params_of(config, seed=0):
    params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(seed))
    # Sharper logits than random weights give, so that greedy decoding has no near ties.
    return {**params, "head": params["head"] * 3}


def requests_of(seed, number, samples, longest=9, **kwargs):
    rng = np.random.default_rng(seed)
    return [
        Request(
            tokens=tuple(int(t) for t in rng.integers(1, 61, rng.integers(1, longest))),
            num_samples=samples,
            problem_key=1000 + i,
            **kwargs,
        )
        for i in range(number)
    ]


def prefix_of(length):
    return [int(t) for t in np.random.default_rng(7).integers(1, 61, length)]


def engine_of(config=CONFIG, *, sampling=GREEDY, max_new_tokens=NEW, slots=None, **tuning):
    return Engine(
        config, Letters(), sampling=sampling, max_new_tokens=max_new_tokens, slots=slots,
        tuning=Tuning(**tuning),
    )  # fmt: skip


def collect(engine, prefix, requests, *, key=0, params=None):
    params = params_of(engine.options.config) if params is None else params
    found = list(engine.sample(params, prefix, requests, key=key))
    return {(requests[c.request_index].problem_key, c.sample_index): c for c in found}


@functools.partial(jax.jit, static_argnums=0)
def _full_logits(config, params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.forward(params, config, tokens, positions).hidden
    return models.logits(params, config, hidden)


def full_logits(config, rows, length=48):
    """Logits [rows, length, vocab] by one pass without a cache; padding goes to the end."""
    padded = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return np.asarray(_full_logits(config, params_of(config), padded))


def log_softmax(logits):
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _ring_shape(engine):
    """Shape of one layer's keys in the ring of 8 slots."""
    options = engine.options
    slots = Shapes(options.config, True, options.mesh).slots(WidthClasses((16,), (8,)), 16)
    return slots.ring.keys[0].shape


class EngineTest(parameterized.TestCase):
    @parameterized.parameters(
        (CONFIG, True, 21, 2, 1), (LOCAL, False, 21, 2, 3), (CONFIG, False, 0, 8, 5)
    )
    def test_greedy_equals_decoding_without_a_cache(self, config, unstacked, prefix, slots, steps):
        prefix, requests = prefix_of(prefix), requests_of(1, 3, 1)
        engine = engine_of(config, unstacked=unstacked, slots=slots, decode_steps=steps)
        found = collect(engine, prefix, requests)
        self.assertLen(found, len(requests))
        for request in requests:
            got = found[request.problem_key, 0]
            row = [*prefix, *request.tokens, *got.token_ids]
            start = len(row) - len(got.token_ids) - 1
            # Each token is the likeliest after those before it, so this is what decoding without
            # a cache gives.
            logits = full_logits(config, [row])[0, start : len(row) - 1]
            self.assertEqual(list(got.token_ids), logits.argmax(axis=-1).tolist())
            logprob = log_softmax(logits).max(axis=-1).sum()
            self.assertAlmostEqual(got.logprob, logprob, delta=1e-4 * NEW)
            self.assertEqual(got.finish_reason, "eos" if got.token_ids[-1] == 0 else "length")
            self.assertTrue(got.finish_reason == "eos" or len(got.token_ids) == NEW)

    def test_bfloat16_on_one_cpu_keeps_the_caches_in_float32(self):
        config = CONFIG.replace(dtype="bfloat16")
        prefix, requests = prefix_of(21), requests_of(1, 6, 2)
        sampling = Sampling(temperature=1.0)
        engine = engine_of(config, sampling=sampling, slots=4, ring=16)
        found = collect(engine, prefix, requests, params=params_of(CONFIG))
        self.assertLen(found, 12)
        for request in requests:
            for sample in range(2):
                got = found[request.problem_key, sample]
                row = [*prefix, *request.tokens, *got.token_ids]
                start = len(row) - len(got.token_ids) - 1
                logprobs = log_softmax(full_logits(CONFIG, [row])[0, start : len(row) - 1])
                expected = logprobs[np.arange(len(got.token_ids)), list(got.token_ids)].sum()
                self.assertAlmostEqual(got.logprob, expected, delta=0.03 * len(got.token_ids))
        one = partitioning.make_mesh(devices=jax.devices()[:1])
        classes = WidthClasses((16,), (4,))
        for mesh, dtype in ((None, jnp.float32), (one, jnp.bfloat16)):
            slots = Shapes(config, True, mesh).slots(classes, 16)
            dtypes = {leaf.dtype for leaf in jax.tree.leaves((slots.ring.keys, slots.questions))}
            self.assertEqual(dtypes - {jnp.dtype(jnp.int32)}, {jnp.dtype(dtype)})

    def test_a_sample_does_not_depend_on_what_shares_its_batch(self):
        sampling = Sampling(temperature=1.0, top_k=20, top_p=0.9)
        prefix, requests = prefix_of(21), requests_of(2, 5, 3)
        # Of different lengths, so that slots are refilled at different steps.
        requests = [
            dataclasses.replace(r, max_new_tokens=n)
            for r, n in zip(requests, (12, 3, 9, 12, 7), strict=True)
        ]
        expected = collect(engine_of(sampling=sampling, slots=16), prefix, requests)
        self.assertLen({c.token_ids for c in expected.values()}, 15)

        def check(engine, requests, **kwargs):
            found = collect(engine, prefix, requests, **kwargs)
            for name in found.keys() & expected.keys():
                self.assertEqual(found[name].token_ids, expected[name].token_ids, name)
                self.assertAlmostEqual(found[name].logprob, expected[name].logprob, delta=1e-3)
            return found

        # Few slots, so that samples take over each other's; several steps between visits; layers
        # in a stack. The ring of 16 columns goes round many times.
        few = engine_of(sampling=sampling, slots=3, decode_steps=5, unstacked=False)
        self.assertLen(check(few, requests), 15)
        # A ring that has to grow while samples are under way.
        growing = engine_of(sampling=sampling, slots=3, max_new_tokens=40, ring=16)
        long = Request(tuple(prefix_of(3)), 2, problem_key=1, max_new_tokens=40)
        self.assertLen(check(growing, [long, *requests]), 17)
        # Another order, and neighbours with much longer questions: another bucket.
        longer = [
            Request(tuple(prefix_of(20)), 2, problem_key=1, max_new_tokens=3),
            *requests[::-1],
        ]
        crowded = engine_of(sampling=sampling, slots=16, prefill_tokens=32)
        self.assertLen(check(crowded, longer), 17)
        # One question of many times the length of the others, in a width class of its own; visits
        # that start before the last one is read.
        longest = Request(tuple(prefix_of(200)), 2, problem_key=1, max_new_tokens=12)
        for options in ({"unstacked": True}, {"unstacked": False, "decode_steps": 3}):
            classes = engine_of(sampling=sampling, slots=8, **options)
            found = check(classes, [requests[0], longest, *requests[1:]])
            self.assertLen(found, 17)
            alone = collect(engine_of(sampling=sampling, slots=2), prefix, [longest])
            for name, completion in alone.items():
                self.assertEqual(found[name].token_ids, completion.token_ids)
        # By itself, one sample of the middle; and the rest of a problem later.
        one = [dataclasses.replace(requests[2], num_samples=1, first_sample=1)]
        self.assertLen(check(few, one), 1)
        # Another seed gives others.
        other = collect(few, prefix, requests, key=1)
        same = sum(other[name].token_ids == expected[name].token_ids for name in other)
        self.assertLess(same, 3)
        self.assertEqual(collect(few, prefix, requests, key=jax.random.key(1)), other)

    @parameterized.parameters(True, False)
    def test_the_order_of_the_rings_keys_changes_no_sample(self, unstacked):
        """With a ring that grows and a batch that shrinks; accelerators have time before heads."""
        prefix, requests = prefix_of(21), requests_of(2, 5, 3)
        sampling = Sampling(temperature=1.0, top_k=20)
        found = {}
        for time_minor in (True, False):
            engine = engine_of(
                sampling=sampling, slots=8, max_new_tokens=40, ring=16, unstacked=unstacked
            )
            with mock.patch.object(Shapes, "ring_time_minor", time_minor):
                self.assertEqual(
                    _ring_shape(engine), (8, 2, 8, 16) if time_minor else (8, 2, 16, 8)
                )
                found[time_minor] = collect(engine, prefix, requests)
        self.assertLen(found[True], 15)
        for name, expected in found[True].items():
            self.assertEqual(found[False][name].token_ids, expected.token_ids)
            self.assertAlmostEqual(found[False][name].logprob, expected.logprob, delta=1e-3)

    @parameterized.parameters(True, False)
    def test_projections_in_the_order_for_a_tpu_change_no_sample(self, unstacked):
        prefix, requests = prefix_of(21), requests_of(2, 5, 3)
        engine = engine_of(sampling=Sampling(1.0, top_k=20), slots=4, unstacked=unstacked)
        expected = collect(engine, prefix, requests)
        flatten = self.enter_context(
            mock.patch.object(models, "flatten_heads", wraps=models.flatten_heads)
        )
        self.enter_context(mock.patch.object(Shapes, "flat_heads", True))
        found = collect(engine, prefix, requests)
        flatten.assert_called_once()
        for name, completion in expected.items():
            self.assertEqual(found[name].token_ids, completion.token_ids)

    def test_sequences_have_the_probability_the_model_gives_them(self):
        # Six ids, at most three tokens: every sequence is listed, with its probability.
        config = CONFIG.replace(vocab_size=6)
        prefix, question, number = [3, 4], (5, 2), 6000
        sampling = Sampling(temperature=2.0, top_k=4, top_p=0.9)
        sequences = [
            s
            for n in (1, 2, 3)
            for s in itertools.product(range(6), repeat=n)
            if 0 not in s[:-1] and (n == 3 or s[-1] == 0)
        ]
        logits = full_logits(config, [(*prefix, *question, *s) for s in sequences], length=8)
        probs, logprobs = [], []
        for s, of in zip(sequences, logits, strict=True):
            at = [(3 + i, token) for i, token in enumerate(s)]
            probs.append(np.prod([exact(sampling, of[i])[token] for i, token in at]))
            logprobs.append(sum(log_softmax(of[i])[token] for i, token in at))
        self.assertAlmostEqual(sum(probs), 1.0, places=5)

        engine = engine_of(config, sampling=sampling, max_new_tokens=3, slots=256)
        request = Request(question, number, problem_key=2**40 + 17)
        index = {s: i for i, s in enumerate(sequences)}
        counts = np.zeros(len(sequences))
        for completion in engine.sample(params_of(config), prefix, [request], key=5):
            i = index[completion.token_ids]
            counts[i] += 1
            self.assertAlmostEqual(completion.logprob, logprobs[i], delta=1e-4)
        self.assertEqual(counts.sum(), number)
        probs = np.array(probs)
        self.assertEqual(counts[probs == 0].sum(), 0)
        statistic, freedom = chi_square(counts, probs)
        self.assertGreater(freedom, 20)
        self.assertLess(statistic, limit(freedom))
        # 6000 samples in 256 slots that are refilled: hardly a slot-step is lost.
        self.assertGreater(engine.stats.slot_utilisation, 0.9)

    def test_stop_strings_wherever_they_fall(self):
        prefix, requests = prefix_of(21), requests_of(1, 2, 1, max_new_tokens=8)
        engine = engine_of(slots=2, decode_steps=3)
        whole = collect(engine, prefix, requests)[1000, 0]
        self.assertEqual(whole.finish_reason, "length")
        self.assertLen(whole.token_ids, 8)
        for start in range(len(whole.text) - 2):
            string = whole.text[start : start + 3]
            start = whole.text.index(string)
            engine.options.stops = Stops.of([string], [])
            before = collect(engine, prefix, requests)[1000, 0]
            engine.options.stops = Stops.of([], [string])
            after = collect(engine, prefix, requests)[1000, 0]
            self.assertEqual((before.finish_reason, after.finish_reason), ("stop", "stop"))
            self.assertEqual(before.text, whole.text[:start])
            self.assertEqual(after.text, whole.text[: start + 3])
            self.assertEqual(before.token_ids, after.token_ids)
            # The tokens up to the one in which the string completed, and not one more.
            said = [engine.options.vocabulary.token_bytes(t) for t in before.token_ids]
            self.assertEqual(before.token_ids, whole.token_ids[: len(said)])
            self.assertLess(len(b"".join(said[:-1])), start + 3)
            self.assertGreaterEqual(len(b"".join(said)), start + 3)

    def test_eos_at_every_step_of_a_chunk(self):
        # Each greedy token in turn is declared the end; the sample ends at its first occurrence.
        prefix, requests = prefix_of(21), requests_of(1, 2, 1)
        whole = collect(engine_of(slots=2), prefix, requests)[1000, 0].token_ids
        self.assertGreaterEqual(len(set(whole)), 4)
        for token in list(dict.fromkeys(whole))[1:4]:
            engine = engine_of(slots=2, decode_steps=2, unstacked=False)
            engine.options.vocabulary.eos_ids = frozenset({token, 60})
            got = collect(engine, prefix, requests)[1000, 0]
            self.assertEqual(got.token_ids, whole[: whole.index(token) + 1])
            self.assertEqual(got.finish_reason, "eos")
            self.assertEqual(
                got.text.encode(),
                b"".join(map(engine.options.vocabulary.token_bytes, got.token_ids[:-1])),
            )

    def test_lengths_progress_and_new_parameters(self):
        prefix = prefix_of(5)
        requests = [
            Request((9, 8), 2, problem_key=1, max_new_tokens=1),
            Request((9, 8), 0, problem_key=2),
            Request((9, 8), 2, problem_key=3, max_new_tokens=100, first_sample=4),
        ]
        engine = engine_of(slots=64)
        seen = []
        found = list(
            engine.sample(
                params_of(CONFIG), prefix, requests, key=0, on_progress=lambda *n: seen.append(n)
            )
        )
        self.assertEqual(
            sorted((c.request_index, c.sample_index) for c in found),
            [(0, 0), (0, 1), (2, 4), (2, 5)],
        )
        self.assertEqual([len(c.token_ids) for c in found[:2]], [1, 1])
        self.assertEqual({len(c.token_ids) for c in found[2:]}, {NEW})
        self.assertEqual(seen[0], (2, 4))
        self.assertEqual(seen[-1], (4, 4))
        self.assertEqual(engine.stats.tokens, 2 + 2 * NEW)
        self.assertEqual(engine.stats.samples, 4)
        compiled = engine.stats.compile_seconds
        # Nothing of the old policy is kept, and nothing is compiled again.
        other = params_of(CONFIG, seed=1)
        row = [*prefix, 9, 8]
        again = collect(engine, prefix, requests[:1] + requests[2:], params=other)
        padded = jnp.zeros((1, 48), jnp.int32).at[0, : len(row)].set(jnp.asarray(row))
        expected = _full_logits(CONFIG, other, padded)[0, len(row) - 1].argmax()
        self.assertEqual(again[1, 0].token_ids, (int(expected),))
        self.assertNotEqual(again[3, 4].token_ids, found[2].token_ids)
        self.assertEqual(engine.stats.compile_seconds, compiled)

    def test_a_request_without_tokens_continues_the_prefix(self):
        engine = engine_of(slots=8)
        prefix = prefix_of(9)
        empty = [Request((), 1, problem_key=1), Request((7,), 1, problem_key=2)]
        full = [Request(tuple(prefix[8:]), 1, problem_key=1)]
        found = collect(engine, prefix, empty)
        self.assertEqual(found[1, 0].token_ids, collect(engine, prefix[:8], full)[1, 0].token_ids)
        self.assertLen(found, 2)
        self.assertEqual(collect(engine, prefix, []), {})

    def test_refuses_what_cannot_be_sampled(self):
        engine = engine_of(CONFIG.replace(max_length=20))
        with self.assertRaisesRegex(UserError, "no tokens"):
            collect(engine, [], [Request((), 1, problem_key=1)])
        with self.assertRaisesRegex(UserError, "exceed the model's 20"):
            collect(engine, prefix_of(5), [Request((1, 2, 3, 4), 1, problem_key=1)])
        with self.assertRaisesRegex(ValueError, "max_new_tokens"):
            engine_of(max_new_tokens=0)
        with self.assertRaisesRegex(ValueError, "num_samples"):
            Request((1,), -1, problem_key=1)


if __name__ == "__main__":
    absltest.main()
