"""Matching of rows of outputs to the problems that they answer."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

from absl import logging

from restem.errors import UserError
from restem.evaluation.completions import Completion
from restem.records import COMPLETIONS_SOURCE, Problem, Sample, TaskCard
from restem.sampling.stopping import Stops

_FORM_ROWS = 32
"""Number of rows that are read to find the form around a question."""


Key = tuple[str, str]
"""(task, problem_id): ids are unique within a task only."""


class Matcher:
    """Finds the problem that a row answers.

    Ids match if they are the same, or if the row has only the number of an id that consists of a
    word and a number (2361 for APPS's "train-2361"). Texts match up to white space. A row's text
    may be the problem's query, a whole prompt that ends with the query, or the question without
    the form that the task puts around it. That form ("Q: " and "A:" of GSM8K) is the one in which
    most of the first rows' texts are found, among those that begin and end all queries. Problems
    with the same text take the rows in turn.
    """

    def __init__(self, problems: Mapping[Key, Problem], completions: Iterable[Completion]):
        """Learns the form around a question from the completions."""
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
            # Only at the start of a word, so that "3 + 4" does not match the end of "13 + 4".
            if 0 < length < len(text) and text[-length - 1].isspace():
                keys = self._by_query.get(text[-length:])
                if keys:
                    return keys
        return []

    def _form(self, texts: Sequence[str]) -> tuple[str, str]:
        """Returns the (head, tail) that the task puts around a question."""
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
    """Returns the longest common prefix of all texts."""
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
    """Returns ungraded samples by task, in the order of problem and sample index.

    Args:
      completions: rows of the files.
      problems: problems that the rows may answer.
      cards: task cards by name.
      what: short description of the problems, for the message.

    Raises:
      UserError: if rows match none of the problems; lists the rows.
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
                    source=COMPLETIONS_SOURCE,
                )
            )
    return samples


def _between_neighbours(
    keys: Sequence[Key | None],
    completions: Sequence[Completion],
    problems: Mapping[Key, Problem],
) -> list[Key | None]:
    """Matches a row with the only problem that fits between its neighbours.

    A published question may be damaged: BIG-Bench Hard's file has only "(A) The NB" of the 89th
    question of snarks, while the published outputs answer the whole question. Such a row matches
    the one problem between those of its neighbours, if no other row does and the gold answers
    agree.
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
    """Returns the text up to where sampling would have stopped, ignoring leading blank lines."""
    blank = len(text) - len(text.lstrip())
    data = text[blank:].encode("utf-8", "surrogatepass")
    found = stops.find(data, 0)
    return text if found is None else text[:blank] + data[: found[1]].decode("utf-8", "replace")
