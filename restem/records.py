"""The nouns of a run, and the Parquet layout of each.

A *problem* is a question and how its answer is checked; a *sample* is one generated solution to it;
a *verdict* is the reward of a sample and the reason for it; an *example* is a weighted training
pair. Every arrow of the pipeline (generate -> verify -> select -> improve -> evaluate) is a file of
one of these.

This module imports neither JAX nor TensorFlow, and imports pyarrow only inside the functions that
make tables, because verification workers import it and must start in milliseconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question, and how its answer is checked."""

    problem_id: str
    """Unique within the task; stable across runs, machines and shards."""
    split: str
    """"train", "validation" or "test"."""
    inputs: str
    """Query between the few-shot prefix and the model's solution."""
    answer: str | None = None
    """Gold final answer; None for tasks whose grader runs programs."""
    tests: str | None = None
    """Tests as JSON, for tasks whose grader runs programs (APPS's `input_output`, or `{"test": ...,
    "entry_point": ...}`)."""
    solutions: tuple[str, ...] = ()
    """Human solutions in the format of the prompt: targets of supervised fine-tuning."""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Any JSON value: level, type, source file, ..."""


CHAT_DATE = "2024-07-26"
"""Date for chat templates that write today's: Llama 3.1's own default, the same on every day."""


@dataclasses.dataclass(frozen=True)
class Chat:
    """How an instruct model is prompted with a task, in turns of its chat template."""

    query: str = "{problem}"
    """User's turn, with `{problem}` in place of the problem."""
    form: str = "{problem}"
    """Form of the task's queries and shots, such as "Q: {problem}\\nA:", which turns leave out."""
    shots: str = "turns"
    """"turns" (each shot of the prefix is two turns) or "text" (all precede the problem in one
    turn of the user)."""
    system: str | None = None
    """Text of a system message; None: none."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Variables for the template, such as {"enable_thinking": False}."""
    date: str = CHAT_DATE
    """Date for templates that write today's, as YYYY-MM-DD."""


@dataclasses.dataclass(frozen=True)
class TaskCard:
    """Everything the steps of a run need to know about a task besides its problems.

    It is stored in the metadata of `problems/TASK.parquet` when SeqIO materialises the task, so
    sampling and verification hosts never import SeqIO.
    """

    task: str
    """Registered name, e.g. "math"."""
    prefix: str = ""
    """Few-shot prompt, the same for every problem; empty for zero-shot."""
    stop: tuple[str, ...] = ()
    """Strings that end a solution; the solution excludes the string that ended it."""
    stop_after: tuple[str, ...] = ()
    """Strings that end a solution; the solution includes the string that ended it."""
    grader: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "math"})
    """How a solution is checked: `kind` names a grader in `restem.verify.graders`; the other keys
    are the grader's options."""
    prompt_source: str = ""
    """Where the prefix came from: "restem" or the name of a published file."""
    max_new_tokens: int = 512
    """Length limit of a solution in tokens, unless the run sets another limit."""
    temperature: float = 0.0
    """Temperature of the single answer scored for pass@1; 0 is greedy."""
    opening: str = ""
    """Text with which the queries of all problems begin, such as "Problem:\\n"; its tokens are
    computed once, together with those of the prefix."""
    chat: Chat | None = None
    """How an instruct model is prompted; None: prefix and query are the prompt."""
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """How the problems were chosen, for a human reader: how many a filter removed, the layout of
    the source, the size of a split that restem defines. Any JSON value."""

    @property
    def is_graded(self) -> bool:
        """Whether a program grades the solutions; if not, humans do."""
        return self.grader["kind"] != "none"

    @property
    def prefix_sha256(self) -> str:
        """SHA-256 of what all prompts share: the prefix, and how a chat shows it."""
        text = self.prefix
        if self.chat is not None:
            text += "\0" + json.dumps(dataclasses.asdict(self.chat), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


CORRECT_REWARD = 1.0
"""Lowest reward of a correct sample, unless the grader decides otherwise."""

NO_ANSWER_METHOD = "none"
"""`Verdict.method` of a sample in which the grader found no usable final answer or program."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The reward of a sample, and the reason for it."""

    reward: float
    """Non-negative; 1.0 or 0.0 if the grader is binary."""
    method: str = ""
    """How the grader decided: "string", "numeric", "symbolic", "set", "tests", "timeout", ..."""
    extracted: str | None = None
    """Final answer or program found in the sample; None if there was none."""
    normalized: str | None = None
    """Extracted answer in the normalised form that was compared."""
    detail: str = ""
    """Why a sample failed, in one line for a human reader."""
    passed: int | None = None
    """Number of tests that passed before the first failure; None for answers."""
    total: int | None = None
    """Number of tests; None for answers."""
    seconds: float | None = None
    """Wall-clock seconds spent running the tests; None for answers; not stored."""
    sandbox: str = ""
    """Names of the sandbox layers in force while the program ran; empty for answers."""
    correct: bool = None  # type: ignore[assignment]  # a bool once constructed
    """Whether the sample counts as correct; by default, whether `reward` is at least
    `CORRECT_REWARD`."""

    def __post_init__(self):
        if self.correct is None:
            object.__setattr__(self, "correct", bool(self.reward >= CORRECT_REWARD))

    @property
    def unformatted(self) -> bool:
        """Whether the grader looked for a final answer or program and found none.

        Always False for graders that extract nothing, for timeouts and for errors.
        """
        return self.extracted is None and self.method == NO_ANSWER_METHOD

    @property
    def final_answer(self) -> str | None:
        """The final answer in the form that was compared; None if the grader could not read it."""
        if self.method == NO_ANSWER_METHOD:
            return self.normalized or None
        return self.normalized or self.extracted


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """Returns the fields of a verdict for JSON or Arrow; `Verdict(**fields)` is the inverse.

    An instance of a subclass, which a reward function may return, is reduced to a plain `Verdict`.
    """
    return {field.name: getattr(verdict, field.name) for field in dataclasses.fields(Verdict)}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One generated solution."""

    problem_id: str
    sample_index: int
    """0, 1, ... within a problem; policy, problem, seed and this index determine the sample."""
    text: str
    """The solution, without the stop string that ended it."""
    token_ids: tuple[int, ...]
    """Sampled token ids, including the end-of-sequence id if the model produced one. Training uses
    these ids. Empty in samples of a source without tokens, such as human solutions."""
    logprob: float
    """Sum of log p(token | preceding tokens) in nats, under the policy's own distribution:
    temperature 1, no truncation."""
    finish_reason: str
    """"eos", "stop" (a stop string) or "length" (truncated; never trained on)."""
    reward: float = None  # type: ignore[assignment]  # a float wherever samples are read
    """None until verified."""
    verdict: Verdict | None = None
    inputs: str | None = None
    """Query if it differs from the problem's (STaR's hinted queries); otherwise None."""
    source: str = "policy"
    """Author of the solution: "policy", "human", "rationalization", "search", "chain" (the state of
    a Markov chain, a copy of an earlier sample), "completions" (an output given to `restem score`),
    or a policy reference."""

    @property
    def correct(self) -> bool:
        """Whether the verdict counts the sample as correct; False until verified."""
        if self.verdict is not None:
            return self.verdict.correct
        return self.reward is not None and self.reward >= CORRECT_REWARD

    @property
    def unformatted(self) -> bool:
        """Whether the grader found no final answer or program; see `Verdict.unformatted`."""
        return self.verdict is not None and self.verdict.unformatted

    @property
    def final_answer(self) -> str | None:
        """The sample's final answer in the form that was compared; None if it has none."""
        return None if self.verdict is None else self.verdict.final_answer


