"""Few-shot prompts: published ones from the data folder, else our own.

A prompt that others published is data. It is read from the data folder and must have the SHA-256
that the code states, because widely copied versions differ from the published one (the Minerva
prompt has lost a backslash in many places). Prompts of our own, in the same form, are the files of
`restem/tasks/prompts`.

A prefix ends with an empty line, so that prefix and query are tokenised apart and concatenated.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from importlib import resources

from etils import epath

from restem.data import folder
from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A few-shot prefix and where it came from."""

    prefix: str = ""
    """The shots, ending with an empty line; "" for zero-shot."""
    source: str = ""
    """"restem" for our own, "user" for a caller's, else the name of the published file."""


ZERO_SHOT = Prompt()


@dataclasses.dataclass(frozen=True)
class Published:
    """A published prompt as a file of the data folder."""

    file: str
    """Path in the data folder, JSON lines, one shot a line."""
    sha256: str
    """Of the prefix built from the file, in hex (a gzip file itself holds a time stamp)."""
    shot: Callable[[dict], str]
    """One record to the text of one shot."""

    def read(self, data_dir: str | None) -> Prompt | None:
        """The prompt, or None where the data folder has no such file.

        Raises:
          UserError: the file's prompt is not the published one.
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
                f"{self.sha256}); restore the file, or remove it to use restem's own prompt"
            )
        return Prompt(prefix=prefix, source=self.file)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def as_prefix(text: str) -> str:
    """Text with exactly one empty line at its end; "" stays ""."""
    text = text.rstrip()
    return f"{text}\n\n" if text else ""


def own(name: str) -> Prompt:
    """The prompt `restem/tasks/prompts/NAME.txt` of our own."""
    text = resources.files("restem.tasks").joinpath("prompts", f"{name}.txt").read_text("utf-8")
    return Prompt(prefix=as_prefix(text), source="restem")


def from_file(path: str) -> Prompt:
    """A prompt file of the user's."""
    return Prompt(prefix=as_prefix(folder.read_text(epath.Path(path).expanduser())), source=path)


def published_or_own(published: Published, name: str) -> Callable[[str | None], Prompt]:
    """A function of the data folder that gives the published prompt where it is there."""
    return lambda data_dir: published.read(data_dir) or own(name)
