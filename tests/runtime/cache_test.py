"""Where files that are made once per machine go."""

import os
import pathlib
from unittest import mock

from absl.testing import absltest

from restem.runtime.cache import cache_folder


class CacheFolderTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.create_tempdir().full_path)

    def test_the_argument_then_the_environment_then_the_users_cache(self):
        named, other = self.root / "named", self.root / "other"
        with mock.patch.dict(os.environ, {"RESTEM_CACHE_DIR": str(named)}):
            self.assertEqual(cache_folder(), named)
            self.assertEqual(cache_folder(str(other)), other)
        with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(self.root)}):
            os.environ.pop("RESTEM_CACHE_DIR", None)
            self.assertEqual(cache_folder(), self.root / "restem")

    def test_a_folder_that_cannot_be_made(self):
        (self.root / "file").write_text("")
        with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(self.root / "file")}):
            os.environ.pop("RESTEM_CACHE_DIR", None)
            self.assertTrue(cache_folder().is_dir())  # a temporary folder serves instead
        with self.assertRaises(OSError):
            cache_folder(str(self.root / "file" / "named"))


if __name__ == "__main__":
    absltest.main()
