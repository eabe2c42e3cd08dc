"""The schedule: who gets which slot, and when a sample ends."""

import numpy as np
from absl.testing import absltest

from restem.sampling import Request
from restem.sampling.scheduler import Scheduler
from restem.sampling.stopping import Stops
from restem.sampling.widths import WidthClasses


class Letters:
    """Id 0 ends a text; every other id is a letter."""

    eos_ids = frozenset({0})

    def token_bytes(self, token_id):
        return b"%c" % (64 + token_id) if token_id else b""


def scheduler(requests, classes, request_classes, *, stop=(), limit=9):
    return Scheduler(
        requests, classes=classes, request_classes=request_classes, vocabulary=Letters(),
        vocab_size=27, stops=Stops.of(stop, ()), limits=[limit] * len(requests),
    )  # fmt: skip


def place(of):
    while (question := of.next_question()) is not None:
        of.add_prefilled({question: 0}, "batch")
    return [(p.request_index, p.sample_index, p.slot) for p in of.place()]


def record(of, *steps, rows=None):
    tokens = np.asarray(steps, np.int32)
    return of.record(tokens, np.full(tokens.shape, -0.5, np.float32), rows or list(of.rows))


class SchedulerTest(absltest.TestCase):
    def test_a_question_that_fits_no_free_slot_is_passed(self):
        requests = [Request((1,), 2, problem_key=i) for i in range(4)]
        of = scheduler(requests, WidthClasses((16, 64), (2, 1)), [0, 1, 1, 0])
        # Slot 2 is the only wide one: the second sample of request 1 waits, and so does request 2.
        self.assertEqual(place(of), [(0, 0, 0), (0, 1, 1), (1, 0, 2)])
        done = record(of, [0, 5, 5])
        self.assertEqual([(c.request_index, c.sample_index) for c in done], [(0, 0)])
        self.assertEqual(place(of), [(3, 0, 0)])
        record(of, [5, 5, 0])
        self.assertEqual(place(of), [(1, 1, 2)])
        self.assertFalse(of.nothing_waits)

    def test_reasons_and_order(self):
        of = scheduler(
            [Request((1,), 4, problem_key=1)], WidthClasses((16,), (4,)), [0], stop=("AB",), limit=3
        )
        place(of)
        done = record(of, [1, 3, 1, 4], [2, 3, 0, 1], [9, 3, 9, 2])
        found = [(c.sample_index, c.finish_reason, c.text, c.token_ids) for c in done]
        self.assertEqual(
            found,
            [
                (0, "stop", "", (1, 2)),
                (2, "eos", "A", (1, 0)),
                (1, "length", "CCC", (3, 3, 3)),
                (3, "stop", "D", (4, 1, 2)),  # at the cut-off, a stop string counts
            ],
        )
        self.assertEqual([c.logprob for c in done], [-1.0, -1.0, -1.5, -1.5])
        self.assertTrue(of.done)

    def test_steps_that_began_before_a_sample_do_not_count_for_it(self):
        of = scheduler([Request((1,), 2, problem_key=1)], WidthClasses((16,), (1,)), [0])
        place(of)
        before = list(of.rows)
        record(of, [0])
        self.assertEqual(place(of), [(0, 1, 0)])
        self.assertEqual(record(of, [5], rows=before), [])
        (done,) = record(of, [0])
        self.assertEqual(done.token_ids, (0,))

    def test_each_token_is_scanned_once(self):
        of = scheduler(
            [Request((1,), 1, problem_key=1)], WidthClasses((16,), (1,)), [0], stop=("AB",)
        )
        place(of)
        # B may complete the stop string, so it is scanned before the sample ends.
        self.assertEqual(record(of, [2]), [])
        self.assertEqual(record(of, [3], [1]), [])
        (done,) = record(of, [2])
        self.assertEqual((done.text, done.finish_reason), ("BC", "stop"))

    def test_shrinking_keeps_every_sample_on_its_part(self):
        requests = [Request((1,), 8, problem_key=1)]
        of = scheduler(requests, WidthClasses((16, 64), (4, 4), 2), [0])
        place(of)
        # On each part 0 and 1 are narrow, 2 and 3 wide; 1, 3 (first part) and 6 (second) go on.
        record(of, [0, 5, 0, 6, 0, 0, 7, 0])
        samples = {slot: of.rows[slot].sample_index for slot in (1, 3, 6)}
        sources, used = of.move(WidthClasses((16, 64), (2, 2), 2))
        self.assertEqual(used.tolist(), [True, True, False, True])
        self.assertEqual(sources[used].tolist(), [1, 3, 6])
        kept = [row.sample_index for row in of.rows if row]
        self.assertEqual(kept, [samples[1], samples[3], samples[6]])
        done = record(of, [0, 0, 5, 0])
        self.assertEqual([c.token_ids for c in done], [(5, 0), (6, 0), (7, 0)])

    def test_shrinking_is_refused_where_samples_do_not_fit(self):
        of = scheduler([Request((1,), 4, problem_key=1)], WidthClasses((16, 64), (2, 2)), [1])
        place(of)
        record(of, [5, 5, 5, 5])
        self.assertIsNone(of.move(WidthClasses((16, 64), (1, 1))))
        self.assertFalse(of.fits(WidthClasses((16, 64), (3, 1))))
        self.assertTrue(of.fits(WidthClasses((16, 64), (0, 4))))
        self.assertIsNotNone(of.rows[3])


if __name__ == "__main__":
    absltest.main()
