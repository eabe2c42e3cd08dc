"""Lets pytest run absltest classes, on the CPU, and in several processes (`make test`)."""

import os
import shutil
import tempfile

import jaxtyping
import pytest
from absl import flags

from tests.helpers import typechecker, xla

# Before any test imports JAX: tests are written for the CPU, and libtpu, where it is installed for
# `restem plan`, would look for a TPU first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", xla.flags())
# A program is compiled once, whichever test and whichever process asks for it. XLA's own caches
# would put the folder into its key.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="restem_compiled_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
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

# Files whose tests run in one process: some count what jails of ended processes leave on the
# machine, and others kill the processes of jails.
_JAILS = ("tests/verify/programs/", "tests/verify/sandbox/")
# Longest first, so that no process is left alone with one of them at the end.
_LONGEST = (
    "tests/multidevice/distributed_run_test.py",
    "tests/multidevice/partitioning_test.py",
    "jails",
    "tests/sampling/engine_test.py",
    "tests/em_test.py",
    "tests/training/trainer_test.py",
    "tests/launch/xm_launch_test.py",
    "tests/multidevice/launch_run_test.py",
    "tests/methods/methods_test.py",
    "tests/sampling/int8_test.py",
    "tests/steps/improve_test.py",
    "tests/plan/planner_test.py",
    "tests/models/lora_test.py",
    "tests/models/parity_test.py",
    "tests/multidevice/program_task_test.py",
    "tests/multidevice/bucket_test.py",
    "tests/benchmarks/gpu_test.py",
)


def pytest_configure(config):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def pytest_unconfigure(config):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """Puts the longest groups first."""
    rank = {group: i for i, group in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(_group(item.nodeid), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives each group to one process of pytest-xdist, so that the set-up of a file runs once.

    The marks `xdist_group` would say the same, but pytest-xdist 3.8 appends them to node ids, which
    pytest 9.2 computes itself: they have no effect, and each test is a group of its own.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return Groups(config, log)


def _group(nodeid: str) -> str:
    """Returns the name of the tests that run in one process with a test."""
    file = nodeid.split("::")[0]
    return "jails" if file.startswith(_JAILS) else file
