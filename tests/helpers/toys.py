"""A small task and a vocabulary of bytes, for tests of reading tasks."""

import os
from unittest import mock

import gin
from absl.testing import parameterized

from restem.data import folder, registry

TEXTS = (
    "Problem:\nWhat is $\\frac{1}{2}$?\n\nSolution:",
    " leading and trailing ",
    "naïve 日本語 🙂 \t tabs",
    "",
)


class Bytes:
    """The part of a `Vocabulary` that the adapter needs: bytes have ids from 3; 1 and 2 are EOS."""

    bos_id = None
    eos_ids = frozenset({1, 2})
    pad_id = 0
    size = 259
    fingerprint = "bytes"

    def encode(self, text):
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids):
        return bytes(i - 3 for i in ids if i >= 3).decode()


def records(split):
    count = {"train": 40, "test": 10}[split]
    for i in range(count):
        a = i if split == "train" else 100 + i
        yield {
            "inputs": f"Q: What is {a} + 1?\nA:",
            "answer": a + 1,
            "solutions": [f" The answer is {a + 1}."],
            "metadata": {"a": a},
        }


def add(**fields):
    options = {
        "source": records,
        "splits": ("train", "test"),
        "prompt": "Q: What is 0 + 1?\nA: The answer is 1.\n\n",
        "stop": ["\nQ:"],
        "grader": {"kind": "numeric", "extraction": "answer_is"},
        "max_new_tokens": 16,
    }
    return registry.add("toy", **{**options, **fields})


class ToyTest(parameterized.TestCase):
    """Leaves no task, binding or environment behind."""

    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)
        self.enter_context(mock.patch.dict(os.environ))
        os.environ.pop(folder.ENVIRONMENT, None)

    def tearDown(self):
        registry._TASKS.pop("toy", None)
        super().tearDown()
