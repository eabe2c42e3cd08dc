"""The start of helper processes: an interpreter that loads only the modules that it needs.

`restem.verify` is entered as a bare folder, so that its `__init__` and the imports there are not
loaded into processes that must start in milliseconds and are forked thousands of times.
"""

from __future__ import annotations

import os
import pathlib
import sys
import sysconfig

_CODE = """
import importlib, sys, types
root = sys.argv.pop(1)
for name, folder in (("restem", root), ("restem.verify", root + "/verify")):
    module = types.ModuleType(name)
    module.__path__ = [folder]
    sys.modules[name] = module
importlib.import_module("restem.verify.{module}").start(sys.argv[1:])
"""

CLEAN_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONHASHSEED": "0",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""The whole environment of a program, besides HOME and TMPDIR, and without the PYTHON names."""


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command line that runs `restem.verify.MODULE.start(arguments)`."""
    root = str(pathlib.Path(__file__).resolve().parents[2])
    code = _CODE.format(module=module)
    return [sys.executable, "-s", "-S", "-P", "-B", "-c", code, root, *arguments]


def package_folders() -> list[str]:
    """Returns the folders where this interpreter finds installed packages."""
    found = [sysconfig.get_path(key) for key in ("purelib", "platlib")]
    # Folders that .pth files add; helper processes do not run such files.
    found += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [path for path in dict.fromkeys(found) if path and os.path.isdir(path)]
