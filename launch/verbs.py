"""The verbs of restem that can be launched, and the arguments that are passed on to them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from restem.cli import main
from restem.errors import UserError

VERBS = tuple(name for name, verb in main.VERBS.items() if "repair" in verb.takes.split())
"""Verbs of restem that work in the folder of a run, and can be launched."""


def parse(verb: str, passed: Sequence[str], *, remote: bool) -> argparse.Namespace:
    """Checks the arguments that are passed on to restem, as restem does; returns its flags.

    Args:
      verb: one of `VERBS`.
      passed: arguments after "--".
      remote: whether the verb runs on other machines.

    Raises:
      UserError: the verb has no such flag, the launcher gives it itself, or it names a file of this
        machine.
    """
    if of_gin := [argument for argument in passed if argument.startswith("--gin.")]:
        raise UserError(f"{of_gin[0]} goes before --: the launcher reads it too")
    parsed = main.parser().parse_args([verb, *passed])
    for name in ("gin_file", "workdir", "dry_run"):
        if getattr(parsed, name):
            raise UserError(f"--{name} goes before --: the launcher reads it too")
    if remote:
        for name in ("requests", "completions"):
            files = getattr(parsed, name, None) or ()
            for file in [files] if isinstance(files, str) else files:
                if "://" not in file:
                    raise UserError(f"--{name}={file}: all hosts must see it: name it in a bucket")
    parsed.workdir = "that of the job"
    main.VERBS[verb].refuse(parsed)
    return parsed
