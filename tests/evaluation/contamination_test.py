"""The contamination check on problems made for it."""

from unittest import mock

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.evaluation import contamination
from restem.records import Problem


def problem(problem_id, text, template="Problem:\n{}\n\nSolution:"):
    return Problem(problem_id=problem_id, split="train", inputs=template.format(text))


def words(start, count):
    return " ".join(f"w{i}" for i in range(start, start + count))


class ContaminationTest(parameterized.TestCase):
    def test_one_shared_run_is_enough_and_one_word_less_is_not(self):
        train = [problem("a", f"alpha {words(0, 13)} beta"), problem("b", words(100, 30))]
        test = [
            problem("x", f"gamma {words(0, 13)} delta"),
            problem("y", f"gamma {words(100, 12)} delta"),
        ]
        report = contamination.check(train, test)
        self.assertEqual((report.num_train, report.num_test), (2, 2))
        self.assertEqual([(o.train_id, o.test_id) for o in report.overlapping], [("a", "x")])
        self.assertEqual(report.overlapping[0].shared, words(0, 13))
        # One of x's three runs of 13 words.
        self.assertAlmostEqual(report.overlapping[0].fraction, 1 / 3)
        self.assertEqual(report.num_equal, 0)
        self.assertEqual(report.fraction, 0.5)
        self.assertEqual(contamination.check(train, test, n=12).num_overlapping, 2)

    def test_short_problems_count_when_they_are_the_same_text(self):
        train = [problem("a", "What is 3 + 4?"), problem("b", "How many days has a week?")]
        test = [problem("x", "what IS  $3+4$?"), problem("y", "What is 3 - 4?")]
        report = contamination.check(train, test)
        self.assertEqual([o.test_id for o in report.overlapping], ["x"])
        self.assertEqual(report.num_equal, 1)
        self.assertEqual(report.overlapping[0].fraction, 1.0)

    def test_what_is_left_overlaps_no_more(self):
        phrase = words(0, 13)
        # The phrase is common among 11 problems, but not among the 10 that the second one leaves.
        train = [problem(f"a{i}", f"n{i} {phrase} m{i}") for i in range(10)]
        train += [problem("b", f"{phrase} {words(100, 13)}"), problem("c", "What is 3 + 4?")]
        train += [problem("d", words(200, 20))]
        test = [
            problem("x", f"so {phrase}"),
            problem("y", words(100, 13)),
            problem("z", "what is 3+4"),
        ]
        kept = contamination.without_overlap(train[:11] + train[12:], test)
        self.assertEqual([p.problem_id for p in kept], ["d"])
        self.assertEqual(contamination.check(kept, test).num_overlapping, 0)
        self.assertEqual(contamination.without_overlap(train[-2:-1], [test[0]]), train[-2:-1])
        equal = contamination.without_overlap(train[-2:], [problem("z", "WHAT is $3+4$?")])
        self.assertEqual([p.problem_id for p in equal], ["d"])

    def test_the_form_of_the_query_is_no_overlap(self):
        form = "You are an expert programmer and this is the task that you must now solve: {}"
        train = [problem(f"a{i}", f"north {i}", form) for i in range(3)]
        test = [problem(f"x{i}", f"south {i}", form) for i in range(3)]
        self.assertEqual(contamination.check(train, test).num_overlapping, 0)

    def test_a_turn_of_phrase_that_many_problems_share_is_no_overlap(self):
        phrase = words(0, 13)
        train = [problem(f"a{i}", f"begin{i} {phrase} end{i}") for i in range(11)]
        test = [problem("x", f"other {phrase} thing"), problem("y", "unrelated words")]
        self.assertEqual(contamination.check(train, test).num_overlapping, 0)
        self.assertEqual(contamination.check(train, test, max_frequency=11).num_overlapping, 1)

    def test_the_nearest_training_problem_is_named(self):
        train = [problem("far", words(0, 13)), problem("near", words(0, 20))]
        test = [problem("x", f"{words(0, 20)} tail"), problem("y", "z")]
        (overlap,) = contamination.check(train, test).overlapping
        self.assertEqual(overlap.train_id, "near")
        self.assertEqual(overlap.shared, words(0, 20))

    def test_sets_of_one_problem_keep_all_their_words(self):
        same = [problem("a", "What is 3 + 4?")]
        self.assertEqual(contamination.check(same, same).num_equal, 1)

    def test_training_problems_pass_by_in_blocks(self):
        train = [problem(f"a{i}", f"{words(10 * i, 15)} and {i}") for i in range(20)]
        test = [problem(f"x{i}", f"so {words(10 * i, 14)}") for i in range(0, 20, 3)]
        test += [problem("same", f"{words(50, 15)} and 5"), problem("none", words(900, 20))]
        whole = contamination.check(train, test)
        self.assertEqual(whole.num_overlapping, 8)
        self.assertEqual(whole.num_equal, 1)
        with mock.patch.object(contamination, "PROBLEMS_PER_GROUP", 3):
            self.assertEqual(contamination.check(train, test), whole)
        tasks = contamination.of_tasks(train, {"a": test, "b": test[:2], "c": []}, pairs=3)["tasks"]
        self.assertLen(tasks["a"]["overlapping"], 3)
        self.assertEqual([tasks[t]["num_test"] for t in "abc"], [9, 2, 0])

    def test_empty_sets(self):
        report = contamination.check([], [problem("x", "one")])
        self.assertEqual((report.num_overlapping, report.fraction), (0, 0.0))
        self.assertEqual(contamination.check([], []).fraction, 0.0)
        self.assertIn("0 of 1", report.summary())

    def test_a_run_has_at_least_one_word(self):
        with self.assertRaisesRegex(UserError, "n is 0"):
            contamination.check([], [], n=0)


if __name__ == "__main__":
    absltest.main()
