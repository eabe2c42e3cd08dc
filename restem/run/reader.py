"""The one reader of a run's folder, for resume, summary and report alike.

A run in progress can be read while it writes: files appear whole or not at all, and a missing file
reads as an empty mapping or None, never as an error. Only a file that exists but cannot be read is
an error. Each file is read once, on first access: an object is a snapshot, so create a new one to
see newer files.

Folders of version 0.1 differ in two files. Their `run.json` has no `method`, which reads as "". The
validation reward of their base policy has no file; the first iteration measured it before its first
step.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from etils import epath

from restem import records
from restem.errors import UserError
from restem.run import layout, reports, sample_stats, sample_table
from restem.run.layout import IterationDir, Workdir
from restem.run.problems import ProblemFile
from restem.run.reports import Evaluation, curve, mapping, number, text
from restem.run.sample_stats import SampleStats
from restem.run.sample_table import SampleTable
from restem.runtime import storage


@dataclasses.dataclass(frozen=True)
class StoredIteration:
    """The files of one iteration so far; iteration 0 holds the base policy's evaluations."""

    number: int
    files: IterationDir

    @functools.cached_property
    def evals(self) -> Mapping[str, Evaluation]:
        """Finished evaluations by name."""
        found = {}
        for path in _complete(self.files.path / "evals", "*.json"):
            name, values = path.name.removesuffix(".json"), _object(path)
            reports.check_curves(path, values)
            stem, _, suffix = name.partition(".")
            split = values.get("split") or (suffix if suffix in ("train", "validation") else "test")
            found[name] = Evaluation(name, str(values.get("task") or stem), str(split), values)
        return found

    @functools.cached_property
    def generation(self) -> Mapping[str, Any]:
        """`generation.json`: counts, seconds and rates of the E-step."""
        return _object(self.files.generation)

    @functools.cached_property
    def selection(self) -> Mapping[str, Any]:
        """`selection.json`: fates of the samples."""
        return _object(self.files.selection)

    @functools.cached_property
    def improvement(self) -> Mapping[str, Any]:
        """`improvement.json`: losses and validation rewards of the M-step."""
        return _object(self.files.improvement)

    @functools.cached_property
    def validation(self) -> Mapping[str, Any]:
        """`validation.json` of the base policy."""
        return _object(self.files.validation)

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall-clock seconds of each finished step."""
        spent = {
            "generate": number(self.generation.get("seconds")),
            "improve": number(self.improvement.get("seconds")),
            "evaluate": sum(e.seconds for e in self.evals.values()) or None,
        }
        return {step: seconds for step, seconds in spent.items() if seconds is not None}

    def evaluation(self, task: str, split: str = "test") -> Evaluation | None:
        """Returns the evaluation on a split of a task, if it is finished."""
        found = (e for e in self.evals.values() if (e.task, e.split) == (task, split))
        return next(found, None)

    def samples(self, most_shown: int = 0) -> SampleStats | None:
        """Returns counts of the samples of the E-step so far, or None if there are none.

        Args:
          most_shown: number of problems of which samples are kept to be shown.
        """
        paths = _complete(self.files.samples, "*.parquet")
        return sample_stats.read(paths, self._kept, most_shown=most_shown) if paths else None

    def sample_tables(self) -> Iterator[tuple[epath.Path, SampleTable]]:
        """Yields each file of samples of the E-step so far, and what it holds but for the texts."""
        for path in _complete(self.files.samples, "*.parquet"):
            yield path, sample_table.read(path, self._kept(path))

    def _kept(self, path: epath.Path) -> frozenset[tuple[str, int]]:
        """Returns the samples of a file that are in the training set."""
        examples = self.files.dataset / path.name
        if not examples.exists():
            examples = self.files.dataset / "examples.parquet"  # of version 0.1
        return _pairs(examples) if examples.exists() else frozenset()

    def answers(self, name: str, most_shown: int = 0) -> SampleStats | None:
        """Returns counts of the greedy answers of a finished evaluation, or None."""
        path = self.files.answers(name)
        if not path.exists():
            return None
        return sample_stats.read([path], most_shown=most_shown, only_greedy=True)


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """The files of a run so far."""

    files: Workdir
    label: str
    """Name in figures and tables; short and printable."""

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """`run.json`."""
        return _object(self.files.identity)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the run by name, such as "generate.num_samples"; empty in version 0.1."""
        return mapping(self.identity.get("settings"))

    @property
    def teacher(self) -> str:
        """Reference of the policy that writes the samples in the run's stead; "" if none does."""
        return text(self.settings.get("Run.teacher"))

    @functools.cached_property
    def iterations(self) -> tuple[StoredIteration, ...]:
        """Iterations that have a folder, in order."""
        numbers = self.files.iterations()
        return tuple(StoredIteration(i, self.files.iteration(i)) for i in numbers)

    @property
    def is_evaluation(self) -> bool:
        """Whether this is a stand-alone evaluation of a policy, not a run of the loop."""
        return self.identity.get("kind") == "evaluation"

    @property
    def method(self) -> str:
        """Name of the run's method; "" if it has none."""
        return text(self.identity.get("method"))

    @property
    def model(self) -> str:
        """Reference of the base policy."""
        return text(self.identity.get("base"))

    @property
    def seed(self) -> int | None:
        seed = self.identity.get("seed")
        return seed if isinstance(seed, int) else None

    @functools.cached_property
    def task(self) -> str:
        """Task that the run trains on; in a stand-alone evaluation, the first task requested.

        A stand-alone evaluation has no task in `run.json`, because tasks may be added later; its
        summary names the first one.
        """
        names = (text(self.identity.get("task")), text(_object(self.files.summary).get("task")))
        evaluated = (e.task for i in self.iterations for e in i.evals.values())
        return next(filter(None, (*names, *evaluated)), "")

    @functools.cached_property
    def contamination(self) -> Mapping[str, Mapping[str, Any]]:
        """Content of `contamination.json` by task; empty if contamination was not checked.

        Raises:
          UserError: the file lacks an entry.
        """
        found = mapping(_object(self.files.contamination).get("tasks"))
        reports.check_contamination(self.files.contamination, found)
        return found

    @property
    def in_progress(self) -> bool:
        """Whether the policy of the last iteration has not been evaluated yet."""
        if self.is_evaluation:
            return False
        last = self.iterations[-1] if self.iterations else None
        return last is None or last.number == 0 or last.evaluation(self.task) is None

    @property
    def trains_on_human_solutions(self) -> bool:
        """Whether the run's E-steps sample nothing, as in supervised fine-tuning (SFT)."""
        sampled = [i.generation.get("num_samples") for i in self.iterations if i.generation]
        return not any(sampled) if sampled else self.settings.get("generate.num_samples") == 0

    @property
    def grades_without_gold(self) -> bool:
        """Whether the verdicts of the samples say nothing of their correctness."""
        return "WithoutGold" in mapping(self.settings.get("generate.grading"))

    @property
    def train_problems(self) -> int | None:
        """Number of problems that the run trains on, over all iterations; None if unknown."""
        if number(self.settings.get("em.problems_per_iteration")) is None:
            counts = [number(i.selection.get("problems")) for i in self.iterations]
            return max((int(c) for c in counts if c), default=None)
        path = self.files.problems(self.task)
        # Mini-batches do not show how many problems were dropped.
        if self.settings.get("Run.drop_overlapping") or not path.exists():
            return None
        return len(ProblemFile(path).split("train")) or None

    @property
    def base(self) -> StoredIteration | None:
        return next((i for i in self.iterations if i.number == 0), None)

    @property
    def evaluated(self) -> list[StoredIteration]:
        """Iterations with a test pass@1 on the run's own task."""
        found = ((i, i.evaluation(self.task)) for i in self.iterations)
        return [i for i, e in found if e is not None and e.pass1 is not None]

    @property
    def result(self) -> StoredIteration | None:
        """Iteration chosen by validation, or the last one evaluated; never the best on test."""
        chosen = self.chosen_by_validation
        evaluated = self.evaluated
        last = evaluated[-1] if evaluated else None
        return next((i for i in evaluated if i.number == chosen), last)

    @functools.cached_property
    def validation_rewards(self) -> Mapping[int, float]:
        """Validation reward of each policy that has one, by iteration."""
        found = {i.number: i.improvement.get("best_validation") for i in self.iterations}
        base = self.base.validation.get("reward") if self.base is not None else None
        if base is None:  # version 0.1: the reward before the first step of iteration 1
            first = next((i for i in self.iterations if i.number == 1), None)
            pairs = curve(first.improvement.get("validation")) if first is not None else []
            base = pairs[0][1] if pairs and pairs[0][0] == 0 else None
        rewards = {i: number(reward) for i, reward in (found | {0: base}).items()}
        return {i: reward for i, reward in rewards.items() if reward is not None}

    @property
    def chosen_by_validation(self) -> int | None:
        """Iteration with the highest validation reward, the earliest if tied; None if none."""
        rewards = self.validation_rewards
        return min(rewards, key=lambda i: (-rewards[i], i), default=None)

    @property
    def chosen(self) -> int:
        """Iteration chosen by validation; without validation problems, the last one trained."""
        chosen = self.chosen_by_validation
        return max(finished(self.files), default=0) if chosen is None else chosen

    def policy_reference(self, iteration: int) -> str:
        """Returns the reference of the policy of an iteration; see `policy_reference`."""
        return policy_reference(self.files, iteration)

    @property
    def evaluations(self) -> list[str]:
        """Names of all evaluations: test splits first, in the order of `Run.evaluate_on`."""
        names = {name for i in self.iterations for name in i.evals}
        others = self.identity.get("evaluate_on")
        listed = [self.task, *map(text, others if isinstance(others, list) else ())]
        place = {task: listed.index(task) for task in listed}

        def order(name: str) -> tuple[str, int, str]:
            task, _, split = name.partition(".")
            return split, place.get(task, len(listed)), name

        return sorted(names, key=order)

    def problems(
        self, ids: Container[str] | None = None, *, task: str | None = None
    ) -> dict[str, records.Problem]:
        """Returns the problems of a task by their ids, which other tasks may use as well.

        Args:
          ids: ids of the problems; None: all.
          task: the task; None: the run's own.
        """
        path = self.files.problems(task or self.task)
        found = ProblemFile(path).find(ids) if path.exists() else ()
        return {problem.problem_id: problem for problem in found}


