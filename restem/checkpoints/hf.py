"""Reads Hugging Face folders: config.json and safetensors shards."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from etils import epath

from restem.checkpoints import names
from restem.checkpoints.safetensors import SafetensorsFile
from restem.errors import UserError
from restem.runtime import storage


class HFFolder:
    """A model folder: its config, and tensors read a few rows at a time."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        config_path = self.path / "config.json"
        if not config_path.exists():
            raise UserError(
                f"{config_path} does not exist; hf: takes a folder that holds config.json, "
                "*.safetensors and the tokenizer's files, as `hf download ORG/NAME --local-dir "
                "FOLDER` writes it (restem downloads no models)"
            )
        self.config = storage.read_json(config_path, remedy=storage.COPY)

    @functools.cached_property
    def _tensors(self) -> dict[str, tuple[SafetensorsFile, str]]:
        """Canonical tensor name -> (file, name within it)."""
        index_path = self.path / "model.safetensors.index.json"
        if index_path.exists():
            index = storage.read_json(index_path, "weight_map", remedy=storage.COPY)
            shards = sorted(set(map(str, dict(index["weight_map"]).values())))
        else:
            # As transformers does: beside the one file, others are copies.
            single = self.path / "model.safetensors"
            shards = sorted(p.name for p in self.path.glob("*.safetensors"))
            shards = [single.name] if single.exists() else shards
        if not shards:
            raise UserError(
                f"{self.path} holds no *.safetensors (restem does not unpickle *.bin: convert it "
                "with transformers' save_pretrained)"
            )
        found: dict[str, tuple[SafetensorsFile, str]] = {}
        for shard in shards:
            path = self.path / shard
            if not path.exists():
                raise UserError(f"{path} does not exist, but model.safetensors.index.json names it")
            file = SafetensorsFile(path)
            for name in file.shapes:
                canonical = names.canonical_hf(name)
                if canonical is None:
                    continue
                if canonical in found:
                    raise UserError(
                        f"{self.path}: {found[canonical][0].path.name} and {shard} both hold"
                        f" {name}; move the files away that are not of this model"
                    )
                found[canonical] = (file, name)
        return found

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {canonical: f.shapes[name] for canonical, (f, name) in self._tensors.items()}

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Returns rows of a tensor in the dtype of the file (bfloat16 is that of `ml_dtypes`)."""
        file, stored = self._tensors[name]
        return file.read(stored, rows)
