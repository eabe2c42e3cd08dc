"""The files of a run, as the report sees them: whatever is there so far.

A run in progress reports too, so everything here is optional: a missing file is a `None` or an
empty mapping, never an error. Only a file that is there and unreadable is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from restem import records
from restem.errors import UserError
from restem.evaluation import comparisons
from restem.runtime import storage

OUTCOMES = ("unverified", "truncated", "no answer", "incorrect", "not kept", "kept")
"""What became of a sample, as its own row and the training set tell it. "not kept" is correct but a
duplicate or over the cap: `selection.json` alone knows how many of each."""


@dataclasses.dataclass(frozen=True)
class SampleTable:
    """The samples of one iteration (or the answers of one evaluation), without their text."""

    paths: tuple[epath.Path, ...]
    """Parquet files, in order."""
    problem_id: np.ndarray
    """[n] str."""
    sample_index: np.ndarray
    """[n] int32."""
    reward: np.ndarray
    """[n] float32; NaN until verified."""
    correct: np.ndarray
    """[n] float32, 1 or 0; NaN until verified."""
    finish_reason: np.ndarray
    """[n] str; "" where unknown."""
    method: np.ndarray
    """[n] str, the verdict's; "" where there is none."""
    unformatted: np.ndarray
    """[n] bool: the grader found no final answer or program in the text."""
    tokens: np.ndarray
    """[n] int32, length of the solution in tokens."""
    kept: np.ndarray
    """[n] bool: the sample is in the training set."""
    file: np.ndarray
    """[n] int32 index into `paths`."""
    row: np.ndarray
    """[n] int32 row within the file."""

    def __len__(self) -> int:
        return len(self.problem_id)

    @property
    def outcome(self) -> np.ndarray:
        """[n] one of `OUTCOMES`."""
        correct = self.correct > 0
        return np.select(
            [
                self.kept,
                np.isnan(self.reward),
                self.finish_reason == "length",
                correct,
                self.unformatted,
            ],
            ["kept", "unverified", "truncated", "not kept", "no answer"],
            "incorrect",
        )

    def texts(self, rows: Sequence[int]) -> Iterator[tuple[int, records.Sample]]:
        """(position in this table, whole sample) of some rows, one file in memory at a time."""
        wanted = np.asarray(rows, np.int64)
        for index in np.unique(self.file[wanted]) if len(wanted) else ():
            inside = wanted[self.file[wanted] == index]
            table = storage.read_table(self.paths[index]).take(self.row[inside])
            yield from zip(inside.tolist(), records.samples_from_table(table), strict=True)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evals/NAME.json."""

    name: str
    """Of the file: the task, with the split where it is not the test's."""
    task: str
    split: str
    values: Mapping[str, Any]
    """What the file holds."""

    @property
    def pass1(self) -> float | None:
        """Pass@1; of an exam that a person graded, the share of its points."""
        found = number(self.values.get("pass@1"))
        return number(self.values.get("score")) if found is None else found

    @property
    def interval(self) -> tuple[float, float] | None:
        bounds = self.values.get("ci95")
        if isinstance(bounds, Sequence) and len(bounds) == 2 and None not in map(number, bounds):
            return float(bounds[0]), float(bounds[1])
        return None

    @property
    def count(self) -> int | None:
        n = number(self.values.get("n"))
        return None if n is None else int(n)

    def curve(self, name: str) -> list[tuple[int, float]]:
        """A {"1": .., "8": ..} entry ("pass@k" or "maj@k") as sorted (k, value) pairs."""
        entry = self.values.get(name)
        pairs = entry.items() if isinstance(entry, Mapping) else ()
        return sorted((int(k), float(v)) for k, v in pairs if number(v) is not None)


