"""Gin files and bindings: where files are found, and which names gin knows.

Importing this module registers everything that a gin file can bind, so gin files need no `import`
lines but for tasks and rewards of the user's own.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

import gin

from restem import methods, tasks
from restem.data import file_tasks, sources
from restem.errors import UserError
from restem.plan import planner
from restem.report import report
from restem.run import bindings as bindings_lib
from restem.runtime import distributed
from restem.steps import settings
from restem.training import optimizers

BINDABLE = (distributed, file_tasks, methods, optimizers, planner, report, settings, sources, tasks)
"""Modules whose functions and classes gin can bind."""


def gin_folders() -> list[str]:
    """Where gin files are looked for: here, here under gin/, beside the package."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    beside = [os.path.join(package, "gin"), os.path.join(os.path.dirname(package), "gin")]
    folders = [os.getcwd(), os.path.join(os.getcwd(), "gin"), *filter(os.path.isdir, beside)]
    return list(dict.fromkeys(folders))


def parse_gin(files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads gin files and bindings; raises `UserError` naming the file or name that is wrong."""
    folders = gin_folders()
    # gin takes a file that it does not find at once for one of a Python package, and imports what
    # here has the package's name: with a folder models/, `models/x.gin` would be lost. Its search
    # path would keep the folders of an earlier call, too.
    gin.config._FILE_READERS[:] = [(bindings_lib.reading, os.path.isfile)]
    gin.config._LOCATION_PREFIXES[:] = folders
    if os.getcwd() not in sys.path:  # gin files import tasks and rewards of the user's own
        sys.path.append(os.getcwd())
    for file in files:
        if not any(os.path.isfile(os.path.join(folder, file)) for folder in folders):
            near = difflib.get_close_matches(file, _known(folders[1:]), n=3, cutoff=0.3)
            hint = f"; is it {' or '.join(near)}?" if near else ""
            raise UserError(f"--gin_file={file}: no such file in {', '.join(folders)}{hint}")
    try:
        with bindings_lib.recorded_origins():
            gin.parse_config_files_and_bindings(list(files), list(bindings), finalize_config=False)
    except UserError:
        raise
    except Exception as e:  # gin raises ValueError, SyntaxError, RuntimeError, ImportError, ...
        message = " ".join(str(e).split())
        raise UserError(f"gin: {message}; correct the gin file or the --gin.NAME=VALUE") from e


def _known(folders: Sequence[str]) -> list[str]:
    """Gin files in some folders, as `--gin_file` names them."""
    return sorted(
        os.path.relpath(os.path.join(root, name), folder)
        for folder in folders
        for root, _, names in os.walk(folder)
        for name in names
        if name.endswith(".gin")
    )
