"""Prompts in tokens: the prefix that all problems of a task share, and each problem's question.

Prefix and question are tokenised separately, and solutions are trained on as sampled: a tokeniser
may merge characters across the boundary (SmolLM2 encodes two newlines as one token, but as two
before "Problem"), so tokenising the whole text would give tokens that the sampler never saw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from restem.errors import UserError
from restem.records import Problem, TaskCard


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The tokens of a task's prompts under one vocabulary."""

    prefix: tuple[int, ...]
    """Start-of-text id, if the family has one, then the few-shot prompt."""
    questions: tuple[tuple[int, ...], ...]
    """One token sequence per problem, in the order of the problems."""


def prefix_ids(card: TaskCard, vocabulary) -> tuple[int, ...]:
    """Returns the prefix in tokens, including the start-of-text id of the model family."""
    ids = vocabulary.encode(card.prefix, opening=True) if card.prefix else ()
    return (*vocabulary.start_ids, *ids)


def question_ids(card: TaskCard, inputs: str, vocabulary) -> tuple[int, ...]:
    """Returns a query in tokens; without a prefix, the query itself has the start-of-text id."""
    return tuple(vocabulary.encode(inputs, opening=not card.prefix))


def set_aside(
    card: TaskCard, problems: Sequence[Problem], vocabulary, max_question_tokens: int | None
) -> tuple[list[Problem], list[Problem]]:
    """Returns the problems whose questions are within the length limit, and the others.

    Args:
      card: the task.
      problems: problems in any order.
      vocabulary: vocabulary of the policy.
      max_question_tokens: length limit of a question in tokens; None: no limit.
    """
    kept: list[Problem] = []
    aside: list[Problem] = []
    for problem in problems:
        fits = max_question_tokens is None or (
            len(question_ids(card, problem.inputs, vocabulary)) <= max_question_tokens
        )
        (kept if fits else aside).append(problem)
    return kept, aside


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
    prefix = prefix_ids(card, vocabulary)
    inputs = [p.inputs for p in problems] if inputs is None else inputs
    questions = tuple(question_ids(card, text, vocabulary) for text in inputs)
    for problem, question in zip(problems, questions, strict=True):
        need = len(prefix) + len(question) + max_new_tokens
        if need > max_length:
            raise UserError(
                f"{card.task}: problem {problem.problem_id} needs {need} tokens (prefix"
                f" {len(prefix)}, question {len(question)}, solution {max_new_tokens}), the policy"
                f" takes {max_length}; lower max_new_tokens, use a shorter prompt, or leave long"
                " questions out of the E-step with generate.max_question_tokens"
            )
        if not prefix and not question:
            raise UserError(f"{card.task}: problem {problem.problem_id} has an empty prompt")
    return Prompts(prefix, questions)