@dataclasses.dataclass(frozen=True)
class Iteration:
    """One E-step and M-step; number 0 has only the evaluations of the base policy."""

    number: int
    path: epath.Path
    chosen: bool
    """Validation reward chose this policy as the run's result."""
    evals: Mapping[str, Evaluation]
    """By name."""
    selection: Mapping[str, Any]
    train: Mapping[str, Any]
    """Steps, losses, validation rewards of the M-step."""
    generate: Mapping[str, Any]
    seconds: Mapping[str, float]
    """Wall-clock time of each step."""

    def evaluation(self, task: str, split: str = "test") -> Evaluation | None:
        for evaluation in self.evals.values():
            if evaluation.task == task and evaluation.split == split:
                return evaluation
        return None

    def samples(self) -> SampleTable | None:
        """The E-step's samples so far; None where there are none."""
        paths = _files(self.path / "samples", "*.parquet")
        if not paths:
            return None
        kept: set[tuple[str, int]] = set()
        for path in _files(self.path / "dataset", "*.parquet"):
            table = storage.read_table(path)
            ids = table.column("problem_id").to_pylist()
            kept.update(zip(ids, table.column("sample_index").to_pylist(), strict=True))
        return read_samples(paths, kept)

    def answers(self, name: str) -> SampleTable | None:
        """Every answer of one evaluation; sample 0 is the greedy one."""
        path = self.path / "evals" / f"{name}.parquet"
        return read_samples([path], set()) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Run:
    """A workdir."""

    path: epath.Path
    label: str
    """What the figures call it; short and printable."""
    method: str
    """Where run.json or summary.json names it; else ""."""
    model: str
    """Reference of the base policy."""
    task: str
    """The task it trains on."""
    seed: int | None
    in_progress: bool
    """An iteration has begun whose policy is not evaluated yet, or none has."""
    human: bool
    """It trains on human solutions (SFT), not on samples."""
    identity: Mapping[str, Any]
    """run.json."""
    contamination: Mapping[str, Mapping[str, Any]]
    """By task, what contamination.json says of its test problems; {} where it was not checked."""
    iterations: tuple[Iteration, ...]
    """In order; 0 first where it exists."""

    @property
    def evaluated(self) -> list[Iteration]:
        """Iterations with a test pass@1 on the run's own task."""
        found = ((i, i.evaluation(self.task)) for i in self.iterations)
        return [i for i, e in found if e is not None and e.pass1 is not None]

    @property
    def base(self) -> Iteration | None:
        return next((i for i in self.iterations if i.number == 0), None)

    @property
    def result(self) -> Iteration | None:
        """The policy that validation chose; else the last one evaluated. Never the best on test."""
        evaluated = self.evaluated
        return next((i for i in evaluated if i.chosen), evaluated[-1] if evaluated else None)

    @property
    def tasks(self) -> list[str]:
        """All tasks with a test evaluation, the run's own first, big suites' parts left out."""
        names = {e.task for i in self.iterations for e in i.evals.values() if e.split == "test"} - {
            self.task
        }
        return [self.task, *sorted(n for n in names if suite_part(n) is None)]

    def problems(self) -> dict[str, records.Problem]:
        """Problems of the run's tasks by id; empty where they were not materialised yet."""
        found: dict[str, records.Problem] = {}
        for path in _files(self.path / "problems", "*.parquet"):
            try:
                _, problems = records.problems_from_table(storage.read_table(path))
            except (ValueError, KeyError, TypeError) as e:
                raise UserError(f"{path}: not a table of problems ({e}); remove it") from None
            for problem in problems:
                found.setdefault(problem.problem_id, problem)
        return found


def suite_part(task: str) -> tuple[str, str] | None:
    """("cot", "Date understanding") of "bbh_cot_date_understanding"; None for no part of BBH."""
    parts = task.split("_", 2)
    if len(parts) < 3 or parts[0] != "bbh":
        return None
    return parts[1], parts[2].replace("_", " ").capitalize()


