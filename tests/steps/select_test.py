"""Every sample is accounted for, and each strategy keeps what its paper says."""

import dataclasses
import math

from absl.testing import absltest, parameterized

from restem.records import Problem, Sample, Verdict
from restem.steps import select as select_lib
from restem.steps.select import select


def _sample(problem, index, reward, text=None, answer="1", finish="eos", logprob=-1.0):
    text = f"solution {problem} {index}" if text is None else text
    verdict = Verdict(reward, "none" if answer is None else "string", answer, answer)
    return Sample(problem, index, text, (1, 2, index), logprob, finish, reward, verdict)


PROBLEMS = [Problem("a", "train", "A?", answer="1"), Problem("b", "train", "B?", answer="2")]


class SelectTest(parameterized.TestCase):
    def test_every_sample_is_in_one_bucket(self):
        samples = [
            _sample("a", 0, 1.0, "x = 1"),
            _sample("a", 1, 1.0, "x  =  1"),
            _sample("a", 2, 1.0, "cut", finish="length"),
            _sample("a", 3, 0.0),
            _sample("a", 4, 0.0, answer=None),
            _sample("a", 5, 1.0, "y = 1"),
            _sample("a", 6, 1.0, "z = 1"),
            _sample("b", 0, 0.0),
        ]
        report = select(problems=PROBLEMS, samples=samples, iteration=1, seed=0, cap=2).report
        self.assertEqual(
            report["buckets"],
            {
                "truncated": 1, "unformatted": 1, "rejected": 2, "duplicate": 1, "over_cap": 1,
                "over_total": 0, "kept": 2,
            },
        )  # fmt: skip
        self.assertEqual(sum(report["buckets"].values()), len(samples))
        self.assertEqual(report["problems_solved"], 1)

    def test_a_wrong_sample_is_never_kept(self):
        samples = [_sample("a", i, float(i % 3 == 0)) for i in range(30)]
        chosen = select(problems=PROBLEMS, samples=samples, iteration=1, seed=0, cap=None)
        self.assertEqual([e.sample_index for e in chosen.examples], list(range(0, 30, 3)))

    def test_cap_is_random_by_seed_and_iteration_but_repeatable(self):
        samples = [_sample("a", i, 1.0) for i in range(40)]

        def chosen(seed, iteration):
            result = select(
                problems=PROBLEMS, samples=samples, iteration=iteration, seed=seed, cap=10
            )
            return tuple(e.sample_index for e in result.examples)

        self.assertEqual(chosen(0, 1), chosen(0, 1))
        self.assertLen(chosen(0, 1), 10)
        self.assertLen({chosen(s, i) for s in range(4) for i in (1, 2)}, 8)
        self.assertNotEqual(chosen(0, 1), tuple(range(10)))

    def test_order_of_samples_does_not_matter(self):
        samples = [_sample("ab"[i % 2], i, float(i % 3 > 0), f"t{i % 7}") for i in range(40)]
        one = select(problems=PROBLEMS, samples=samples, iteration=1, seed=0, cap=3)
        two = select(problems=PROBLEMS, samples=samples[::-1], iteration=1, seed=0, cap=3)
        self.assertEqual(one, two)

    def test_max_examples(self):
        samples = [_sample("ab"[i % 2], i, 1.0) for i in range(20)]
        chosen = select(
            problems=PROBLEMS, samples=samples, iteration=1, seed=0, cap=None, max_examples=7
        )
        self.assertLen(chosen.examples, 7)
        self.assertEqual(chosen.report["buckets"]["over_total"], 13)

    def test_targets_are_the_sampled_tokens_and_inputs_the_problem_own(self):
        hinted = dataclasses.replace(_sample("a", 0, 1.0), inputs="A? (the answer is 1)")
        (example,) = select(problems=PROBLEMS, samples=[hinted], iteration=1, seed=0).examples
        self.assertEqual(example.inputs, "A?")
        self.assertEqual(example.target_ids, (1, 2, 0))
        self.assertEqual(example.weight, 1.0)

    def test_unverified_samples_are_refused(self):
        raw = dataclasses.replace(_sample("a", 0, 1.0), reward=None)
        with self.assertRaisesRegex(ValueError, "no reward"):
            select(problems=PROBLEMS, samples=[raw], iteration=1, seed=0)


class StrategiesTest(parameterized.TestCase):
    def test_threshold(self):
        samples = [_sample("a", i, i / 10) for i in range(10)]
        kept = select_lib.RewardAbove(0.5)(PROBLEMS[0], samples)
        self.assertEqual([s.sample_index for s in kept], [6, 7, 8, 9])

    def test_best_of_n_takes_the_likeliest_of_equals_and_nothing_where_all_fail(self):
        samples = [_sample("a", 0, 1.0, logprob=-5.0), _sample("a", 1, 1.0, logprob=-2.0)]
        self.assertEqual(select_lib.BestOfN()(PROBLEMS[0], samples), [samples[1]])
        self.assertEmpty(select_lib.BestOfN()(PROBLEMS[0], [_sample("a", 0, 0.0)]))

    def test_majority_reads_neither_reward_nor_gold(self):
        wrong = [_sample("a", i, 0.0, answer="7") for i in range(3)]
        right = [_sample("a", 5, 1.0, answer="1")]
        kept = select_lib.MajorityAnswer()(PROBLEMS[0], right + wrong)
        self.assertEqual(kept, wrong)
        self.assertEmpty(select_lib.MajorityAnswer(min_share=0.8)(PROBLEMS[0], right + wrong))

    @parameterized.parameters(
        (select_lib.RewardWeight(), 0.25, 0.25),
        (select_lib.UnitWeight(), 0.25, 1.0),
        (select_lib.ExponentialWeight(beta=0.5), 0.25, math.exp(0.5)),
    )
    def test_weights(self, weight, reward, expected):
        self.assertAlmostEqual(weight(reward), expected)

    @parameterized.parameters(
        ("We add: 2 + 3 = 5. The answer is 5.", "Sum is 2+3=5, so 5.", True),
        ("2 + 3 = 5 and 5 * 2 = 10", "5 * 2 = 10 because 2 + 3 = 5", True),
        ("2 + 3 = 5", "3 + 2 = 5", False),
        ("The answer is five.", "It is five.", False),
        ("$x = \\frac{1}{2}$", "so $x=\\frac{1}{2}$.", True),
    )
    def test_equation_set(self, one, two, same):
        one, two = (select_lib.equation_set(_sample("a", 0, 1.0, t)) for t in (one, two))
        self.assertEqual(one == two, same, f"{one!r} {two!r}")


if __name__ == "__main__":
    absltest.main()
