"""Which answers of samples count as the same one in a majority vote."""

from absl.testing import absltest, parameterized

from restem.evaluation import scores
from restem.records import Problem, Sample, Verdict, regraded
from restem.verify import graders

OPTIONS = {"math": {"extraction": "boxed"}, "numeric": {}, "exact": {}}


def sampled(gold: str, *answers: str, kind: str = "math") -> list[Sample]:
    """Samples with these answers, graded."""
    grade = graders.build({"kind": kind, **OPTIONS[kind]})
    form = "\\boxed{%s}" if kind == "math" else "%s"
    texts = [form % answer for answer in answers]
    return [
        regraded(Sample("p", i, t, (), 0.0, "eos"), grade(Problem("p", "test", "?", gold), t))
        for i, t in enumerate(texts, start=1)
    ]


def majority(samples: list[Sample], kind: str = "math") -> float:
    """Returns maj@n of the samples of one problem."""
    report = scores.sampled_report(scores.attempts(samples), kind=kind)
    return report["maj@k"][str(len(samples))]


class VotesTest(parameterized.TestCase):
    @parameterized.parameters(
        ("1000", "\\$1000", "1000"),
        ("1000", "1000", "10^3", "1000\\text{ cm}"),
        ("\\frac12", "50\\%", "0.5"),
        ("\\frac{\\sqrt2}{2}", "\\frac{\\sqrt2}{2}", "\\sqrt{2}/2", "\\frac{1}{\\sqrt2}"),
    )
    def test_accepted_forms_of_one_answer_vote_together(self, gold, *forms):
        samples = sampled(gold, *forms, *["7"] * (len(forms) - 1))
        self.assertEqual(
            [s.correct for s in samples], [True] * len(forms) + [False] * (len(forms) - 1)
        )
        self.assertEqual(majority(samples), 1.0)

    def test_wrong_answers_are_told_apart_by_number_and_text(self):
        self.assertEqual(majority(sampled("1", "1", "1", "2", "2.0", "4/2")), 0.0)
        self.assertEqual(majority(sampled("1", "1", "1", "2x", "x+x", "x2")), 1.0)

    def test_a_rejected_sample_votes_for_its_answer(self):
        """As where a grader timed out: the answer wins, and counts by its share of right ones."""
        samples = sampled("4", "4", "4", "5", "5")
        timed_out = Verdict(0.0, "timeout", "4", "4")
        samples.append(regraded(Sample("p", 5, "", (), 0.0, "eos"), timed_out))
        self.assertAlmostEqual(majority(samples), 2 / 3)

    def test_answers_that_a_reward_function_accepts_may_differ(self):
        samples = [
            Sample("p", i, "", (), 0.0, "eos", reward, Verdict(reward, "f", answer, answer))
            for i, (answer, reward) in enumerate([("2", 1.0), ("3", 1.0), ("4", 0.0), ("4", 0.0)])
        ]
        self.assertEqual(majority(samples, "function"), 0.0)


if __name__ == "__main__":
    absltest.main()
