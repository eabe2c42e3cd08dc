"""The folder of compiled programs."""

import os
from unittest import mock

import jax
from absl.testing import absltest

from restem.runtime import compilation


class FolderTest(absltest.TestCase):
    def test_runs_on_one_machine_share_a_folder_of_their_versions(self):
        folder = self.create_tempdir().full_path
        with mock.patch.dict(os.environ, {"RESTEM_CACHE_DIR": folder}):
            first, second = map(compilation.folder_for, ("/runs/a/cache", "/runs/b/cache"))
            self.assertEqual(first, second)
            self.assertStartsWith(first, os.path.join(folder, "compiled"))
            self.assertIn(jax.__version__, first)
            with mock.patch.object(jax, "__version__", "0.0.1"):
                self.assertNotEqual(compilation.folder_for("/runs/a/cache"), first)

    def test_a_bucket_and_several_hosts_keep_their_own(self):
        self.assertEqual(compilation.folder_for("gs://b/run/cache"), "gs://b/run/cache")
        with mock.patch.object(compilation, "several", lambda: True):
            self.assertEqual(compilation.folder_for("/shared/run/cache"), "/shared/run/cache")


if __name__ == "__main__":
    absltest.main()
