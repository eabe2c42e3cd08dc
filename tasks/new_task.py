"""The files of a new task, which work as written and can be edited: `restem init NAME`."""

from __future__ import annotations

import re
from importlib import resources

from etils import epath

from restem.data import registry
from restem.errors import UserError

# File by template; NAME stands for the name of the task.
FILES = {
    "task.gin": "NAME.gin",
    "problems.jsonl": "problems.jsonl",
    "prompt.txt": "prompt.txt",
}


def write(name: str) -> list[epath.Path]:
    """Writes a gin file, problems and a prompt to the new folder `name`, and returns their paths.

    Raises:
      UserError: if the name is not allowed, or a task or file of this name exists.
    """
    if not re.fullmatch(r"[a-zA-Z_]\w*", name):
        raise UserError(f"init {name}: a name is letters, digits and '_', and begins with no digit")
    if name in registry.names() or registry.members(name):
        raise UserError(f"init {name}: there is a task {name}; choose another name")
    folder = epath.Path(name)
    if folder.exists():
        raise UserError(f"init {name}: {name} exists; choose another name or remove it")
    folder.mkdir()
    written = []
    for template, file in FILES.items():
        text = resources.files(__package__).joinpath("template", template).read_text("utf-8")
        path = folder / file.replace("NAME", name)
        path.write_text(text.replace("NAME", name))
        written.append(path)
    return written
