"""Gin files and bindings, and the names that gin knows.

Importing this module registers everything that a gin file can bind, so gin files need `import`
lines only for the user's own tasks and rewards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import gin

from restem import methods, tasks
from restem.cli import search_path
from restem.data import chat, file_tasks, sources
from restem.errors import UserError
from restem.plan import planner
from restem.report import report
from restem.run import bindings as bindings_lib
from restem.runtime import distributed
from restem.steps import settings
from restem.training import optimizers

BINDABLE = (
    chat, distributed, file_tasks, methods, optimizers, planner, report, settings, sources, tasks,
)  # fmt: skip
"""Modules whose functions and classes gin can bind."""


def parse_gin(files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads gin files and bindings; raises `UserError` naming the faulty file or binding."""
    # If gin does not find a file, it looks for a Python package of that name and imports it: in a
    # folder with models/, it would not find the package's `models/x.gin`. Its search path would
    # also keep the folders of an earlier call.
    gin.config._FILE_READERS[:] = [(bindings_lib.reading, os.path.isfile)]
    gin.config._LOCATION_PREFIXES[:] = search_path.gin_folders()
    if os.getcwd() not in sys.path:  # gin files may import the user's own tasks and rewards
        sys.path.append(os.getcwd())
    search_path.check(files)
    try:
        with bindings_lib.recorded_origins():
            gin.parse_config_files_and_bindings(list(files), list(bindings), finalize_config=False)
    except UserError:
        raise
    except Exception as e:  # gin raises ValueError, SyntaxError, RuntimeError, ImportError, ...
        message = " ".join(str(e).split())
        flag = next((b for b in bindings if not bindings_lib.is_readable(b)), None)
        if flag is not None:
            raise UserError(f"--gin.{flag}: gin cannot read this value ({message})") from e
        raise UserError(f"gin: {message}; correct the gin file or the --gin.NAME=VALUE") from e
