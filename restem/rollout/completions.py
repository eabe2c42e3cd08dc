"""The E-step's samples from another engine: vLLM, SGLang, tpu-inference or any other.

`write_requests` writes what the engine is asked, one JSON object per problem:

    {"problem_id": "a", "prompt_token_ids": [1, 5, 9], "n": 32, "temperature": 0.7, "top_k": 40,
     "top_p": 1.0, "max_tokens": 512, "stop": ["\\nProblem:"], "stop_token_ids": [2],
     "include_stop_str_in_output": true}

`Completed` is a rollout whose samples come from files of the engine's outputs, one JSON object per
sample. Only `problem_id` and one of `text` and `token_ids` are required:

    {"problem_id": "a", "text": " 42", "token_ids": [7, 8, 2], "logprob": -3.5,
     "finish_reason": "stop"}

The samples of a problem are numbered in the order of the lines. Text is cut where the sampler would
have stopped, so it may include or exclude the stop string. If token ids are given, the text is
theirs, and the M-step trains on them as on sampled ids; otherwise it tokenises the text.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from restem.checkpoints.policy import Policy
from restem.data import fields, folder
from restem.errors import UserError
from restem.records import Problem, Sample, TaskCard
from restem.rollout import prompts
from restem.rollout.rollout import Key, Rollout
from restem.runtime import storage
from restem.sampling import Sampling
from restem.sampling.stopping import Stops
from restem.tokenizers.vocabulary import Vocabulary

FINISHED = {"eos": "eos", "stop": "eos", "length": "length"}
"""Reasons by which engines say that a sample ended, and ours, unless a stop string was found."""


def write_requests(
    path: epath.Path,
    card: TaskCard,
    problems: Sequence[Problem],
    policy: Policy,
    *,
    num_samples: int,
    sampling: Sampling,
    max_new_tokens: int | None,
) -> None:
    """Writes the requests of an E-step as JSON lines.

    Args:
      path: the file.
      card: the task.
      problems: the problems of the E-step.
      policy: the policy that is sampled, of which config and vocabulary are used.
      num_samples: solutions per problem.
      sampling: temperature and truncation.
      max_new_tokens: length limit of a solution in tokens; None: the task's limit.

    Raises:
      UserError: a prompt and its solution exceed the policy's context length.
    """
    limit = max_new_tokens or card.max_new_tokens
    tokens = prompts.tokenize(
        card, problems, policy.vocabulary, max_new_tokens=limit, max_length=policy.config.max_length
    )
    lines = [
        json.dumps(
            {
                "problem_id": problem.problem_id,
                "prompt_token_ids": [*tokens.prefix, *question],
                "n": num_samples,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "max_tokens": limit,
                "stop": [*card.stop, *card.stop_after],
                "stop_token_ids": sorted(prompts.of_task(card, policy.vocabulary).eos_ids),
                "include_stop_str_in_output": True,
            }
        )
        for problem, question in zip(problems, tokens.questions, strict=True)
    ]
    storage.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


@dataclasses.dataclass(frozen=True)
class Completed(Rollout):
    """A rollout that samples nothing: its samples were read from files."""

    files: tuple[str, ...] = ()
    """Files of the samples."""
    drawn: Mapping[str, Sequence[Sample]] = dataclasses.field(default_factory=dict, compare=False)
    """Samples by problem, not yet verified."""

    @classmethod
    def of(
        cls, files: Sequence[str], *, card: TaskCard, policy: Policy, **fields: Any
    ) -> Completed:
        """Reads the files; see `read` for errors, and `Rollout` for the other fields."""
        drawn = read(files, card, policy)
        return cls(policy=policy, card=card, files=tuple(files), drawn=drawn, **fields)

    def _completed(
        self,
        problems: Sequence[Problem],
        num_samples: int,
        inputs: Sequence[str] | None,
        first_sample: int,
        source: str,
        on_wait: Callable[[str], None],
        skip: frozenset[Key],
    ) -> Iterator[list[tuple[Problem, Sample]]]:
        """Yields the samples of the files; see `Rollout._completed`."""
        del on_wait
        if inputs is not None or first_sample:
            raise UserError(
                "this method samples more than the file of completions holds (generate.extend):"
                " leave out --completions"
            )
        for problem in problems:
            drawn = self.drawn.get(problem.problem_id, ())[:num_samples]
            yield [
                (problem, dataclasses.replace(sample, source=source))
                for sample in drawn
                if (sample.problem_id, sample.sample_index) not in skip
            ]

    def check(self, problems: Sequence[Problem], num_samples: int) -> None:
        """Checks that the files hold exactly the samples of an E-step.

        Raises:
          UserError: samples are missing, unknown or too many; one line names an example.
        """
        files = ", ".join(self.files)
        unknown = self.drawn.keys() - {problem.problem_id for problem in problems}
        if unknown:
            raise UserError(
                f"{files}: samples of {len(unknown)} problems that this E-step does not sample,"
                f" such as {min(unknown)!r}; `restem generate --requests` writes those it does"
            )
        counts = {p.problem_id: len(self.drawn.get(p.problem_id, ())) for p in problems}
        for what, wrong in (
            ("fewer", {p: n for p, n in counts.items() if n < num_samples}),
            ("more", {p: n for p, n in counts.items() if n > num_samples}),
        ):
            if wrong:
                example = min(wrong)
                raise UserError(
                    f"{files}: {len(wrong)} of {len(problems)} problems have {what} than"
                    f" generate.num_samples={num_samples} samples, such as {example!r} with"
                    f" {wrong[example]}"
                )


def read(files: Sequence[str], card: TaskCard, policy: Policy) -> dict[str, list[Sample]]:
    """Returns the samples of files by problem, in the order of the lines.

    Args:
      files: JSON lines, `.jsonl` or `.jsonl.gz`.
      card: the task, whose stop strings end a sample.
      policy: the policy that was sampled, of which the vocabulary is used.

    Raises:
      UserError: a line cannot be read; the message names it.
    """
    vocabulary = prompts.of_task(card, policy.vocabulary)
    lines = _Lines(Stops.of(card.stop, card.stop_after), vocabulary, policy.reference)
    found: dict[str, list[Sample]] = collections.defaultdict(list)
    unstated = 0
    for file in files:
        for number, row in folder.read_jsonl(file):
            sample = lines.sample(row, f"{file}, line {number}")
            if not sample.finish_reason:
                unstated += 1
                sample = dataclasses.replace(sample, finish_reason="eos")
            of_problem = found[sample.problem_id]
            of_problem.append(dataclasses.replace(sample, sample_index=len(of_problem)))
    if unstated:
        logging.warning(
            "%d samples have no finish_reason and no stop string: they count as finished", unstated
        )
    return dict(found)


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The reader of one line."""

    stops: Stops
    vocabulary: Vocabulary
    reference: str

    def sample(self, row: Mapping[str, Any], where: str) -> Sample:
        """Returns the sample of a line, with finish reason "" if nothing says how it ended."""
        problem_id, text, ids = row.get("problem_id"), row.get("text"), row.get("token_ids")
        if not isinstance(problem_id, str):
            raise UserError(f"{where}: no 'problem_id', which names the problem")
        if not isinstance(text, str) and (text is not None or not ids):
            raise UserError(f"{where}: needs 'text', a string, or 'token_ids'")
        if text is not None:
            fields.text(text, "text", where=where)
        reason = _reason(row.get("finish_reason"), where)
        if ids:
            own, ids, ended = self._decoded(ids, where)
            if text is not None and not own.startswith(self._cut(text)[0]):
                raise UserError(
                    f"{where}: 'token_ids' do not spell 'text' with the vocabulary of"
                    f" {self.reference}; sample with this policy and its tokenizer"
                )
            text, reason = own, ended or reason
        else:
            text, stopped = self._cut(text or "")
            reason = "stop" if stopped else reason
        return Sample(
            problem_id=problem_id,
            sample_index=0,
            text=text,
            token_ids=tuple(ids or ()),
            logprob=_number(row.get("logprob"), where),
            finish_reason=reason,
        )

    def _cut(self, text: str) -> tuple[str, bool]:
        """Returns the text up to where sampling stops, and whether a stop string ended it."""
        data = text.encode()
        found = self.stops.find(data, 0)
        return (text, False) if found is None else (data[: found[1]].decode("utf-8"), True)

    def _decoded(self, ids: Any, where: str) -> tuple[str, tuple[int, ...], str]:
        """Returns text, ids and finish reason as the sampler would; "" if the ids do not say."""
        vocabulary = self.vocabulary
        if not isinstance(ids, list) or not all(
            type(i) is int and 0 <= i < vocabulary.size for i in ids
        ):
            raise UserError(
                f"{where}: 'token_ids' are not ids of the vocabulary of {self.reference}"
            )
        ended = next((n for n, i in enumerate(ids) if i in vocabulary.eos_ids), None)
        # The end of the text is no part of it, also where the vocabulary spells it.
        text, stopped = self._cut(vocabulary.decode(ids[:ended]))
        if ended is not None:
            ids = ids[: ended + 1]
        return text, tuple(ids), "stop" if stopped else "eos" if ended is not None else ""


def _reason(given: Any, where: str) -> str:
    """Returns our name of an engine's finish reason, "" if it gives none."""
    if isinstance(given, Mapping):  # SGLang: {"type": "stop", "matched": 2}
        given = given.get("type")
    if given is None:
        return ""
    if not isinstance(given, str) or given not in FINISHED:
        raise UserError(
            f"{where}: finish_reason is {given!r:.60}, not {' or '.join(FINISHED)}; sample it again"
        )
    return FINISHED[given]


def _number(given: Any, where: str) -> float:
    if given is None:
        return math.nan
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise UserError(f"{where}: 'logprob' is {given!r:.60}, not a number")
    try:
        return float(given)
    except OverflowError:  # an integer of hundreds of digits
        raise UserError(f"{where}: 'logprob' is {given!r:.60}, too large") from None