def read_run(path: str | os.PathLike, label: str | None = None) -> StoredRun:
    """Opens a run's folder for reading; the files are read on first access.

    Args:
      path: the run's folder.
      label: name in figures and tables; None: the folder's name.

    Raises:
      UserError: the folder does not exist, or holds no run.
    """
    files = Workdir(path)
    if not files.path.exists():
        raise UserError(f"{files.path}: no such folder; give the --workdir of a run")
    if not files.identity.exists() and not files.iterations():
        raise UserError(
            f"{files.path}: no run.json and no iteration_* folder, so nothing to report;"
            " `restem run` first"
        )
    name = label or epath.Path(files.path).resolve().name or str(files.path)
    return StoredRun(files=files, label=printable(name))


def policy_reference(files: Workdir, iteration: int) -> str:
    """Returns the reference of the policy of an iteration; 0 is the base policy.

    Raises:
      UserError: the M-step of the iteration is not finished.
    """
    if iteration == 0:
        return storage.read_json(files.identity, "base")["base"]
    directory = files.iteration(iteration)
    if not directory.improvement.exists():
        raise UserError(
            f"{directory.improvement}: iteration {iteration} has no policy yet;"
            " run `restem improve` first"
        )
    report = storage.read_json(directory.improvement, "improved", "start")
    if report["improved"]:
        return f"orbax:{directory.checkpoint}"
    start = str(report["start"])
    if re.fullmatch(r"iteration_[0-9]+", start):
        return f"orbax:{IterationDir(files.path / start).checkpoint}"
    return start