def number(value: Any) -> float | None:
    """A finite number as a float; anything else is None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if np.isfinite(value) else None


def read_run(path: str, label: str | None = None) -> Run:
    """Reads what is there of a run.

    Raises:
      UserError: the folder does not exist, is no run's, or a file in it cannot be read.
    """
    root = epath.Path(path)
    if not root.exists():
        raise UserError(f"{root}: no such folder; give the --workdir of a run")
    folders = {
        int(p.name.removeprefix("iteration_")): p
        for p in root.glob("iteration_*")
        if p.name.removeprefix("iteration_").isdigit()
    }
    summary = _object(root / "summary.json")
    identity = _object(root / "run.json")
    if not folders and not summary:
        raise UserError(f"{root}: no iteration_* folder, so nothing to report; `restem run` first")
    entries = {
        e["iteration"]: e
        for e in summary.get("iterations") or ()
        if isinstance(e, Mapping) and isinstance(e.get("iteration"), int)
    }
    numbers = sorted({*folders, *entries})
    iterations = tuple(
        _read_iteration(n, folders.get(n, root / f"iteration_{n:03d}"), entries.get(n, {}))
        for n in numbers
    )
    known = {**identity, **{k: v for k, v in summary.items() if k != "iterations"}}
    text = lambda *names: next((v for n in names if isinstance(v := known.get(n), str)), "")
    task = text("task") or _guess_task(root, iterations)
    seed = known.get("seed")
    last = iterations[-1] if iterations else None
    return Run(
        path=root,
        label=printable(label or root.resolve().name or str(root)),
        method=text("method"),
        model=text("model", "base"),
        task=task,
        seed=seed if isinstance(seed, int) else None,
        in_progress=identity.get("kind") != "evaluation"
        and (last is None or last.number == 0 or last.evaluation(task) is None),
        human=_is_human(text("method"), iterations),
        identity=identity,
        contamination=_mapping(_object(root / "contamination.json").get("tasks")),
        iterations=iterations,
    )


def printable(label: str, characters: int = 40) -> str:
    """A label that a figure has room for: without control characters, and cut with an ellipsis."""
    text = "".join(c if c.isprintable() else " " for c in label)
    return text if len(text) <= characters else text[: characters - 1] + "…"


def read_samples(
    paths: Sequence[epath.Path], kept: set[tuple[str, int]], batch: int = 1 << 16
) -> SampleTable:
    """Reads all but the texts; token ids are read batch by batch, for their number alone."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = ["problem_id", "sample_index", "reward", "finish_reason", "verdict", "token_ids"]
    made = ("correct", "unformatted", "file", "row")
    columns: dict[str, list] = {name: [] for name in (*wanted, *made)}
    for index, path in enumerate(paths):
        try:
            with path.open("rb") as f:
                row = 0
                for part in pq.ParquetFile(f).iter_batches(batch, columns=wanted):
                    verdict = part.column("verdict")
                    method = pc.fill_null(pc.struct_field(verdict, "method"), "")
                    unformatted = pc.and_(
                        pc.equal(method, records.NO_ANSWER_METHOD),
                        pc.is_null(pc.struct_field(verdict, "extracted")),
                    )
                    lengths = pc.fill_null(pc.list_value_length(part.column("token_ids")), 0)
                    reward = part.column("reward").fill_null(float("nan"))
                    reason = part.column("finish_reason").fill_null("")
                    columns["problem_id"].append(part.column("problem_id").to_pylist())
                    columns["sample_index"].append(part.column("sample_index").to_numpy())
                    columns["reward"].append(reward.to_numpy(zero_copy_only=False))
                    columns["correct"].append(
                        comparisons.correct_column(part.column("reward"), verdict)
                    )
                    columns["finish_reason"].append(reason.to_pylist())
                    columns["verdict"].append(method.to_pylist())
                    columns["token_ids"].append(lengths.to_numpy(zero_copy_only=False))
                    columns["unformatted"].append(unformatted.to_numpy(zero_copy_only=False))
                    columns["file"].append(np.full(len(part), index, np.int32))
                    columns["row"].append(np.arange(row, row + len(part), dtype=np.int32))
                    row += len(part)
        except (pa.ArrowInvalid, KeyError) as e:
            raise UserError(f"{path}: not a table of samples ({e}); remove it, run again") from None

    def joined(name: str, dtype) -> np.ndarray:
        parts = columns[name]
        return (
            np.concatenate([np.asarray(p, dtype) for p in parts]) if parts else np.array([], dtype)
        )

    ids, indices = joined("problem_id", object), joined("sample_index", np.int32)
    return SampleTable(
        paths=tuple(paths),
        problem_id=ids,
        sample_index=indices,
        reward=joined("reward", np.float32),
        correct=joined("correct", np.float32),
        finish_reason=joined("finish_reason", object),
        method=joined("verdict", object),
        unformatted=joined("unformatted", bool),
        tokens=joined("token_ids", np.int32),
        kept=np.array(
            [pair in kept for pair in zip(ids.tolist(), indices.tolist(), strict=True)], bool
        ),
        file=joined("file", np.int32),
        row=joined("row", np.int32),
    )