COMPLETIONS_SOURCE = "completions"
"""Source of the outputs that `restem score` grades."""

UNVERIFIED_SOURCES = ("human", "chain")
"""Sources of samples that the verifier does not grade: human solutions are correct by definition,
and the state of a Markov chain keeps the reward with which it was accepted."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A weighted training pair of the M-step (equation 3 of the paper)."""

    problem_id: str
    sample_index: int
    inputs: str
    """Query after the prefix; excluded from the loss."""
    targets: str
    """Solution; the loss covers its tokens only."""
    target_ids: tuple[int, ...]
    """Token ids of the solution as sampled; empty if only text exists (human solutions)."""
    weight: float
    """r(x, y) in equation 3: a float, never rounded."""


def regraded(sample: Sample, verdict: Verdict) -> Sample:
    """Returns the sample with the reward and reason of another verdict."""
    return dataclasses.replace(sample, reward=verdict.reward, verdict=verdict)


def problem_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("problem_id", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("inputs", pa.string(), nullable=False),
            ("answer", pa.string()),
            ("tests", pa.string()),
            ("solutions", pa.list_(pa.string())),
            ("metadata", pa.string()),
        ]
    )


def sample_schema() -> pa.Schema:
    import pyarrow as pa

    verdict = pa.struct(
        [
            ("reward", pa.float32()),
            ("method", pa.string()),
            ("extracted", pa.string()),
            ("normalized", pa.string()),
            ("detail", pa.string()),
            ("correct", pa.bool_()),
            ("passed", pa.int32()),
            ("total", pa.int32()),
            ("sandbox", pa.string()),  # no `seconds`: a resumed run must equal an uninterrupted one
        ]
    )
    return pa.schema(
        [
            pa.field("problem_id", pa.string(), nullable=False),
            pa.field("sample_index", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            ("token_ids", pa.list_(pa.int32())),
            ("logprob", pa.float32()),
            ("finish_reason", pa.string()),
            ("reward", pa.float32()),
            ("verdict", verdict),
            ("inputs", pa.string()),
            ("source", pa.string()),
        ]
    )


def example_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("problem_id", pa.string(), nullable=False),
            pa.field("sample_index", pa.int32(), nullable=False),
            pa.field("inputs", pa.string(), nullable=False),
            pa.field("targets", pa.string(), nullable=False),
            ("target_ids", pa.list_(pa.int32())),
            pa.field("weight", pa.float32(), nullable=False),
        ]
    )


