"""Dequantised tensors on disk, so that a model is dequantised once and not at every start.

    CACHE/models/KEY-DTYPE/config.json      the `ModelConfig`
    CACHE/models/KEY-DTYPE/vocabulary/      the vocabulary, and the rest of the file's header
    CACHE/models/KEY-DTYPE/params/*.npy     every leaf of the parameters, in our layout

CACHE is `runtime.cache.cache_folder`. KEY is the beginning of the SHA-256 of the dequantised file,
and the version of this layout. A folder appears whole or not at all, also after a power failure,
and any of them may be deleted at any time. Leaves are mapped into memory: on a CPU they are the
parameters themselves, so that loading reads nothing and several processes share one copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from restem import models
from restem.checkpoints import tensors
from restem.checkpoints.damage import DamagedError
from restem.errors import UserError
from restem.models.config import ModelConfig
from restem.runtime import storage
from restem.runtime.cache import cache_folder
from restem.tokenizers import hub_config, saved
from restem.tokenizers.hub_config import HubConfig
from restem.tokenizers.vocabulary import Vocabulary

_VERSION = 3
"""To be raised whenever reading a GGUF file gives another config, vocabulary, hub config or
tensor."""

_UNFINISHED = "unfinished-"
"""Beginning of the names of folders that are being written."""
_ABANDONED_AFTER = 24 * 3600
"""Seconds after which such a folder is one of a process that was killed."""


class Entry:
    """The cached tensors of one file in one dtype."""

    def __init__(self, sha256: str, dtype: str):
        """`sha256` is that of the file, `dtype` that of the parameters.

        Raises:
          UserError: the cache folder that the environment names cannot be written.
        """
        self.dtype = dtype
        try:
            cache = cache_folder()
        except OSError as error:
            raise UserError(
                f"the cache folder cannot be written ({error}); set RESTEM_CACHE_DIR to another one"
            ) from error
        self.path = cache / "models" / f"{sha256[:16]}-v{_VERSION}-{dtype}"

    def exists(self) -> bool:
        return self.path.exists()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def write(
        self,
        config: ModelConfig,
        vocabulary: Vocabulary,
        hub: HubConfig,
        source: tensors.Source,
        **options,
    ) -> None:
        """Dequantises every tensor of `source` into the entry.

        Memory holds a piece of a tensor per thread. The entry is synced to disk before it appears.

        Args:
          config: describes the file.
          vocabulary: of the file.
          hub: of the file.
          source: the file.
          **options: `template` and `transform` of `tensors.stream_to_host`.

        Raises:
          OSError: the cache cannot be written, or the disk is full.
          UserError: as in `tensors.stream`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.path.parent)
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=_UNFINISHED) as folder:
            unfinished = Path(folder) / "entry"
            (unfinished / "params").mkdir(parents=True)
            (unfinished / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
            vocabulary.save(unfinished / "vocabulary")
            hub.save(unfinished / "vocabulary")

            def allocate(path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
                file = unfinished / "params" / _file_name(path)
                stored = _stored_dtype(leaf.dtype)
                mapped = np.lib.format.open_memmap(file, "w+", stored, leaf.shape)
                _reserve(file)
                return mapped.view(leaf.dtype)

            tensors.stream_to_host(config, source, allocate, dtype=self.dtype, **options)
            storage.sync_folder(epath.Path(unfinished))
            try:
                unfinished.rename(self.path)
            except OSError:
                # Another process was faster.
                if not self.exists():
                    raise

    def read(
        self, shardings: tensors.Shardings
    ) -> tuple[ModelConfig, models.Params, Vocabulary, HubConfig]:
        """Returns config, parameters, vocabulary and hub config.

        Args:
          shardings: as in `checkpoints.load`.

        Raises:
          DamagedError: a file of the entry is missing or cannot be read.
        """
        texts = self.path / "vocabulary"
        with self._damage():
            config = ModelConfig.from_dict(json.loads((self.path / "config.json").read_text()))
            vocabulary, hub = saved.load(texts), hub_config.load(texts)
        shapes = models.param_shapes(config, self.dtype)
        leaves, tree = jax.tree.flatten(shapes)
        placed = tensors.placements(config, shapes, shardings)
        arrays = []
        for path, leaf, sharding in zip(tensors.leaf_paths(shapes), leaves, placed, strict=True):
            with self._damage():
                host = self._leaf(path, leaf)
            if sharding is None:
                arrays.append(jax.device_put(host))
            else:
                arrays.append(jax.make_array_from_callback(leaf.shape, sharding, host.__getitem__))
        return config, jax.tree.unflatten(tree, arrays), vocabulary, hub

    def _leaf(self, path: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        # Copy on write: XLA may reuse the memory of an argument that is donated to a program.
        mapped = np.load(self.path / "params" / _file_name(path), mmap_mode="c")
        host = np.asarray(mapped).view(leaf.dtype)
        if host.shape != leaf.shape:
            raise ValueError(f"{path} has shape {host.shape}, not {leaf.shape}")
        return host

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """Turns the errors of reading files of the entry into `DamagedError`."""
        try:
            yield
        except (OSError, EOFError, ValueError, TypeError, LookupError, UserError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DamagedError(
                f"{self.path} is damaged ({reason}); remove it and start again"
            ) from error


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):  # another process removes it too
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(path)


def _file_name(path: str) -> str:
    return path.replace("/", ".") + ".npy"


def _stored_dtype(dtype: jnp.dtype) -> np.dtype:
    """Returns a dtype of the same width that .npy files know: bfloat16 is stored as uint16."""
    return np.dtype(dtype) if np.dtype(dtype).isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")


def _reserve(file: Path) -> None:
    """Reserves the blocks of a sparse file: writing through a map to a full disk is a SIGBUS."""
    with file.open("rb+") as opened:
        os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
