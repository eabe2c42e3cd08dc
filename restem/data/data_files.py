"""The files of each split of a file, a folder, or a data set of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from restem.data import tables
from restem.data.task_spec import SPLITS
from restem.errors import UserError

HUB = "hf:"
_REFERENCE = re.compile(
    r"^hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<folder>.+?))?/*$"
)
# The words by which `datasets` recognises splits, between characters that are not letters.
_SPLIT = re.compile(
    r"(?<![a-z])(?:(train|training)|(validation|valid|val|dev)|(test|testing|eval|evaluation))"
    r"(?![a-z])"
)
# Files of `datasets.save_to_disk`, and of repositories, that hold no records.
_NO_RECORDS = re.compile(
    r"^(dataset_dict|dataset_info|dataset_infos|state)\.json$|^cache-.*\.arrow$|^\."
)


def find(
    path: str, patterns: Mapping[str, str] | None, *, setting: str
) -> dict[str, Sequence[epath.Path]]:
    """Returns the files of each split, sorted by path.

    Args:
      path: file, folder or `hf:ORG/NAME[@REVISION][/FOLDER]`; a file is the train split, unless
        its records name another.
      patterns: split to a glob pattern within the folder; None recognises splits by words in paths.
      setting: gin scope and name, for messages.

    Raises:
      UserError: if there are no such files, or the choice of files is ambiguous.
    """
    unknown = sorted(set(patterns or ()) - set(SPLITS))
    if unknown:
        raise UserError(f"{setting}.files: no split {unknown[0]!r}; use {', '.join(SPLITS)}")
    root = _downloaded(path) if path.startswith(HUB) else epath.Path(path).expanduser()
    if not root.exists():
        raise UserError(f"{path}: no such file or folder ({setting}.path)")
    if not root.is_dir():
        if patterns:
            raise UserError(f"{setting}.files: {path} is a file; name its folder as {setting}.path")
        return {"train": [root]}
    if patterns:
        return {split: _matches(root, patterns[split], setting) for split in patterns}
    return _recognised(root, path, setting)


def _matches(root: epath.Path, pattern: str, setting: str) -> Sequence[epath.Path]:
    if "**" in pattern:
        raise UserError(f"{setting}.files: {pattern!r}: use * for each folder instead of **")
    files = sorted(f for f in root.glob(pattern) if not f.is_dir())
    if not files:
        raise UserError(f"{setting}.files: no file matches {pattern!r} in {root}")
    return files


def _recognised(root: epath.Path, path: str, setting: str) -> dict[str, Sequence[epath.Path]]:
    files = sorted(_data_files(root))
    if not files:
        raise UserError(
            f"{path}: the folder has no data files ({', '.join(tables.SUFFIXES)}); name another "
            f"folder as {setting}.path"
        )
    found: dict[str, list[epath.Path]] = {}
    for file in files:
        # The last word decides: "test/train_like.csv" is rare, "data/train-0000.parquet" is common.
        words = _SPLIT.findall(str(file.relative_to(root)).lower())
        if words:
            split = next(s for s, word in zip(SPLITS, words[-1], strict=True) if word)
            found.setdefault(split, []).append(file)
    if not found:
        found = {"train": files}
    for split, members in found.items():
        folders = sorted({str(f.parent.relative_to(root)) for f in members})
        if len(folders) > 1:
            raise UserError(
                f"{path}: {split} files in several folders ({', '.join(folders)}); name one of "
                f"them in {setting}.path, or bind {setting}.files"
            )
    return {split: found[split] for split in SPLITS if split in found}


def _data_files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if _NO_RECORDS.match(path.name):
            continue
        if path.is_dir():
            yield from _data_files(path)
        elif path.name.endswith(tables.SUFFIXES):
            yield path


def _downloaded(reference: str) -> epath.Path:
    """Returns the folder of a data set in huggingface_hub's cache, downloaded if necessary."""
    match = _REFERENCE.match(reference)
    if match is None:
        raise UserError(f"{reference}: a data set is named hf:ORG/NAME[@REVISION][/FOLDER]")
    import huggingface_hub
    from huggingface_hub import errors

    repository, folder = match["repository"], match["folder"]
    inside = f"{folder}/" if folder else ""
    options: dict[str, Any] = {
        "repo_type": "dataset",
        "revision": match["revision"],
        "allow_patterns": [f"{inside}*{suffix}" for suffix in tables.SUFFIXES],
    }
    try:
        home = huggingface_hub.snapshot_download(repository, **options)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(
            f"{reference}: no such data set or revision on the Hub, or it needs a login "
            f"(hf auth login): {_first_line(error)}"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{reference}: not in the cache of huggingface_hub, and the Hub cannot be reached; "
            f"where there is a network, run `hf download --repo-type dataset {repository}` and "
            f"copy the folder, or name a folder: {_first_line(error)}"
        ) from error
    return epath.Path(home) / folder if folder else epath.Path(home)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