def _read_iteration(n: int, path: epath.Path, entry: Mapping[str, Any]) -> Iteration:
    values = {name: v for name, v in _mapping(entry.get("evals")).items() if isinstance(v, Mapping)}
    values |= {p.name.removesuffix(".json"): _object(p) for p in _files(path / "evals", "*.json")}
    evals = {}
    for name, found in sorted(values.items()):
        stem, _, suffix = name.partition(".")
        split = found.get("split") or (suffix if suffix in ("train", "validation") else "test")
        evals[name] = Evaluation(name, str(found.get("task") or stem), str(split), found)
    generate = _object(path / "generation.json") or _mapping(entry.get("generate"))
    train = _object(path / "improvement.json") or _mapping(entry.get("train"))
    seconds = {k: number(v) for k, v in _mapping(entry.get("seconds")).items()}
    if not seconds:  # A run in progress has no summary yet: the steps' own files tell the time.
        spent = {"generate": generate.get("seconds"), "improve": train.get("seconds")}
        seconds = {k: number(v) for k, v in spent.items()}
        evaluate = [number(e.values.get("seconds")) for e in evals.values()]
        if any(evaluate):
            seconds["evaluate"] = sum(filter(None, evaluate))
    return Iteration(
        number=n,
        path=path,
        chosen=entry.get("chosen") is True,
        evals=evals,
        selection=_object(path / "selection.json") or _mapping(entry.get("selection")),
        train=train,
        generate=generate,
        seconds={k: v for k, v in seconds.items() if v is not None and v >= 0},
    )


def _files(folder: epath.Path, pattern: str) -> list[epath.Path]:
    """Finished files: names that begin with a dot are being written."""
    if not folder.exists():
        return []
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))


def _object(path: epath.Path) -> Mapping[str, Any]:
    """A JSON object; {} where there is no file."""
    if not path.exists():
        return {}
    value = storage.read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; remove it and run the step again")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_human(method: str, iterations: Sequence[Iteration]) -> bool:
    """Where no method is named, the first samples tell: their source is "human" in SFT."""
    if method:
        return method.lower().startswith("sft")
    for iteration in iterations:
        for path in _files(iteration.path / "samples", "*.parquet")[:1]:
            table = storage.read_table(path)
            if "source" in table.column_names and len(table):
                return set(table.column("source").to_pylist()) == {"human"}
    return False


def _guess_task(root: epath.Path, iterations: Sequence[Iteration]) -> str:
    """The run's own task before summary.json names it: the one with a train split evaluated, else
    the only one materialised, else the first evaluated."""
    evals = [e for i in iterations for e in i.evals.values()]
    for evaluation in evals:
        if evaluation.split == "train":
            return evaluation.task
    names = [p.name.removesuffix(".parquet") for p in _files(root / "problems", "*.parquet")]
    if len(names) == 1 or not evals:
        return names[0] if names else "unknown task"
    return evals[0].task
