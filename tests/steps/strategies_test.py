"""Each strategy keeps what its paper says."""

import math

from absl.testing import absltest, parameterized

from restem import records
from restem.errors import UserError
from restem.records import Problem, Sample, Verdict
from restem.steps import strategies


def _sample(problem, index, reward, text=None, answer="1", finish="eos", logprob=-1.0):
    text = f"solution {problem} {index}" if text is None else text
    verdict = Verdict(reward, "string", answer, answer)
    return Sample(problem, index, text, (1, 2, index), logprob, finish, reward, verdict)


PROBLEM = Problem("a", "train", "A?", answer="1")


class StrategiesTest(parameterized.TestCase):
    def test_threshold(self):
        samples = [_sample("a", i, i / 10) for i in range(10)]
        kept = strategies.RewardAbove(0.5)(PROBLEM, samples)
        self.assertEqual([s.sample_index for s in kept], [6, 7, 8, 9])

    def test_a_threshold_is_exceeded_in_a_file_as_in_memory(self):
        samples = [_sample("a", i, i / 10) for i in range(1, 10)]
        stored = records.samples_from_table(records.samples_to_table(samples))
        for sample, read in zip(samples, stored, strict=True):
            tau = sample.reward
            for keep in (strategies.RewardAbove(tau), strategies.BestOfN(above=tau)):
                self.assertEmpty(keep(PROBLEM, [sample]))
                self.assertEmpty(keep(PROBLEM, [read]))
            below = strategies.RewardAbove(tau - 0.01)
            self.assertLen(below(PROBLEM, [sample]) + below(PROBLEM, [read]), 2)

    def test_best_of_n_takes_the_likeliest_of_equals_and_nothing_where_all_fail(self):
        samples = [_sample("a", 0, 1.0, logprob=-5.0), _sample("a", 1, 1.0, logprob=-2.0)]
        self.assertEqual(strategies.BestOfN()(PROBLEM, samples), [samples[1]])
        self.assertEmpty(strategies.BestOfN()(PROBLEM, [_sample("a", 0, 0.0)]))

    def test_best_of_n_takes_the_first_of_equally_likely_ones(self):
        samples = [_sample("a", i, 1.0) for i in (2, 0, 1)]
        self.assertEqual(strategies.BestOfN()(PROBLEM, samples), [samples[1]])

    def test_majority_reads_neither_reward_nor_gold(self):
        wrong = [_sample("a", i, 0.0, answer="7") for i in range(3)]
        right = [_sample("a", 5, 1.0, answer="1")]
        kept = strategies.MajorityAnswer()(PROBLEM, right + wrong)
        self.assertEqual(kept, wrong)
        self.assertEmpty(strategies.MajorityAnswer(min_share=0.8)(PROBLEM, right + wrong))

    def test_of_equally_frequent_answers_the_first_in_the_alphabet_wins(self):
        samples = [_sample("a", i, 1.0, answer=answer) for i, answer in enumerate("zyxzyx")]
        for order in (samples, samples[::-1]):
            kept = strategies.MajorityAnswer()(PROBLEM, order)
            self.assertEqual({s.final_answer for s in kept}, {"x"})

    def test_the_share_is_of_all_samples_and_reaching_it_is_enough(self):
        samples = [_sample("a", i, 1.0, answer="7" if i < 3 else None) for i in range(6)]
        self.assertLen(strategies.MajorityAnswer(min_share=0.5)(PROBLEM, samples), 3)
        self.assertEmpty(strategies.MajorityAnswer(min_share=0.51)(PROBLEM, samples))
        self.assertEmpty(strategies.MajorityAnswer()(PROBLEM, samples[3:]))

    @parameterized.parameters(
        (strategies.RewardWeight(), 0.25, 0.25),
        (strategies.UnitWeight(), 0.25, 1.0),
        (strategies.ExponentialWeight(beta=0.5), 0.25, math.exp(-1.5)),
        (strategies.ExponentialWeight(beta=0.001), 1.0, 1.0),
        (strategies.ExponentialWeight(beta=0.001), 0.0, 0.0),
    )
    def test_weights(self, weight, reward, expected):
        self.assertAlmostEqual(weight(reward), expected)

    def test_a_weight_too_large_to_be_stored_is_refused(self):
        weight = strategies.ExponentialWeight(beta=0.01)
        with self.assertRaisesRegex(UserError, r"beta = 0\.01 gives a reward of 2 a weight"):
            weight(2.0)


if __name__ == "__main__":
    absltest.main()
