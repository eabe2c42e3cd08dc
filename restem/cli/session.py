"""The session around a verb: settings, the other hosts, logging and caches."""

from __future__ import annotations

import argparse
import logging as python_logging
import os
from collections.abc import Sequence
from typing import Any

import gin
import jax
from absl import logging

from restem.cli.gin_files import parse_gin
from restem.run import layout, lease, repair
from restem.run.run import Run
from restem.runtime import compilation, distributed, storage
from restem.runtime.profiles import PROFILE
from restem.runtime.progress import CONSOLE, is_quiet, say
from restem.steps.settings import Settings


def open_run(
    arguments: argparse.Namespace,
    bindings: Sequence[str],
    *,
    workdir: str | None = None,
    **of_flags: Any,
) -> tuple[Run, Settings]:
    """Returns the run that the flags name, and its checked settings; writes no files of the run.

    On return, the other hosts have joined, this job holds the lease on the folder, and logging and
    the compilation cache are set up.

    Args:
      arguments: the flags.
      bindings: gin bindings from flags.
      workdir: the run's folder; None: that of the flag.
      **of_flags: settings of `Run` for which flags override gin.
    """
    parse_gin(arguments.gin_file, bindings)
    settings = Settings.from_gin()
    if getattr(arguments, "allow_weak_sandbox", False):
        of_flags["allow_weak_sandbox"] = True
    settings = settings.with_run(**of_flags)
    run = Run(workdir or arguments.workdir, settings.run, rebuild=arguments.repair)
    completions = getattr(arguments, "completions", ())
    if arguments.dry_run:
        if arguments.repair:
            repair_run(run, is_dry=True, completions=completions)
        return run, settings
    distributed.initialize()
    lease.hold(run.files)
    _start_logging(run)
    if arguments.repair:
        distributed.run_on_primary("repair", lambda: repair_run(run, completions=completions))
    if getattr(arguments, "profile", False):
        PROFILE.folder = run.files.path / "profile"
    # The cache is in the folder named by the flag, even if the run's files go to a subfolder.
    own = str(layout.Workdir(arguments.workdir).compilation_cache)
    compilation.use_cache(compilation.folder_for(own))
    return run, settings


def repair_run(run: Run, *, is_dry: bool = False, completions: Sequence[str] = ()) -> None:
    """Removes the damaged files of a run, and says how the run makes them again.

    Args:
      run: the run.
      is_dry: whether only to say it.
      completions: files of another engine's samples that this command reads.

    Raises:
      UserError: samples of another engine are damaged, and there are no completions.
    """
    # Orbax reads arrays with all hosts, and only this one looks for damage.
    damage = repair.find(run.files, reads_arrays=not (distributed.several() or is_dry))
    if is_dry:
        repair.check(damage, completions=completions)
    else:
        repair.apply(damage, completions=completions)
    for line in repair.report(damage, is_dry=is_dry):
        say(line)


def save_operative_config(run: Run) -> None:
    """Writes the operative gin config, from which another run can be started."""
    storage.write_bytes(run.files.operative_config, gin.operative_config_str().encode())


def _start_logging(run: Run) -> None:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_shown)
    if is_quiet():
        logging.get_absl_handler().setLevel(python_logging.WARNING)
    if "://" in str(run.files.path):
        return  # files in a bucket cannot be appended to
    run.files.path.mkdir(parents=True, exist_ok=True)
    log = run.files.log
    if not distributed.is_primary():
        log = log.with_suffix(f".{jax.process_index()}{log.suffix}")
    handler = _LogFile(log)
    handler.setFormatter(logging.PythonFormatter())
    handler.addFilter(_is_ours)
    python_logging.getLogger().addHandler(handler)
    if CONSOLE.is_terminal:
        # On a terminal, bars show the progress, and log lines go to the file only.
        logging.get_absl_handler().setLevel(python_logging.WARNING)


class _LogFile(python_logging.FileHandler):
    """The run's log; a full disk must not add a traceback for every line to the terminal."""

    def handleError(self, record: python_logging.LogRecord) -> None:
        del record


def log_traceback(error: BaseException) -> None:
    """Writes a traceback to the run's log only: the user sees the error in one line."""
    for handler in python_logging.getLogger().handlers:
        if isinstance(handler, _LogFile):
            info = (type(error), error, error.__traceback__)
            record = python_logging.LogRecord(
                "restem", python_logging.ERROR, __file__, 0, "the traceback:", (), info
            )
            handler.handle(record)


def _is_ours(record: python_logging.LogRecord) -> bool:
    """Keeps the many lines of libraries out of the log, except warnings."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return record.levelno >= python_logging.WARNING or record.pathname.startswith(ours)


def _is_shown(record: python_logging.LogRecord) -> bool:
    """Leaves tracebacks of libraries to the log: their errors reach us, and end with one line."""
    return _is_ours(record) and not record.exc_info
