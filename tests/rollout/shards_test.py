"""Steps sample in shards and windows, and neither changes what is sampled."""

import dataclasses
from concurrent import futures
from unittest import mock

import jax
from absl.testing import absltest
from etils import epath

from restem import models
from restem.checkpoints.policy import Policy
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.rollout import Rollout, shards
from restem.rollout.rollout import Costs
from restem.run import layout, reader
from restem.run import shards as stored
from restem.run.problems import ProblemFile
from restem.runtime import storage
from restem.sampling import Sampling
from tests.helpers import run_files, tiny
from tests.helpers.compilation import compile_quickly

PROBLEMS = [Problem(f"p{i:02d}", "train", f"{i}?", str(i)) for i in range(23)]


@dataclasses.dataclass
class FakeRollout:
    """Samples the name of the problem and the index."""

    calls: list = dataclasses.field(default_factory=list)
    costs: Costs = dataclasses.field(default_factory=Costs)
    card: TaskCard = TaskCard("t", max_new_tokens=8)
    policy: object = dataclasses.field(
        default_factory=lambda: mock.Mock(vocabulary=tiny.vocabulary(), config=tiny.config())
    )
    max_new_tokens: int | None = None
    is_shared: bool = False
    dies_after: int | None = None
    error: BaseException = dataclasses.field(default_factory=KeyboardInterrupt)

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)

    def sample(self, problems, num_samples, *, first_sample, source, what, shard_of, skip):
        self.calls.append((what, [p.problem_id for p in problems]))
        assert [shard_of(p) for p in problems] == sorted(map(shard_of, problems))
        for i in range(first_sample, first_sample + num_samples):
            for p in reversed(problems):
                if (p.problem_id, i) in skip:
                    continue
                if self.costs.tokens == self.dies_after:
                    raise self.error
                yield Sample(p.problem_id, i, f"{p.problem_id} {i}", (i,), -1.0, "eos", 1.0)
                self.costs.tokens += 1


class SampleShardsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        root = epath.Path(self.create_tempdir().full_path)
        self.folder = root / "samples"
        files = layout.Workdir(root)
        run_files.write_problems(files, TaskCard("t"), PROBLEMS)
        self.problems = ProblemFile(files.problems("t")).split("train")

    def sample(self, folder=None, rollout=None, **given):
        rollout = rollout or FakeRollout()
        given = {"problems": self.problems, "problems_per_shard": 4, **given}
        existed = shards.sample_shards(
            rollout, folder or self.folder, num_samples=3, what="s", **given
        )
        return rollout, existed

    def test_consecutive_problems_are_in_a_shard(self):
        rollout, existed = self.sample()
        self.assertEqual(existed, (0, 0))
        self.assertEqual(rollout.costs.tokens, 23 * 3)
        self.assertLen(rollout.calls, 1)
        paths = layout.shard_paths(self.folder)
        self.assertLen(paths, 6)
        for i, path in enumerate(paths):
            samples, rows = stored.read(path)
            start = 4 * i
            self.assertEqual(rows, (start, min(start + 4, 23)))
            ids = [p.problem_id for p in PROBLEMS[start : start + 4] for _ in range(3)]
            self.assertEqual([s.problem_id for s in samples], ids)
            self.assertEqual([s.sample_index for s in samples], [0, 1, 2] * (len(ids) // 3))

    def test_windows_change_nothing(self):
        self.sample()
        whole = reader.read_shards(self.folder)

        def extend(rollout, problems, samples):
            self.assertLen(samples, 3 * len(problems))
            return [dataclasses.replace(s, sample_index=s.sample_index + 3) for s in samples]

        with mock.patch.object(shards, "MOST_SAMPLES", 24):
            windowed, _ = self.sample(self.folder / "windows")
            extended, _ = self.sample(self.folder / "extended", extend=extend)
        names = [what for what, _ in windowed.calls]
        self.assertEqual(names, [f"s, part {i} of 3" for i in (1, 2, 3)])
        self.assertEqual([len(ids) for _, ids in windowed.calls], [8, 8, 7])
        self.assertEqual(reader.read_shards(self.folder / "windows"), whole)
        self.assertEqual(extended.calls, windowed.calls)
        longer = reader.read_shards(self.folder / "extended")
        self.assertEqual([s for s in longer if s.sample_index < 3], whole)
        self.assertLen(longer, 2 * len(whole))

    def test_missing_shards_alone_are_sampled(self):
        self.sample()
        before = reader.read_shards(self.folder)
        for i in (1, 4):
            layout.shard_path(self.folder, i, 6).unlink()
        rollout, existed = self.sample()
        self.assertEqual(existed, (4, 0))
        wanted = [p.problem_id for p in PROBLEMS[4:8] + PROBLEMS[16:20]]
        self.assertEqual(rollout.calls, [("s", wanted)])
        self.assertEqual(reader.read_shards(self.folder), before)
        rollout, existed = self.sample()
        self.assertEqual((rollout.calls, existed), ([], (6, 0)))

    def interrupted(self, folder, after, *, shards=(), **given):
        """Samples until the rollout dies; returns the names of the files that it left."""
        rollout = FakeRollout(dies_after=after, **given)
        with self.assertRaises(type(rollout.error)):
            self.sample(folder, rollout)
        return sorted(path.name for path in folder.iterdir())

    def test_samples_of_unfinished_shards_are_kept(self):
        self.sample()
        whole = reader.read_shards(self.folder)
        for error in (KeyboardInterrupt(), SystemExit(75), RuntimeError("out of memory")):
            folder = self.folder / type(error).__name__
            with self.subTest(type(error).__name__):
                # After 23 + 23 + 5 samples, the third sample of the last five problems exists.
                files = self.interrupted(folder, 51, error=error)
                self.assertEqual(files, ["00005-of-00006.parquet", "unfinished-00000.parquet"])
                rollout, existed = self.sample(folder)
                self.assertEqual(existed, (1, 51 - 3 * 3))
                self.assertEqual(rollout.costs.tokens, 23 * 3 - 51)
                self.assertEqual(reader.read_shards(folder), whole)
                self.assertLen(list(folder.iterdir()), 6)

    def test_what_is_kept_outlives_several_interruptions(self):
        self.sample()
        folder = self.folder / "often"
        for _ in range(6):
            self.interrupted(folder, 10)
        rollout, existed = self.sample(folder)
        self.assertEqual(rollout.costs.tokens, 23 * 3 - 60)
        self.assertEqual(reader.read_shards(folder), reader.read_shards(self.folder))
        self.assertEqual(existed, (3, 60 - 33))

    def test_samples_that_were_left_by_another_host_count(self):
        self.sample()
        folder = self.folder / "hosts"
        self.interrupted(folder, 30)
        of_other = layout.unfinished_path(folder, 7)
        layout.unfinished_path(folder, 0).rename(of_other)
        rollout, existed = self.sample(folder)
        self.assertEqual((rollout.costs.tokens, existed), (39, (0, 30)))
        self.assertFalse(of_other.exists())

    def test_damaged_samples_of_unfinished_shards_are_drawn_again(self):
        self.sample()
        folder = self.folder / "damaged"
        self.interrupted(folder, 30)
        layout.unfinished_path(folder, 0).write_bytes(b"PAR1")
        rollout, existed = self.sample(folder)
        self.assertEqual((rollout.costs.tokens, existed), (69, (0, 0)))
        self.assertEqual(reader.read_shards(folder), reader.read_shards(self.folder))

    def test_samples_of_other_sources_and_indices_are_not_taken(self):
        folder = self.folder / "other"
        self.interrupted(folder, 30)
        with self.assertRaises(KeyboardInterrupt):
            self.sample(folder, FakeRollout(dies_after=0), source="chain")
        rollout, existed = self.sample(folder, source="chain")
        self.assertEqual((rollout.costs.tokens, existed), (69, (0, 0)))
        other = self.folder / "indices"
        self.interrupted(other, 30)
        rollout, existed = self.sample(other, first_sample=1)
        self.assertEqual((rollout.costs.tokens, existed), (62, (0, 7)))

    def test_an_interrupted_extension_loses_no_sample(self):
        folder = self.folder / "extended"
        extended = []

        def extend(rollout, problems, samples):
            extended.append(problems[0].problem_id)
            if len(extended) == 3:
                raise KeyboardInterrupt
            return []

        with self.assertRaises(KeyboardInterrupt):
            self.sample(folder, extend=extend)
        rollout, existed = self.sample(folder, extend=extend)
        self.assertEqual(rollout.costs.tokens, 0)
        self.assertEqual(existed, (2, (23 - 8) * 3))
        self.assertEqual(extended, ["p00", "p04", "p08", "p08", "p12", "p16", "p20"])

    def test_hosts_that_sample_together_keep_nothing(self):
        folder = self.folder / "together"
        self.assertEqual(self.interrupted(folder, 51, is_shared=True), ["00005-of-00006.parquet"])

    def test_a_preempted_job_keeps_its_samples_and_leaves(self):
        folder = self.folder / "preempted"
        with (
            mock.patch.object(shards.PREEMPTION, "noticed", side_effect=[False] * 40 + [True]),
            mock.patch.object(shards, "NOTICE_EVERY_S", 0.0),
            self.assertRaises(SystemExit) as left,
        ):
            self.sample(folder)
        self.assertEqual(left.exception.code, 75)
        with (
            # The first look is at the start of the step.
            mock.patch.object(shards.PREEMPTION, "noticed", side_effect=[False, True]),
            self.assertRaises(SystemExit),
        ):
            self.sample(folder)
        rollout, existed = self.sample(folder)
        self.assertEqual((rollout.costs.tokens, existed), (69 - 41, (0, 41)))

    def test_a_long_question_is_told_before_the_first_window(self):
        long = dataclasses.replace(PROBLEMS[20], inputs="x" * 600)
        problems = [*PROBLEMS[:20], long, *PROBLEMS[21:]]
        with (
            mock.patch.object(shards, "MOST_SAMPLES", 24),
            self.assertRaisesRegex(Exception, "problem p20 needs 608 tokens"),
        ):
            self.sample(problems=problems)
        self.assertFalse(self.folder.exists())

    def test_lists_of_problems_have_no_rows(self):
        self.sample(problems=PROBLEMS)
        table = storage.read_table(layout.shard_path(self.folder, 0, 6))
        self.assertLen(table, 12)
        self.assertIsNone(stored.read(layout.shard_path(self.folder, 0, 6))[1])

    def test_masks_of_missing_shards(self):
        division = layout.Shards(19, 1)
        for missing in ([], [0], [7, 8, 18], list(range(19))):
            self.assertEqual(shards._indices(shards._mask(missing, division)), missing)


class CountingVerifier:
    """Rewards every sample, until `most` have been submitted."""

    def __init__(self, most):
        self.most, self.submitted = most, 0

    def submit(self, problem, text):
        if self.submitted == self.most:
            raise KeyboardInterrupt
        self.submitted += 1
        verdict = futures.Future()
        verdict.set_result(Verdict(1.0))
        return verdict


class EngineTest(absltest.TestCase):
    def test_an_interrupted_step_draws_the_same_samples_in_the_end(self):
        compile_quickly(self)
        root = epath.Path(self.create_tempdir().full_path)
        params = models.init_params(tiny.config(), jax.random.key(0))
        policy = Policy(tiny.config(), params, tiny.vocabulary(), "orbax:/base")
        card = TaskCard("t", stop=("\n",), max_new_tokens=8)

        def sample(name, most):
            verifier = CountingVerifier(most)
            rollout = Rollout(
                policy=policy, card=card, verifier=verifier, key=5, sampling=Sampling(), slots=8
            )
            existed = shards.sample_shards(
                rollout, root / name, problems=PROBLEMS, num_samples=3, problems_per_shard=4,
                what="s",
            )  # fmt: skip
            return verifier.submitted, existed.samples + 4 * 3 * existed.shards

        self.assertEqual(sample("whole", -1), (69, 0))
        with self.assertRaises(KeyboardInterrupt):
            sample("parts", 29)
        drawn, existed = sample("parts", -1)
        # Samples of the visit in which the job was interrupted may be lost.
        self.assertBetween(existed, 15, 29)
        self.assertEqual(drawn, 69 - existed)
        fields = lambda s: (s.problem_id, s.sample_index, s.text, s.token_ids, s.finish_reason)
        whole, parts = (
            list(map(fields, reader.read_shards(root / name))) for name in ("whole", "parts")
        )
        self.assertEqual(whole, parts)


if __name__ == "__main__":
    absltest.main()
