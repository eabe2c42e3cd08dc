"""Prompts in tokens: the prefix that all problems of a task share, and each problem's question.

A prompt has the tokens of its whole text, as other programs would encode it. A tokeniser may merge
characters across the end of the few-shot prompt, so the shared prefix is the longest one that all
prompts have in common *in tokens*:

    few-shot prompt and two queries    "... correct.\\n\\n"  "Problem:\\nWhat"  "Problem:\\nFind"
    whole texts, encoded               [ correct] [.\\n\\n] [Problem] [:\\n] [What]
                                       [ correct] [.\\n\\n] [Problem] [:\\n] [Find]
    prefix, and two questions          [ correct] [.\\n\\n] [Problem] [:\\n];  [What],  [Find]

The prefix must not depend on which problems are sampled together. It is therefore found from the
task card alone: the few-shot prompt and the text with which all queries begin, followed by each of
`PROBES`. A prompt whose tokens do not begin with this prefix, such as STaR's hinted query, shortens
the prefix of its call; the tokens of every prompt stay those of its text.

If the task is put as a chat (`TaskCard.chat`), the text of a prompt is the conversation as the
model's chat template writes it, and everything else is the same.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from restem.errors import UserError
from restem.records import Problem, TaskCard
from restem.rollout import conversation

PROBES = (
    "A", "a", "The", "In", "0", "12", "(", "$x", "\\frac", "'s", '"', "-", ".", "é", "数", "🧮",
    "\u0301", " ", " a", " 1", "\n", "\n\n", "\na", "\t", "\r\n",
)  # fmt: skip
"""Openings of texts: letters, digits, symbols, and white space that joins that before it."""


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The tokens of a task's prompts under one vocabulary."""

    prefix: tuple[int, ...]
    """Tokens with which all prompts begin, the start-of-text id included."""
    questions: tuple[tuple[int, ...], ...]
    """The other tokens of each prompt, in the order of the problems; empty only if the prompt is
    empty."""


def encode(card: TaskCard, inputs: Sequence[str], vocabulary) -> Prompts:
    """Returns the tokens of the prompts that ask the queries `inputs`."""
    prompts = {text: prompt_ids(card, text, vocabulary) for text in dict.fromkeys(inputs)}
    prefix = prefix_ids(card, vocabulary)
    for ids in prompts.values():
        prefix = _common(prefix, ids[:-1])  # a question has at least one token
    return Prompts(prefix, tuple(prompts[text][len(prefix) :] for text in inputs))


def prompt_text(card: TaskCard, inputs: str, vocabulary) -> str:
    """Returns the text of a whole prompt: the few-shot prompt and a query, or a conversation.

    Raises:
      UserError: the task is put as a chat, and the model has no chat template, or one that refuses
        the conversation.
    """
    if card.chat is None:
        return card.prefix + inputs
    return vocabulary.for_chat.chat_template.render(
        conversation.messages(card, inputs), date=card.chat.date, options=card.chat.options
    )


def text_ids(card: TaskCard, text: str, vocabulary) -> tuple[int, ...]:
    """Returns the tokens of a text that begins as the prompts do; a chat template writes the
    start-of-text token itself."""
    if card.chat is None:
        return vocabulary.prompt_ids(text)
    return tuple(vocabulary.encode(text, opening=True))


def prompt_ids(card: TaskCard, inputs: str, vocabulary) -> tuple[int, ...]:
    """Returns the tokens of a whole prompt."""
    return text_ids(card, prompt_text(card, inputs, vocabulary), vocabulary)


def of_task(card: TaskCard, vocabulary):
    """Returns the vocabulary whose end-of-text ids end a solution; chats add the end of a turn."""
    return vocabulary if card.chat is None else vocabulary.for_chat


def closing_id(card: TaskCard, vocabulary) -> int:
    """Returns the id that training puts after a solution: the end of the text, or of the turn."""
    # The lowest id ends a document in pretraining; the others end a chat turn.
    return min(vocabulary.eos_ids) if card.chat is None else vocabulary.turn_end_id


def prefix_ids(card: TaskCard, vocabulary) -> tuple[int, ...]:
    """Returns the tokens with which the prompts of a task begin, whatever its problems are."""
    first, *others = (prompt_ids(card, card.opening + probe, vocabulary) for probe in PROBES)
    for ids in others:
        first = _common(first, ids)
    return first


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the longest common prefix."""
    if second[: len(first)] == first:
        return first
    pairs = zip(first, second, strict=False)
    return first[: next((i for i, (a, b) in enumerate(pairs) if a != b), len(second))]


def are_within(
    card: TaskCard, problems: Sequence[Problem], vocabulary, max_question_tokens: int
) -> list[bool]:
    """Returns whether each problem's question is within a length limit.

    Args:
      card: the task.
      problems: problems in any order.
      vocabulary: vocabulary of the policy.
      max_question_tokens: length limit of a question in tokens.
    """
    questions = encode(card, [p.inputs for p in problems], vocabulary).questions
    return [len(question) <= max_question_tokens for question in questions]


def tokenize(
    card: TaskCard,
    problems: Sequence[Problem],
    vocabulary,
    *,
    max_new_tokens: int,
    max_length: int,
    inputs: Sequence[str] | None = None,
) -> Prompts:
    """Tokenises the prompts of `problems`.

    Args:
      card: the task, whose prefix is used.
      problems: the problems to ask.
      vocabulary: vocabulary of the policy.
      max_new_tokens: length limit of a solution in tokens.
      max_length: context length of the policy in tokens.
      inputs: queries to ask in place of the problems' own (STaR's hints).

    Raises:
      UserError: a prompt and its solution do not fit; trimming the prompt would lose the question.
    """
    prompts = encode(card, [p.inputs for p in problems] if inputs is None else inputs, vocabulary)
    prefix = len(prompts.prefix)
    for problem, question in zip(problems, prompts.questions, strict=True):
        need = prefix + len(question) + max_new_tokens
        if need > max_length:
            raise UserError(
                f"{card.task}: problem {problem.problem_id} needs {need} tokens (prefix {prefix},"
                f" question {len(question)}, solution {max_new_tokens}), the policy takes"
                f" {max_length}; lower max_new_tokens, use a shorter prompt, or leave long"
                " questions out of the E-step with generate.max_question_tokens"
            )
        if not prefix and not question:
            raise UserError(f"{card.task}: problem {problem.problem_id} has an empty prompt")
    return prompts


def _answer_in_chat(card: TaskCard, inputs: str, prompt: str, answer: str, vocabulary) -> str:
    """Returns what follows the prompt of a query where the chat template writes an answer: some
    write a space before it, others drop the white space around it."""
    template, chat = vocabulary.for_chat.chat_template, card.chat
    assert chat is not None
    turns = [*conversation.messages(card, inputs), {"role": "assistant", "content": answer}]
    whole = template.render(
        turns, add_generation_prompt=False, date=chat.date, options=chat.options
    )
    end = template.after_answer
    if not whole.startswith(prompt) or not whole.endswith(end):
        return answer
    return whole[len(prompt) :].removesuffix(end)


def target_ids(card: TaskCard, inputs: str, targets: str, vocabulary) -> tuple[int, ...]:
    """Returns the tokens of a solution that was not sampled, as they follow the tokens of a prompt.

    They are those of the whole text from the end of the prompt on. If a token of the whole text
    spans the seam, the prompt keeps its own tokens, which are those that the policy samples after,
    and the rest of that token is encoded apart:

        prompt "A:", solution "\\n\\n5"   whole text [A] [:\\n\\n] [5]
                                       prompt [A] [:], targets [\\n\\n] [5]

    Args:
      card: the task.
      inputs: query that the solution answers.
      targets: text of the solution; in a chat, the white space around it is the template's.
      vocabulary: vocabulary of the policy.
    """
    text = prompt_text(card, inputs, vocabulary)
    prompt = text_ids(card, text, vocabulary)
    if card.chat is not None:
        targets = _answer_in_chat(card, inputs, text, targets.strip(), vocabulary)
    whole = text_ids(card, text + targets, vocabulary)
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    before = b"".join(map(vocabulary.token_bytes, prompt))
    ends = list(itertools.accumulate((len(vocabulary.token_bytes(t)) for t in whole), initial=0))
    data = b"".join(map(vocabulary.token_bytes, whole))
    if data.startswith(before):
        for kept, end in enumerate(ends):
            if end < len(before):
                continue
            between = data[len(before) : end]
            try:
                ids = vocabulary.encode(between.decode())
            except UnicodeDecodeError:  # the token ends inside a character
                continue
            if b"".join(map(vocabulary.token_bytes, ids)) == between:
                return (*ids, *whole[kept:])
    return tuple(vocabulary.encode(targets))