def finished(files: Workdir) -> list[int]:
    """Returns the iterations whose M-step is finished."""
    return [i for i in files.iterations() if i and files.iteration(i).improvement.exists()]


def read_samples(directory: IterationDir) -> list[records.Sample]:
    """Returns all samples of an iteration, in shard order.

    Raises:
      UserError: the iteration has no samples.
    """
    samples = read_shards(directory.samples)
    if not samples:
        raise UserError(f"{directory.samples}: no samples here; run `restem generate` first")
    return samples


def read_shards(folder: epath.Path) -> list[records.Sample]:
    """Returns all samples in the shards of a folder, in shard order."""
    paths = layout.shard_paths(folder)
    return [s for path in paths for s in storage.read_records(path, records.samples_from_table)]


def read_problems(path: epath.Path) -> tuple[records.TaskCard, list[records.Problem]]:
    """Reads `problems/TASK.parquet`.

    Raises:
      UserError: the file does not exist, or is not a table of problems.
    """
    return storage.read_records(path, records.problems_from_table)


def printable(label: str, characters: int = 40) -> str:
    """Returns a label that fits in a figure: no control characters, shortened with an ellipsis."""
    shown = "".join(c if c.isprintable() else " " for c in label)
    return shown if len(shown) <= characters else shown[: characters - 1] + "…"


def _pairs(path: epath.Path) -> frozenset[tuple[str, int]]:
    """Returns (problem_id, sample_index) of the examples in a file."""
    table = storage.read_columns(path, ("problem_id", "sample_index"))
    ids, indices = (column.to_pylist() for column in table.columns)
    return frozenset(zip(ids, indices, strict=True))


def _complete(folder: epath.Path, pattern: str) -> list[epath.Path]:
    """Returns the complete files of a folder; names of files being written begin with a dot."""
    if not folder.exists():
        return []
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))


def _object(path: epath.Path) -> Mapping[str, Any]:
    """Returns a JSON object; {} if there is no such file."""
    return storage.read_json(path) if path.exists() else {}
