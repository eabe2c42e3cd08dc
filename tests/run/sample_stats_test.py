"""Counts of samples: those that no length or no correctness is known of count for neither."""

from absl.testing import absltest
from etils import epath

from restem import records
from restem.run import sample_stats
from restem.runtime import storage


def sample(index: int, tokens: int, finish: str = "eos", reward: float | None = None):
    verdict = None if reward is None else records.Verdict(reward)
    ids = tuple(range(tokens))
    return records.Sample("p", index, "text", ids, 0.0, finish, reward, verdict)


class SampleStatsTest(absltest.TestCase):
    def lengths(self, *samples) -> dict[str, list[int]]:
        path = epath.Path(self.create_tempdir().full_path) / "samples.parquet"
        storage.write_table(path, records.samples_to_table(samples))
        stats = sample_stats.read([path])
        self.assertEqual(stats.total, len(samples))
        return {name: counts.nonzero()[0].tolist() for name, counts in stats.lengths.items()}

    def test_unverified_samples_are_not_incorrect(self):
        found = self.lengths(
            sample(0, 3, reward=1.0), sample(1, 4, reward=0.0), sample(2, 5), sample(3, 6, "length")
        )
        want = {"correct": [3], "incorrect": [4], "unverified": [5], "cut off": [6]}
        self.assertEqual(found, want)

    def test_samples_without_token_ids_have_no_length(self):
        human = sample(0, 0, reward=1.0)
        self.assertEqual(self.lengths(human), {})
        self.assertEqual(self.lengths(human, sample(1, 7, reward=1.0)), {"correct": [7]})


if __name__ == "__main__":
    absltest.main()
