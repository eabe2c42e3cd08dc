"""What an E-step counts over all hosts."""

import collections
from unittest import mock

from absl.testing import absltest
from etils import epath

from restem import records, verify
from restem.records import Problem, Sample, TaskCard
from restem.rollout import Rollout
from restem.rollout.shards import Existing
from restem.run import layout
from restem.runtime import distributed, storage
from restem.steps import generate
from tests.helpers import tiny


class CountsTest(absltest.TestCase):
    def test_lost_workers_of_all_hosts_are_added(self):
        files = layout.Workdir(epath.Path(self.create_tempdir().full_path)).iteration(1)
        problem = Problem("a", "train", "?")
        sample = Sample("a", 0, "x", (1,), 0.0, "eos", 1.0)
        policy = mock.Mock(vocabulary=tiny.vocabulary(), reference="hf:x")
        rollout = Rollout(policy=policy, card=TaskCard("t"), verifier=None, key=0)
        counts = [collections.Counter(), collections.Counter(deaths=1, retried=2)]
        self.enter_context(mock.patch.object(verify, "shared_counts", lambda: counts.pop(0)))
        existing = mock.Mock(return_value=Existing(2, 5))
        self.enter_context(mock.patch.object(generate, "sample_shards", existing))
        storage.write_table(
            layout.shard_path(files.samples, 0, 1), records.samples_to_table([sample])
        )
        gathered = []

        def gather(what, value):
            if what != "lost verification workers":
                return [value]
            gathered.append(value)
            return [value, {"deaths": 3, "timeouts": 1}]

        self.enter_context(mock.patch.object(distributed, "gather", gather))
        counts = generate.generate(rollout=rollout, problems=[problem], directory=files)
        self.assertEqual((counts["resumed_from_shard"], counts["resumed_samples"]), (2, 5))
        self.assertEqual(gathered, [{"deaths": 1, "retried": 2}])
        self.assertEqual(
            storage.read_json(files.generation)["verification_workers"],
            {"deaths": 4, "retried": 2, "timeouts": 1},
        )


if __name__ == "__main__":
    absltest.main()
