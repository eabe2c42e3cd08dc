"""restem's own few-shot prompts: `tasks/prompts/NAME.txt`, in the published form."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from restem.data import prompts


def own(name: str) -> prompts.Prompt:
    """Returns the prompt of the file `prompts/NAME.txt` beside this one."""
    text = resources.files(__package__).joinpath("prompts", f"{name}.txt").read_text("utf-8")
    return prompts.Prompt(prefix=prompts.as_prefix(text), source="restem")


def published_or_own(
    published: prompts.Published, name: str
) -> Callable[[str | None], prompts.Prompt]:
    """Returns a function from the data folder to the published prompt if the folder has it, else
    to `own(name)`."""
    return lambda data_dir: published.read(data_dir) or own(name)
