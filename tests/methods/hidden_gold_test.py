"""Without gold the grader says what a sample answers, not whether it is right."""

from concurrent.futures import Future

from absl.testing import absltest

from restem import methods
from restem.records import Problem, Verdict
from restem.verify import Verifier
from tests.helpers.solutions import A


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

    def test_what_is_no_answer_has_no_vote(self):
        for text, vote in (("The answer is unknown.", None), ("The answer is 12.0.", "12")):
            with Verifier(grader={"kind": "numeric", "extraction": "answer_is"}) as verifier:
                verdict = methods.WithoutGold()(verifier).submit(A, text).result()
            self.assertEqual(verdict.final_answer, vote)

    def test_errors_of_the_grader_come_through(self):
        class Broken:
            def submit(self, problem, text):
                future = Future()
                future.set_exception(ValueError("no"))
                return future

        with self.assertRaisesRegex(ValueError, "no"):
            methods.WithoutGold()(Broken()).submit(A, "").result()


if __name__ == "__main__":
    absltest.main()