PROBLEMS_PER_GROUP = 4096
"""Problems per row group of `problems/TASK.parquet`, the unit in which ranges are read."""

_CARD_KEY = b"restem.task"
_ROWS_KEY = b"restem.problem_rows"


def problems_to_table(problems: Sequence[Problem], card: TaskCard) -> pa.Table:
    """Returns problems as a table whose schema metadata carries the task card."""
    import pyarrow as pa

    schema = problem_schema().with_metadata(
        {_CARD_KEY: json.dumps(dataclasses.asdict(card), sort_keys=True).encode()}
    )
    parts = [schema.empty_table()]
    for start in range(0, len(problems), PROBLEMS_PER_GROUP):
        rows = [
            {
                **vars(problem),
                "solutions": list(problem.solutions),
                "metadata": json.dumps(dict(problem.metadata), sort_keys=True),
            }
            for problem in problems[start : start + PROBLEMS_PER_GROUP]
        ]
        parts.append(pa.Table.from_pylist(rows, schema=schema))
    return pa.concat_tables(parts)


def card_of(schema: pa.Schema) -> TaskCard:
    """Returns the task card in the metadata of a table of problems.

    Raises:
      ValueError: the table has no task card.
    """
    stored = (schema.metadata or {}).get(_CARD_KEY)
    if stored is None:
        raise ValueError("this table has no task card, so restem did not write it")
    fields = json.loads(stored)
    for name in ("stop", "stop_after"):
        fields[name] = tuple(fields[name])
    if fields.get("chat") is not None:
        fields["chat"] = Chat(**fields["chat"])
    return TaskCard(**fields)


def problems_from_table(table: pa.Table) -> tuple[TaskCard, list[Problem]]:
    """Inverts `problems_to_table`.

    Raises:
      ValueError: the table has no task card.
    """
    return card_of(table.schema), problems_of_rows(table)


def problems_of_rows(table: pa.Table) -> list[Problem]:
    """Returns the problems in some rows of a table of problems."""
    problems = []
    for row in table.to_pylist():
        row["solutions"] = tuple(row["solutions"] or ())
        row["metadata"] = json.loads(row["metadata"] or "{}")
        problems.append(Problem(**row))
    return problems


def samples_to_table(
    samples: Iterable[Sample], problem_rows: tuple[int, int] | None = None
) -> pa.Table:
    """Returns samples as a table of `sample_schema`.

    Args:
      samples: the samples.
      problem_rows: rows of `problems/TASK.parquet`, [start, stop), that hold the samples' problems
        and perhaps others; None if unknown.
    """
    import pyarrow as pa

    rows = []
    for sample in samples:
        row = dict(vars(sample))
        row["token_ids"] = list(sample.token_ids)
        row["verdict"] = None if sample.verdict is None else verdict_fields(sample.verdict)
        rows.append(row)
    schema = sample_schema()
    if problem_rows is not None:
        schema = schema.with_metadata({_ROWS_KEY: json.dumps(problem_rows).encode()})
    return pa.Table.from_pylist(rows, schema=schema)


def problem_rows_of(schema: pa.Schema) -> tuple[int, int] | None:
    """Returns `problem_rows` of a table of samples; None if unknown."""
    stored = (schema.metadata or {}).get(_ROWS_KEY)
    if stored is None:
        return None
    start, stop = json.loads(stored)
    return start, stop


def samples_from_table(table: pa.Table) -> list[Sample]:
    """Inverts `samples_to_table`; also reads version 0.1's files, whose verdicts lack `correct`."""
    samples = []
    for row in table.to_pylist():
        row["token_ids"] = tuple(row["token_ids"] or ())
        row["verdict"] = None if row["verdict"] is None else Verdict(**row["verdict"])
        samples.append(Sample(**row))
    return samples


def examples_to_table(examples: Iterable[Example]) -> pa.Table:
    """Returns examples as a table of `example_schema`."""
    import pyarrow as pa

    rows = [dict(vars(e), target_ids=list(e.target_ids)) for e in examples]
    return pa.Table.from_pylist(rows, schema=example_schema())


def examples_from_table(table: pa.Table) -> list[Example]:
    """Inverts `examples_to_table`."""
    return [
        Example(**dict(row, target_ids=tuple(row["target_ids"] or ()))) for row in table.to_pylist()
    ]


def stable_key(*parts: Any) -> int:
    """Returns a 31-bit hash of `parts`, the same on every machine and in every run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF
