"""Which problem each row of outputs answers."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

from absl import logging

from restem.errors import UserError
from restem.evaluation.completions import Completion
from restem.records import Problem, Sample, TaskCard
from restem.sampling.stopping import Stops

_FORM_ROWS = 32
"""Rows that are looked at to find the form around a question."""


Key = tuple[str, str]
"""(task, problem_id): ids are unique within a task only."""


class Matcher:
    """Finds the problem that a row is about.

    By id: the same, or a number where ids are a word and that number ("train-2361" for APPS's
    2361). By query, white space made alike: the problem's query; else the end of the row's text,
    which is then a whole prompt; else the query within the form that the task puts around it. That
    form is what most of the first rows are found in, if all queries begin and end with it: "Q: "
    and "A:" of GSM8K. Problems that are asked in the same words take the rows in turn.
    """

    def __init__(self, problems: Mapping[Key, Problem], completions: Iterable[Completion]):
        """Args: problems to find; completions from which the form is learnt."""
        self._by_id: dict[str, list[Key]] = {}
        self._by_query: dict[str, list[Key]] = {}
        for key, problem in problems.items():
            self._by_id.setdefault(key[1], []).append(key)
            self._by_query.setdefault(_plain(problem.inputs), []).append(key)
        for name in list(self._by_id):
            if number := re.fullmatch(r"[^\d]+0*(\d+)", name):
                self._by_id.setdefault(number[1], []).extend(self._by_id[name])
        self._lengths = sorted({len(query) for query in self._by_query}, reverse=True)
        self._turns: collections.Counter[str] = collections.Counter()
        self._inside: dict[str, list[Key]] = {}
        head, tail = self._form([_plain(c.query) for c in completions if c.query])
        if head or tail:
            for query, keys in self._by_query.items():
                self._inside[query[len(head) : len(query) - len(tail)].strip()] = keys

    def find(self, completion: Completion) -> Key | None:
        """Returns the problem, or None if no problem or several match."""
        if completion.problem_id is not None:
            keys = self._by_id.get(completion.problem_id, [])
            if len(keys) == 1 or completion.query is None:
                return keys[0] if len(keys) == 1 else None
        text = _plain(completion.query or "")
        keys = self._by_query.get(text) or self._at_the_end(text) or self._inside.get(text, [])
        if not keys:
            return None
        turn = self._turns[text] % len(keys)
        self._turns[text] += 1
        return keys[turn]

    def _at_the_end(self, text: str) -> list[Key]:
        for length in self._lengths:
            # A whole word apart, so that "3 + 4" does not end "13 + 4".
            if 0 < length < len(text) and text[-length - 1].isspace():
                keys = self._by_query.get(text[-length:])
                if keys:
                    return keys
        return []

    def _form(self, texts: Sequence[str]) -> tuple[str, str]:
        """(head, tail) that the task puts around a question."""
        queries = list(self._by_query)
        if not queries:
            return "", ""
        common_head = _shared(queries)
        common_tail = _shared([query[::-1] for query in queries])[::-1]
        votes: collections.Counter[tuple[str, str]] = collections.Counter()
        for text in [t for t in texts if t and t not in self._by_query][:_FORM_ROWS]:
            for query in queries:
                head, found, tail = query.partition(text)
                if found and common_head.startswith(head) and common_tail.endswith(tail):
                    votes[head, tail] += 1
        return votes.most_common(1)[0][0] if votes else ("", "")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _shared(texts: Sequence[str]) -> str:
    """The beginning that all texts have in common."""
    low, high = min(texts), max(texts)
    length = 0
    while length < min(len(low), len(high)) and low[length] == high[length]:
        length += 1
    return low[:length]


def match(
    completions: Sequence[Completion],
    problems: Mapping[Key, Problem],
    cards: Mapping[str, TaskCard],
    *,
    what: str,
) -> dict[str, list[Sample]]:
    """Samples by task, in the order of problem and sample index, not graded yet.

    Args:
      completions: what was read.
      problems: those that may have been asked.
      cards: of their tasks, by name.
      what: the problems in a word or two, for the message.

    Raises:
      UserError: rows that are about none of the problems; lists them.
    """
    matcher = Matcher(problems, completions)
    keys = _between_neighbours([matcher.find(c) for c in completions], completions, problems)
    outputs: dict[Key, list[tuple[str, str]]] = {}
    unmatched = []
    for completion, key in zip(completions, keys, strict=True):
        if key is None:
            unmatched.append(completion)
            continue
        texts = [(text, completion.finish_reason) for text in completion.outputs]
        outputs.setdefault(key, []).extend(texts)
    if unmatched:
        shown = "; ".join(
            f"{c.where}: {_plain(c.problem_id or c.query or '')[-60:]!r}" for c in unmatched[:20]
        )
        more = f"; and {len(unmatched) - 20} more" if len(unmatched) > 20 else ""
        raise UserError(
            f"{len(unmatched)} of {len(completions)} rows are about no {what} ({shown}{more});"
            " name the task that they belong to, or give problem_id"
        )
    samples: dict[str, list[Sample]] = {}
    for (task, problem_id), found in sorted(outputs.items()):
        stops = Stops.of(cards[task].stop, cards[task].stop_after)
        for index, (text, finish_reason) in enumerate(found):
            samples.setdefault(task, []).append(
                Sample(
                    problem_id=problem_id,
                    sample_index=index,
                    text=cut(text, stops),
                    token_ids=(),
                    logprob=float("nan"),
                    finish_reason=finish_reason,
                    source="completions",
                )
            )
    return samples


def _between_neighbours(
    keys: Sequence[Key | None],
    completions: Sequence[Completion],
    problems: Mapping[Key, Problem],
) -> list[Key | None]:
    """Fills a gap that nothing but one problem fits.

    A published statement may be damaged: "(A) The NB" is all of the 89th of BIG-Bench Hard's snarks
    that its file holds, while the published outputs answer the whole of it. Such a row stands for
    the one problem between those of its neighbours, if no other row does and their golds agree.
    """
    order = list(problems)
    place = {key: index for index, key in enumerate(order)}
    filled = list(keys)
    for i in range(1, len(keys) - 1):
        before, after = keys[i - 1], keys[i + 1]
        if keys[i] is not None or before is None or after is None:
            continue
        if place[after] - place[before] == 2:
            key = order[place[before] + 1]
            if key not in keys and problems[key].answer == completions[i].target:
                logging.warning(
                    "%s: taken for %s of %s, which its neighbours leave open",
                    completions[i].where, key[1], key[0],
                )  # fmt: skip
                filled[i] = key
    return filled


def cut(text: str, stops: Stops) -> str:
    """The text up to where sampling would have stopped; blank lines before it stop nothing."""
    blank = len(text) - len(text.lstrip())
    data = text[blank:].encode("utf-8", "surrogatepass")
    found = stops.find(data, 0)
    return text if found is None else text[:blank] + data[: found[1]].decode("utf-8", "replace")
