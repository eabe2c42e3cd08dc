"""What is wrong with a command by its flags alone, found before JAX is imported.

Each function takes the flags of a verb and raises `UserError` with the line that the user sees.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from restem.cli import search_path
from restem.errors import UserError


def shared(arguments: argparse.Namespace, bindings: Sequence[str], *, reads_gin: bool) -> None:
    """Refuses gin files that do not exist, and bindings of a verb that reads none."""
    if bindings and not reads_gin:
        name = bindings[0].partition(" = ")[0]
        raise UserError(f"--gin.{name}: `restem {arguments.verb}` reads no gin settings")
    search_path.check(getattr(arguments, "gin_file", ()))


def of_run(arguments: argparse.Namespace) -> None:
    if arguments.workdir is None:
        raise UserError("--workdir=DIR is missing: the folder where the run's files go")


def generate(arguments: argparse.Namespace) -> None:
    of_run(arguments)
    if arguments.requests and arguments.completions:
        raise UserError("name either --requests=FILE, to write, or --completions=FILE, to read")
    _exist(arguments.completions)


def evaluate(arguments: argparse.Namespace) -> None:
    if not arguments.policy:
        if arguments.task:
            raise UserError(
                "--task says what to evaluate --policy=REFERENCE on; a run's own policies are"
                " evaluated on Run.task and Run.evaluate_on"
            )
        return of_run(arguments)
    if arguments.iteration is not None:
        raise UserError("name either --policy=REFERENCE or --iteration=N of the run")
    if arguments.workdir is None:
        raise UserError("--workdir=DIR is missing: files go to DIR/evaluations")


def score(arguments: argparse.Namespace) -> None:
    if arguments.grades:
        return _exist([arguments.grades])
    if not arguments.files:
        raise UserError("score: which outputs? restem score FILE [FILE ...] --task=NAME")
    if not arguments.task:
        raise UserError("--task=NAME is missing: the task (or group) that the outputs are of")
    if arguments.output is None and arguments.workdir is None:
        raise UserError("--output=FOLDER is missing: where the scores go")
    _exist(arguments.files)


def compare(arguments: argparse.Namespace) -> None:
    files = [arguments.first, arguments.second]
    for file in files:
        beside = f"{file.removesuffix('.json')}.parquet"
        if file.endswith(".json") and os.path.exists(beside):
            raise UserError(f"{file} holds only scores; the answers to compare are in {beside}")
        if os.path.isdir(file):
            raise UserError(f"{file} is a folder; name the evals/TASK.parquet of an iteration")
    _exist(files)


def report(arguments: argparse.Namespace) -> None:
    folders = [*arguments.workdirs, *([arguments.workdir] if arguments.workdir else [])]
    if not folders:
        raise UserError("which run? restem report DIR [DIR ...]")
    for folder in folders:
        if "://" not in folder and not os.path.isdir(folder):
            raise UserError(f"{folder}: no such folder; give the --workdir of a run")


def export(arguments: argparse.Namespace) -> None:
    if arguments.policy is None and arguments.workdir is None:
        raise UserError("name a policy: --policy=REFERENCE, or --workdir=DIR --iteration=N")
    if arguments.policy is not None and arguments.iteration is not None:
        raise UserError("name either --policy=REFERENCE or --iteration=N of the run")
    output = arguments.output
    if "://" in output:
        raise UserError(
            f"--output={output}: export writes to a local folder; copy it to the bucket with gcloud"
            " storage cp --recursive"
        )
    if os.path.exists(output) and (not os.path.isdir(output) or os.listdir(output)):
        raise UserError(f"{output} exists and is not an empty folder; name another one")


def _exist(files: Sequence[str]) -> None:
    for file in files:
        if "://" not in file and not os.path.exists(os.path.expanduser(file)):
            raise UserError(f"{file}: no such file")
