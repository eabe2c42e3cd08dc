"""A data folder that a test fills with its own files."""

import collections
import json
import os
import pathlib
from unittest import mock

import gin
from absl.testing import parameterized

from restem.data import folder, sources


class DataFolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.create_tempdir().full_path)
        self.addCleanup(gin.clear_config)
        self.enter_context(mock.patch.dict(os.environ))
        os.environ.pop(folder.ENVIRONMENT, None)

    def write(self, name, *values):
        """Texts as they are, anything else as one line of JSON each."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        path.write_text("\n".join(lines), "utf-8")
        return path

    def materialize(self, task, **options):
        cache = str(self.root / "cache")
        card, problems = sources.materialize(
            task, data_dir=str(self.root), cache_dir=cache, **options
        )
        by_split = collections.defaultdict(list)
        for problem in problems:
            by_split[problem.split].append(problem)
        return card, by_split
