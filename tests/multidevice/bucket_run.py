"""A whole run in a bucket; `bucket_test.py` runs this file in a process of its own."""

import pathlib
import sys
import tempfile
from unittest import mock

from absl import flags
from absl.testing import absltest
from orbax.checkpoint._src.path import gcs_utils

from restem.checkpoints import orbax
from restem.cli import main
from restem.report import report
from restem.run import layout, reader
from restem.runtime import storage
from tests.helpers import bucket, run_files, tiny
from tests.multidevice import distributed_run_test as runs

WORKDIR = "gs://bucket/runs/letters"


class BucketTest(absltest.TestCase):
    def test_from_problems_to_summary(self):
        folder = pathlib.Path(tempfile.mkdtemp())
        tiny.save_policy("gs://bucket/base")
        gin_file = folder / "tiny.gin"
        gin_file.write_text(runs.GIN.format(base="orbax:gs://bucket/base"))
        files = layout.Workdir(WORKDIR)
        run_files.write_problems(files, *runs.problems())
        argv = ["run", f"--gin_file={gin_file}", f"--workdir={WORKDIR}", "--profile"]
        self.assertEqual(main.main(argv), 0)
        end = storage.read_json(files.iteration(1).improvement)
        self.assertTrue(end["improved"])
        self.assertEqual(
            reader.policy_reference(files, 1), f"orbax:{WORKDIR}/iteration_001/checkpoint"
        )
        policy = orbax.load_policy(files.iteration(1).checkpoint)
        self.assertEqual(policy.config, tiny.config())
        found = {str(p.relative_to(files.path)) for p in files.path.glob("*")}
        self.assertContainsSubset(
            {"run.json", "summary.json", "problems", "iteration_001", "compilation_cache"}, found
        )
        self.assertLen(reader.read_samples(files.iteration(1)), 64)
        self.assertFalse(files.iteration(1).training.exists())
        leftovers = [k for k in bucket.BucketFileSystem.store if k.endswith(".tmp")]
        self.assertEmpty(leftovers)
        with self.subTest("profiles"):
            for kind in ("decode", "train"):
                traces = list((files.path / "profile" / kind).glob("plugins/profile/*/*.xplane.pb"))
                self.assertLen(traces, 1)
                self.assertGreater(len(traces[0].read_bytes()), 1000)
        with self.subTest("the same command finds all done"):
            before = dict(bucket.BucketFileSystem.store)
            self.assertEqual(main.main(argv), 0)
            samples = [k for k in before if "/samples/" in k or "/checkpoint/" in k]
            self.assertNotEmpty(samples)
            for key in samples:
                self.assertIs(bucket.BucketFileSystem.store[key], before[key])


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    bucket.serve()
    # Google's client library asks the bucket whether its folders are real; this one's are not.
    with (
        mock.patch.object(gcs_utils, "get_bucket", lambda name: object()),
        mock.patch.object(report, "report", lambda **_: "not drawn"),
    ):
        absltest.main(argv=sys.argv)
