"""A call of the engine: how many slots it uses, and what it compiles and starts in which order."""

import dataclasses
from unittest import mock

from absl.testing import absltest, parameterized

from restem.sampling import Request, Sampling
from restem.sampling.programs import Programs
from restem.sampling.session import Session
from tests.helpers import compilation
from tests.sampling.engine_test import (
    CONFIG,
    collect,
    engine_of,
    params_of,
    prefix_of,
    requests_of,
)


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


class SessionTest(parameterized.TestCase):
    def test_the_batch_shrinks_when_nothing_waits(self):
        # One sample of 40 tokens among 15 of 2: the fewest slots go on with it.
        prefix = prefix_of(5)
        requests = requests_of(3, 16, 1, max_new_tokens=2)
        requests[5] = dataclasses.replace(requests[5], max_new_tokens=40)
        sampling = Sampling(temperature=1.0)
        expected = collect(
            engine_of(sampling=sampling, slots=1, max_new_tokens=40), prefix, [requests[5]]
        )
        for options in ({"unstacked": True}, {"unstacked": False, "decode_steps": 4}):
            engine = engine_of(sampling=sampling, slots=16, max_new_tokens=40, **options)
            found = collect(engine, prefix, requests)
            self.assertLen(found, 16)
            got = found[requests[5].problem_key, 0]
            self.assertEqual(got.token_ids, expected[requests[5].problem_key, 0].token_ids)
            # Without shrinking these would be 16 slots for each token of the longest sample.
            self.assertLess(engine.stats.slot_steps, 0.4 * 16 * len(got.token_ids))

    @parameterized.parameters(True, False)
    def test_the_batch_shrinks_while_samples_wait_for_the_only_wide_slot(self, unstacked):
        # 4 samples of 40 tokens of a long question, one after another, and 60 short ones of 2.
        requests = [Request(tuple(prefix_of(20)), 4, problem_key=0, max_new_tokens=40)]
        requests += [
            Request(tuple(prefix_of(3)), 1, problem_key=i, max_new_tokens=2) for i in range(1, 61)
        ]
        given = dict(sampling=Sampling(temperature=1.0), max_new_tokens=40)
        expected = collect(engine_of(slots=1, **given), prefix_of(5), requests)
        engine = engine_of(slots=16, unstacked=unstacked, **given)
        found = collect(engine, prefix_of(5), requests)
        for key, completion in expected.items():
            self.assertEqual(found[key].token_ids, completion.token_ids)
        long = sum(len(found[0, k].token_ids) for k in range(4))
        self.assertGreater(long, 80)
        # 15 slots make the short ones in 8 steps; then the batch has 2 narrow slots and the wide.
        self.assertLess(engine.stats.slot_steps, 16 * 16 + 3 * long)

    def test_the_device_is_kept_busy_where_wide_samples_do_not_fit_fewer_slots(self):
        # 6 wide samples of 40 tokens among 10 narrow ones of 2: half the slots would do for them,
        # but not half of the wide slots.
        requests = [
            Request(
                tuple(prefix_of(20 if i < 6 else 3)), 1, problem_key=i,
                max_new_tokens=40 if i < 6 else 2,
            )
            for i in range(16)
        ]  # fmt: skip
        under_way = []
        decode = Session._decode

        def note(self):
            under_way.append(len(self.visits))
            decode(self)

        engine = engine_of(
            sampling=Sampling(temperature=1.0), slots=16, max_new_tokens=40, decode_steps=4
        )
        with mock.patch.object(Session, "_decode", note):
            list(engine.sample(params_of(CONFIG), prefix_of(4), requests, key=0))
        self.assertGreater(len(under_way), 5)
        self.assertEqual(under_way.count(0), 1)

    @parameterized.parameters(True, False)
    def test_the_first_sample_waits_for_an_eighth_of_the_slots(self, unstacked):
        prefix, requests = prefix_of(5), requests_of(3, 40, 1, max_new_tokens=3)
        expected = collect(engine_of(slots=40, start_small=False), prefix, requests)
        engine = engine_of(slots=40, unstacked=unstacked, start_small=True)
        known = mock.patch.dict("restem.sampling.session._KNOWN_CLASSES", clear=True)
        self.enter_context(known)
        found = engine.sample(params_of(CONFIG), prefix, requests, key=0)
        first = next(found)
        self.assertLessEqual(engine.stats.slot_steps, 3 * 40 / 8)
        completions = [first, *found]
        self.assertLen(completions, 40)
        for c in completions:
            self.assertEqual(
                c.token_ids, expected[requests[c.request_index].problem_key, 0].token_ids
            )
        # The others have all slots 8 visits later.
        self.assertLessEqual(engine.stats.slot_steps, (3 + 8) * 40 / 8 + (3 + 3) * 40)

    def test_the_first_sample_waits_for_no_other_width(self):
        requests = [
            Request(tuple(prefix_of(3 if i else 20)), 1, problem_key=i, max_new_tokens=1)
            for i in range(40)
        ]
        engine = engine_of(slots=40, start_small=True)
        known = mock.patch.dict("restem.sampling.session._KNOWN_CLASSES", clear=True)
        self.enter_context(known)
        found = engine.sample(params_of(CONFIG), prefix_of(5), requests, key=0)
        self.assertEqual(next(found).request_index, 0)
        self.assertEqual(engine.stats.prefill_tokens, 5 + 19)
        self.assertLen(list(found), 39)
        # Nothing else was in the 6 slots (an eighth of each class), so they grew after one visit.
        self.assertEqual(engine.stats.slot_steps, 2 * 6 + 40)

    def test_a_batch_without_a_finished_sample_grows_too(self):
        prefix, requests = prefix_of(5), requests_of(3, 16, 1)
        requests = [dataclasses.replace(r, max_new_tokens=100) for r in requests]
        known = mock.patch.dict("restem.sampling.session._KNOWN_CLASSES", clear=True)
        with known, mock.patch("restem.sampling.session._MOST_SMALL_VISITS", 2):
            sampling = Sampling(temperature=0.0)
            engine = engine_of(sampling=sampling, slots=16, max_new_tokens=100, start_small=True)
            found = engine.sample(params_of(CONFIG), prefix, requests, key=0)
            first = next(found)
        steps = len(first.token_ids)
        self.assertGreater(steps, 2)
        self.assertEqual(engine.stats.slot_steps, 2 * 2 + 16 * (steps - 2))

    def test_few_programs_and_none_for_another_way_of_drawing(self):
        requests = requests_of(4, 40, 4, longest=30)
        config = CONFIG.replace(mlp_dim=52)  # so that no other test has its programs
        engine = engine_of(config, sampling=Sampling(top_k=20), slots=16)
        waits = []
        list(engine.sample(params_of(config), prefix_of(21), requests, key=0, on_wait=waits.append))
        self.assertLessEqual(len(waits), engine.stats.programs)
        self.assertRegex("; ".join(waits), r"compiling program \d+ of \d+: decode")
        # Prefix, three widths of prefill, and for up to three numbers of slots insert and decode.
        self.assertLessEqual(engine.stats.programs, 10)
        for sampling in (Sampling(temperature=0.0), Sampling(top_p=0.5), Sampling(top_k=3)):
            other = engine_of(config, sampling=sampling, slots=16)
            collect(other, prefix_of(21), requests)
            self.assertEqual(other.stats.programs, 0)

    def test_samples_start_in_the_order_of_their_requests(self):
        # Whatever their width: a shard of samples is whole before the next one begins.
        requests = [
            Request(tuple(prefix_of(3 if i % 2 else 20)), 2, problem_key=i, max_new_tokens=1)
            for i in range(8)
        ]
        engine = engine_of(sampling=Sampling(), slots=3, max_new_tokens=100)
        widths = []
        run = Programs.run

        def note(self, program, *arguments, **how):
            if program.__name__ == "_prefill_questions":
                widths.append(arguments[3].shape[1])
            return run(self, program, *arguments, **how)

        with mock.patch.object(Programs, "run", note):
            found = list(engine.sample(params_of(CONFIG), prefix_of(4), requests, key=0))
        order = [(c.request_index, c.sample_index) for c in found]
        self.assertEqual(order, [(i, k) for i in range(8) for k in range(2)])
        # Three questions of a width at a time, those further on with the first.
        self.assertEqual(widths, [32, 16, 32, 16])


if __name__ == "__main__":
    absltest.main()
