"""Conversations: a problem, and shots before it, as turns for a chat template."""

from __future__ import annotations

from restem.data.prompts import split_form, split_shots
from restem.records import Chat, TaskCard


def messages(card: TaskCard, inputs: str) -> list[dict[str, str]]:
    """Returns the turns that ask a query; see `records.Chat`.

    With the form "Q: {problem}\\nA:" and one shot, the turns are

        user         What is 0 + 1?
        assistant    The answer is 1.
        user         What is 7 + 1?

    Args:
      card: the task; its `chat` is set.
      inputs: the query, in the form of the task's own queries.
    """
    chat = card.chat
    assert chat is not None
    turns = [] if chat.system is None else [("system", chat.system)]
    if chat.shots == "text":
        turns.append(("user", _filled(chat, card.prefix + inputs)))
    else:
        preamble, shots = split_shots(card.prefix, chat.form)
        for question, answer in [*shots, (without_form(chat, inputs), None)]:
            turns.append(("user", preamble + _filled(chat, question)))
            preamble = ""  # a description of the task, before the first question only
            if answer is not None:
                turns.append(("assistant", answer))
    return [{"role": role, "content": content} for role, content in turns]


def without_form(chat: Chat, inputs: str) -> str:
    """Returns the problem in a query: the query without what the task's form adds."""
    before, after = split_form(chat.form)
    return inputs.removeprefix(before).removesuffix(after)


def _filled(chat: Chat, problem: str) -> str:
    return chat.query.replace("{problem}", problem)
