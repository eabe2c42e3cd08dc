"""Where gin files are found. This module imports nothing heavy, so that a wrong name is reported at
once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from restem.errors import UserError


def gin_folders() -> list[str]:
    """Returns the search path of gin files: the current folder, its gin/, the package's gin/."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    beside = [os.path.join(package, "gin"), os.path.join(os.path.dirname(package), "gin")]
    folders = [os.getcwd(), os.path.join(os.getcwd(), "gin"), *filter(os.path.isdir, beside)]
    return list(dict.fromkeys(folders))


def check(files: Sequence[str]) -> None:
    """Raises `UserError` naming the first gin file that is nowhere on the search path."""
    folders = gin_folders()
    for file in files:
        if not any(os.path.isfile(os.path.join(folder, file)) for folder in folders):
            near = difflib.get_close_matches(file, _known(folders[1:]), n=3, cutoff=0.3)
            hint = f"; is it {' or '.join(near)}?" if near else ""
            raise UserError(f"--gin_file={file}: no such file in {', '.join(folders)}{hint}")


def _known(folders: Sequence[str]) -> list[str]:
    """Returns the gin files in some folders, named as in `--gin_file`."""
    return sorted(
        os.path.relpath(os.path.join(root, name), folder)
        for folder in folders
        for root, _, names in os.walk(folder)
        for name in names
        if name.endswith(".gin")
    )
