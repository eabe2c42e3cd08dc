"""Verdicts beside sampling, on hosts that exchange them."""

from concurrent.futures import Future
from unittest import mock

import jax
from absl.testing import absltest

from restem import records
from restem.records import Problem, Sample, Verdict
from restem.rollout import verification
from restem.runtime import distributed


class Ready(Future):
    """A future that may be asked only when its result is known."""

    def result(self, timeout=None):
        assert self.done(), "sampling would have waited for this verdict"
        return super().result(timeout)


def _sample(problem):
    return Sample(
        problem_id=problem.problem_id, sample_index=0, text="", token_ids=(), logprob=0.0,
        finish_reason="eos",
    )  # fmt: skip


class VerifiedTest(absltest.TestCase):
    def test_a_verdict_is_used_in_the_next_visit_also_if_that_finishes_no_sample(self):
        problem = Problem(problem_id="p", inputs="", split="train")
        future = Ready()
        visits = []

        def completed():
            for i, group in enumerate(([], [(problem, _sample(problem))], [], [])):
                visits.append(i)
                if i == 2:
                    future.set_result(Verdict(reward=1.0))
                yield group

        submit = mock.Mock(return_value=future)
        found = verification.verified(completed(), mock.Mock(submit=submit))
        self.assertEqual(next(found).reward, 1.0)
        self.assertEqual(visits, [0, 1, 2])
        self.assertEmpty(list(found))


class TogetherTest(absltest.TestCase):
    def test_sampling_does_not_wait_for_the_verdicts_of_the_shard_it_has_just_finished(self):
        problems = [Problem(problem_id=f"p{i}", inputs="", split="train") for i in range(6)]
        futures: dict[str, Ready] = {}
        events = []

        def submit(problem, text):
            return futures.setdefault(problem.problem_id, Ready())

        def completed():
            for i, problem in enumerate(problems):
                # The verdicts of a shard of two come while the next one is sampled.
                if i % 2 and i > 1:
                    futures[f"p{i - 2}"].set_result(Verdict(reward=i - 2.0))
                events.append(problem.problem_id)
                yield [(problem, _sample(problem))]
            futures["p5"].set_result(Verdict(reward=5.0))

        def gather(what, own):
            # This host is the second of two; the other one has the first sample of every shard.
            events.append(sorted(own))
            first = {"0": records.verdict_fields(Verdict(reward=9.0))}
            return [first, {str(i): fields for i, fields in own.items()}]

        with (
            mock.patch.object(jax, "process_count", lambda: 2),
            mock.patch.object(jax, "process_index", lambda: 1),
            mock.patch.object(distributed, "gather", gather),
        ):
            shard_of = lambda problem: int(problem.problem_id[1:]) // 2
            found = list(
                verification.verified_together(
                    completed(), mock.Mock(submit=submit), shard_of, {0: 2, 1: 2, 2: 2}
                )
            )
        self.assertEqual([s.problem_id for s in found], [p.problem_id for p in problems])
        self.assertEqual([s.reward for s in found], [9.0, 1.0, 9.0, 3.0, 9.0, 5.0])
        self.assertCountEqual(futures, ["p1", "p3", "p5"])
        self.assertEqual(events, ["p0", "p1", "p2", "p3", [1], "p4", "p5", [1], [1]])


if __name__ == "__main__":
    absltest.main()
