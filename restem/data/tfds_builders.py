"""TFDS builders that read MATH and GSM8K from a folder, and the cache of prepared data sets.

Neither needs the network. A prepared data set is in `CACHE/tfds/NAME-CHECKSUM`, with the checksum
of the source files, so the same files are prepared once, and changed files make a new data set.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from restem.data import folder
from restem.runtime.cache import cache_folder


class _FolderBuilder(tfds.core.GeneratorBasedBuilder):
    """A data set of text records in the files of a folder, by split."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks for download checksums beside the builder's code. There are none, and the search
    # imports `importlib_resources`, which TFDS 4.9 does not install on Python 3.9 and later.
    code_path = None
    FIELDS: Sequence[str] = ()
    """Names of the text fields of a record."""
    OPTIONAL: Sequence[str] = ()
    """Fields that a record may lack; a missing one is ""."""
    CITATION = ""

    def __init__(self, *, files: Mapping[str, Sequence[epath.Path]], **kwargs: Any):
        self._files = files
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {name: tfds.features.Text() for name in (*self.FIELDS, "source")}
            ),
            citation=self.CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # The user supplies the files.
        return {split: self._generate_examples(files) for split, files in self._files.items()}

    def _generate_examples(self, files: Sequence[epath.Path]) -> Iterator[tuple[int, dict]]:
        required = [field for field in self.FIELDS if field not in self.OPTIONAL]
        key = 0
        records: Iterable[tuple[int, dict]]
        for file in files:
            if file.name.endswith(".json"):
                records = [(1, folder.read_json(file, required=required))]
                source = f"{file.parent.name}/{file.stem}"
            else:
                records = folder.read_jsonl(file, required=required)
                source = file.name
            for number, record in records:
                row = {name: str(record.get(name, "")) for name in self.FIELDS}
                yield key, {**row, "source": f"{source}:{record.get('idx', number)}"}
                key += 1


class RestemMath(_FolderBuilder):
    """MATH (Hendrycks et al., 2021): competition problems with worked solutions."""

    FIELDS = ("problem", "level", "type", "solution")
    OPTIONAL = ("level", "type")
    CITATION = "Hendrycks et al. Measuring Mathematical Problem Solving With the MATH Dataset. 2021"


class RestemGsm8k(_FolderBuilder):
    """GSM8K (Cobbe et al., 2021): grade-school word problems with worked solutions."""

    FIELDS = ("question", "answer")
    CITATION = "Cobbe et al. Training Verifiers to Solve Math Word Problems. 2021"


def read(
    builder: type[_FolderBuilder],
    files: Mapping[str, Sequence[epath.Path]],
    split: str,
    *,
    cache_dir: str | None = None,
) -> list[dict[str, str]]:
    """Returns the records of a split in the order of its files, prepared by TFDS on first use.

    Args:
      builder: class of the data set.
      files: split to files.
      split: split to read; a key of `files`.
      cache_dir: see `runtime.cache.cache_folder`.

    Raises:
      UserError: a bad record; the message names file and line.
    """
    prepared = prepare(builder, files, cache_dir=cache_dir)
    # One batch, because iterating row by row costs more than everything else here.
    size = prepared.info.splits[split].num_examples
    dataset = prepared.as_dataset(split=split, shuffle_files=False, batch_size=size)
    (columns,) = tfds.as_numpy(dataset)
    texts = {name: [value.decode("utf-8") for value in column] for name, column in columns.items()}
    return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]


def prepare(
    builder: type[_FolderBuilder],
    files: Mapping[str, Sequence[epath.Path]],
    *,
    cache_dir: str | None = None,
) -> _FolderBuilder:
    """Returns a prepared builder. If several processes need it at once, one prepares it."""
    checksum = folder.checksum(file for split in sorted(files) for file in files[split])
    root = cache_folder(cache_dir) / "tfds"
    root.mkdir(exist_ok=True)
    home = root / f"{builder.__name__.lower()}-{checksum[:16]}"
    with _lock(home.with_suffix(".lock")):
        made = builder(files=files, data_dir=str(home))
        if made.data_path.exists():
            return made
        logging.info("preparing %s in %s", made.name, home)
        tfds.disable_progress_bar()
        # TFDS prints that it downloads the data set, but nothing is downloaded.
        with contextlib.redirect_stdout(io.StringIO()):
            made.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    compute_stats=tfds.download.ComputeStatsMode.SKIP
                )
            )
    return made


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock that ends with the process, so a killed process blocks no other."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
