"""Few-shot prompts, from published files or the user's own files.

A published prompt counts as data: it is read from the data folder and must have the SHA-256 in the
code, because widely copied versions differ from the published one (many copies of the Minerva
prompt lack a backslash).

A prefix ends with an empty line, where the query begins.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Callable

from etils import epath

from restem.data import folder
from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A few-shot prefix and its source."""

    prefix: str = ""
    """Shots, ending with an empty line; "" for zero-shot."""
    source: str = ""
    """Source of the prefix: "restem", "user", or the name of a file."""


ZERO_SHOT = Prompt()


@dataclasses.dataclass(frozen=True)
class Published:
    """A published prompt, as a file of the data folder."""

    file: str
    """Path within the data folder; JSON lines, one shot per line."""
    sha256: str
    """SHA-256, in hex, of the prefix built from the file (a gzip file holds a time stamp too)."""
    shot: Callable[[dict], str]
    """Function from a record to the text of its shot."""

    def read(self, data_dir: str | None) -> Prompt | None:
        """Returns the prompt, or None if the data folder has no such file.

        Raises:
          UserError: if the prompt in the file is not the published one.
        """
        root = folder.data_dir(data_dir)
        if not root:
            return None
        path = epath.Path(root).expanduser() / self.file
        if not path.exists():
            return None
        shots = []
        for number, record in folder.read_jsonl(path):
            try:
                shots.append(self.shot(record))
            except KeyError as error:
                raise UserError(f"{path}, line {number}: no field {error}") from error
        prefix = as_prefix("\n\n".join(shots))
        found = sha256(prefix)
        if found != self.sha256:
            raise UserError(
                f"{path}: this is not the published prompt (SHA-256 of the prefix is {found}, not "
                f"{self.sha256}); restore the file, or remove it to use the built-in prompt"
            )
        return Prompt(prefix=prefix, source=self.file)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def as_prefix(text: str) -> str:
    """Returns text with exactly one empty line at its end; "" stays ""."""
    text = text.rstrip()
    return f"{text}\n\n" if text else ""


def split_form(form: str) -> tuple[str, str]:
    """Returns what stands before and after the problem in a form such as "Q: {problem}\\nA:"."""
    before, _, after = form.partition("{problem}")
    return before, after


@functools.lru_cache(maxsize=256)
def split_shots(prefix: str, form: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Returns the text before the first shot of a prefix, and the shots as (problem, solution).

    A shot is a query of the given form, followed by its solution up to the next query that begins
    after an empty line. If there is none, or the form does not show where queries begin and end,
    the whole prefix is text before the first shot.
    """
    before, after = split_form(form)
    if not before or not after:
        return prefix, ()
    starts = [m.start() for m in re.finditer(rf"(?:\A|(?<=\n\n)){re.escape(before)}", prefix)]
    shots = []
    for start, end in itertools.pairwise([*starts, len(prefix)]):
        problem, found, solution = prefix[start + len(before) : end].partition(after)
        if not found:
            return prefix, ()
        shots.append((problem, solution.strip()))
    return prefix[: starts[0]] if starts else prefix, tuple(shots)


def from_file(path: str) -> Prompt:
    """Returns the prompt in one of the user's files."""
    return Prompt(prefix=as_prefix(folder.read_text(epath.Path(path).expanduser())), source=path)
