"""A policy's fingerprint follows the content of its files, not their place."""

import pathlib
import shutil

from absl.testing import absltest, parameterized

from restem.checkpoints import pypi
from restem.checkpoints.fingerprint import PIECE, PIECES, fingerprint
from tests.helpers import tiny


def change(path: pathlib.Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


class FingerprintTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)

    def hf(self, name: str = "hf") -> pathlib.Path:
        folder = self.folder / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer.json").write_text("{}")
        (folder / "README.md").write_text("a model")
        for i in (1, 2):
            (folder / f"model-{i}.safetensors").write_bytes(bytes([i]) * 100)
        return folder

    @parameterized.parameters(
        "config.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors"
    )
    def test_every_file_of_a_folder_counts(self, name):
        folder = self.hf()
        before = fingerprint(f"hf:{folder}")
        self.assertRegex(before, "^[0-9a-f]{64}$")
        change(folder / name)
        self.assertNotEqual(fingerprint(f"hf:{folder}"), before)
        change(folder / name)
        self.assertEqual(fingerprint(f"hf:{folder}"), before)

    def test_a_copy_is_the_same_and_so_is_one_with_another_readme(self):
        folder = self.hf()
        copy = self.folder / "copy"
        shutil.copytree(folder, copy)
        (copy / "README.md").write_text("the same model")
        self.assertEqual(fingerprint(f"hf:{copy}"), fingerprint(f"hf:{folder}"))

    def test_weights_that_changed_places_are_others(self):
        folder = self.hf()
        before = fingerprint(f"hf:{folder}")
        (folder / "model-1.safetensors").rename(folder / "x")
        (folder / "model-2.safetensors").rename(folder / "model-1.safetensors")
        (folder / "x").rename(folder / "model-2.safetensors")
        self.assertNotEqual(fingerprint(f"hf:{folder}"), before)

    def test_pieces_of_a_large_file(self):
        path = self.folder / "large.gguf"
        size = 3 * PIECE * PIECES
        path.write_bytes(bytes(size))
        before = fingerprint(f"gguf:{path}")
        # Whatever is as long as three pieces and their gaps is hit, and both ends are.
        for position in (0, size - 1):
            change(path, position)
            self.assertNotEqual(fingerprint(f"gguf:{path}"), before)
            change(path, position)
        data = bytearray(path.read_bytes())
        data[size // 2 : size // 2 + 4 * PIECE] = b"\1" * (4 * PIECE)
        path.write_bytes(data)
        self.assertNotEqual(fingerprint(f"gguf:{path}"), before)
        path.write_bytes(bytes(size + 1))
        self.assertNotEqual(fingerprint(f"gguf:{path}"), before)

    def test_checkpoints_by_their_checksums(self):
        references = [tiny.save_policy(self.folder / name, seed=seed)
                      for name, seed in (("a", 0), ("again", 0), ("b", 1))]  # fmt: skip
        found = [fingerprint(reference) for reference in references]
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[0], found[2])
        change(next((self.folder / "a" / "vocabulary").iterdir()))
        self.assertNotEqual(fingerprint(references[0]), found[0])

    def test_adapters_and_their_bases(self):
        base, adapter = self.hf(), self.folder / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
        (adapter / "adapter_model.safetensors").write_bytes(b"A and B")
        found = {fingerprint(f"hf:{base}"), fingerprint(f"hf:{adapter}")}
        change(adapter / "adapter_model.safetensors")
        found.add(fingerprint(f"hf:{adapter}"))
        change(base / "model-2.safetensors")
        found.add(fingerprint(f"hf:{adapter}"))
        self.assertLen(found, 4)

    def test_packages_have_pinned_bytes(self):
        found = {fingerprint(f"pypi:{name}") for name in pypi.MODELS}
        self.assertLen(found, len(pypi.MODELS))

    @parameterized.parameters(
        "hf:/nowhere", "gguf:/nowhere", "orbax:/nowhere", "pypi:nothing", "nothing", "x:y", "hf:",
        "hf:/proc/self/mem", "gguf:/tmp",
    )  # fmt: skip
    def test_no_policy(self, reference):
        self.assertIsNone(fingerprint(reference))


if __name__ == "__main__":
    absltest.main()
