"""Every sample has exactly one fate, and the account of them is whole."""

import dataclasses
import itertools
import random

import numpy as np
from absl.testing import absltest, parameterized
from etils import epath

from restem import records
from restem.methods import ControlVariate
from restem.records import Problem, Sample, Verdict
from restem.run import layout
from restem.runtime import storage
from restem.steps.select import Pool, Selector, select, select_shards
from restem.steps.settings import SelectSettings
from restem.steps.strategies import Everything, ExponentialWeight


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
        report = select(
            problems=PROBLEMS, samples=samples, iteration=1, seed=0, settings=SelectSettings(cap=2)
        ).report
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
        chosen = select(
            problems=PROBLEMS,
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(cap=None),
        )
        self.assertEqual([e.sample_index for e in chosen.examples], list(range(0, 30, 3)))

    def test_cap_is_random_by_seed_and_iteration_but_repeatable(self):
        samples = [_sample("a", i, 1.0) for i in range(40)]

        def chosen(seed, iteration):
            result = select(
                problems=PROBLEMS,
                samples=samples,
                iteration=iteration,
                seed=seed,
                settings=SelectSettings(cap=10),
            )
            return tuple(e.sample_index for e in result.examples)

        self.assertEqual(chosen(0, 1), chosen(0, 1))
        self.assertLen(chosen(0, 1), 10)
        self.assertLen({chosen(s, i) for s in range(4) for i in (1, 2)}, 8)
        self.assertNotEqual(chosen(0, 1), tuple(range(10)))

    def test_cap_is_drawn_for_each_problem_apart(self):
        samples = [_sample(p, i, 1.0) for p in "ab" for i in range(40)]
        examples = select(
            problems=PROBLEMS, samples=samples, iteration=1, seed=0, settings=SelectSettings(cap=10)
        ).examples
        a, b = ([e.sample_index for e in examples if e.problem_id == p] for p in "ab")
        self.assertEqual((len(a), len(b)), (10, 10))
        self.assertNotEqual(a, b)

    def test_of_equal_solutions_the_first_is_kept(self):
        samples = [_sample("a", i, 1.0, text) for i, text in enumerate(("x", "y", "x ", "y"))]
        examples = select(problems=PROBLEMS, samples=samples, iteration=1, seed=0).examples
        self.assertEqual([e.sample_index for e in examples], [0, 1])

    def test_order_of_samples_does_not_matter(self):
        samples = [_sample("ab"[i % 2], i, float(i % 3 > 0), f"t{i % 7}") for i in range(40)]
        one = select(
            problems=PROBLEMS, samples=samples, iteration=1, seed=0, settings=SelectSettings(cap=3)
        )
        two = select(
            problems=PROBLEMS,
            samples=samples[::-1],
            iteration=1,
            seed=0,
            settings=SelectSettings(cap=3),
        )
        self.assertEqual(one, two)

    def test_max_examples(self):
        samples = [_sample("ab"[i % 2], i, 1.0) for i in range(20)]
        chosen = select(
            problems=PROBLEMS,
            samples=samples,
            iteration=1,
            seed=0,
            settings=SelectSettings(cap=None, max_examples=7),
        )
        self.assertLen(chosen.examples, 7)
        self.assertEqual(chosen.report["buckets"]["over_total"], 13)

    def test_max_examples_is_random_by_seed_and_iteration_but_repeatable(self):
        samples = [_sample("a", i, 1.0) for i in range(40)]

        def chosen(seed, iteration):
            settings = SelectSettings(cap=None, max_examples=7)
            result = select(
                problems=PROBLEMS, samples=samples, iteration=iteration, seed=seed,
                settings=settings,
            )  # fmt: skip
            return tuple(e.sample_index for e in result.examples)

        self.assertEqual(chosen(0, 1), chosen(0, 1))
        self.assertLen({chosen(s, i) for s in range(3) for i in (1, 2)}, 6)

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


class ShardsTest(parameterized.TestCase):
    """Selection from shards equals selection from all samples at once."""

    def setUp(self):
        super().setUp()
        self.folder = epath.Path(self.create_tempdir().full_path)
        rng = random.Random(0)
        self.problems = [Problem(f"p{i}", "train", f"{i}?", answer="1") for i in range(10)]
        self.samples = [
            _sample(p.problem_id, i, float(rng.random() < 0.5), text=rng.choice("abcdefgh"),
                    finish=rng.choice(("eos", "eos", "length")))
            for p in self.problems
            for i in range(6)
        ]  # fmt: skip
        # Each problem's last sample is the state of a chain, for the control variate.
        chain = lambda s: dataclasses.replace(s, source="chain") if s.sample_index == 5 else s
        self.samples = [chain(s) for s in self.samples]

    def pools(self, cuts):
        parts = [self.problems[a:b] for a, b in itertools.pairwise((0, *cuts, 10))]
        ids = [{p.problem_id for p in part} for part in parts]
        return [
            Pool(part, [s for s in self.samples if s.problem_id in names])
            for part, names in zip(parts, ids, strict=True)
        ]

    def select_shards(self, pools, settings, read=None):
        paths = [layout.shard_path(self.folder, i, len(pools)) for i in range(len(pools))]
        selector = Selector(iteration=2, seed=4, settings=settings)
        report = select_shards(selector, paths, read or pools.__getitem__)
        tables = [storage.read_table(path) for path in paths]
        return report, [e for table in tables for e in records.examples_from_table(table)]

    @parameterized.named_parameters(
        ("cap", SelectSettings(cap=2)),
        ("no_cap", SelectSettings(cap=None, distinct="none")),
        ("total", SelectSettings(max_examples=9)),
        ("total_not_reached", SelectSettings(max_examples=500)),
        ("exponential", SelectSettings(keep=Everything(), weight=ExponentialWeight(beta=0.3))),
        ("control_variate", SelectSettings(
            keep=Everything(), distinct="none", cap=None, weight=ControlVariate())),
        ("control_variate_total", SelectSettings(
            keep=Everything(), distinct="none", cap=None, weight=ControlVariate(),
            max_examples=11)),
    )  # fmt: skip
    def test_shards_change_nothing(self, settings):
        whole = select(
            problems=self.problems, samples=self.samples, iteration=2, seed=4, settings=settings
        )
        self.assertNotEmpty(whole.examples)
        for cuts in ((), (3,), (1, 4, 4, 9)):
            report, examples = self.select_shards(self.pools(cuts), settings)
            self.assertEqual(report, whole.report)
            rounded = [dataclasses.replace(e, weight=np.float32(e.weight)) for e in whole.examples]
            self.assertEqual(examples, rounded)
            self.folder.rmtree()

    def test_a_killed_selection_continues_with_the_missing_shards(self):
        pools = self.pools((3, 7))
        before = self.select_shards(pools, SelectSettings(cap=2))
        layout.shard_path(self.folder, 1, 3).unlink()
        reads = []
        read = lambda i: reads.append(i) or pools[i]
        self.assertEqual(self.select_shards(pools, SelectSettings(cap=2), read), before)
        self.assertEqual(reads, [1])


if __name__ == "__main__":
    absltest.main()
