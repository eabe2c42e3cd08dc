"""Lets pytest run absltest classes, on the CPU, and in several processes (`make test`)."""

import os
import tempfile

import jaxtyping
import pytest
from absl import flags

from tests.helpers import typechecker

# Before any test imports JAX: tests are written for the CPU, and libtpu, where it is installed for
# `restem plan`, would look for a TPU first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Checks the annotations of the functions on arrays, shapes and dtypes among them, whenever one of
# them is called or traced.
jaxtyping.install_import_hook(
    ("restem.models", "restem.sampling", "restem.training.losses", "restem.training.trainer"),
    f"{typechecker.__name__}.check",
)
# Classes of the same name in two files would share their folders. Workers inherit what the first
# process sets.
if "PYTEST_XDIST_WORKER" in os.environ:
    _FOLDER = f"absl_testing_{os.environ['PYTEST_XDIST_WORKER']}"
    os.environ["TEST_TMPDIR"] = os.path.join(tempfile.gettempdir(), _FOLDER)

# These files run in one process: some count what jails of ended processes leave on the machine, and
# others kill the processes of jails.
_JAILS = ("verify/programs/", "verify/sandbox/")
# Longest first, so that no process is left alone with one of them at the end.
_LONGEST = (
    "distributed_run_test.py",
    "em_test.py",
    "distributed_test.py",
    "methods_test.py",
    "partitioning_test.py",
)


def pytest_configure(config):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@pytest.hookimpl(tryfirst=True)  # before the hook of pytest-xdist, which reads the marks
def pytest_collection_modifyitems(config, items):
    """Assigns each file to one process of pytest-xdist, so that its set-up runs once."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        file = item.nodeid.split("::")[0]
        group = "jails" if any(name in file for name in _JAILS) else file
        item.add_marker(pytest.mark.xdist_group(group))
    rank = {name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
