"""`--repair`: removes the damaged files of a run that the run makes again, and nothing else.

A sample is a function of the policy, the problem, its index and the seed, so samples, selections
and evaluations that are made again equal the lost ones, and a policy that is trained again equals
the lost one up to rounding. Later steps therefore stay as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from restem import records
from restem.checkpoints import orbax
from restem.checkpoints.damage import DamagedError, saved_checksums
from restem.errors import UserError
from restem.run import layout
from restem.run.layout import IterationDir, Workdir
from restem.runtime import machine_errors, storage
from restem.tokenizers import saved

SAMPLED = "the same samples are drawn again"
SELECTED = "selected again from the samples"
TRAINED = "the M-step is made again, with the same result up to rounding"
EVALUATED = "evaluated again"
COUNTED = "counted again from the samples, without the seconds that sampling took"
MEASURED = "measured again"
READ = "read again from the source of the task"
WRITTEN = "written again at the end of the run"
UNFINISHED = "left by a process that was killed; not needed"
IDENTITY = (
    "written again from this command's settings, which must be those that the run was started"
    " with; only the base policy and the number of samples can be compared with other files"
)


@dataclasses.dataclass(frozen=True)
class Damage:
    """A damaged file and what is to be done about it."""

    path: epath.Path
    """The file."""
    fault: str
    """What is wrong with it."""
    removed: Sequence[epath.Path]
    """Files and folders that are removed, so that the run makes them again."""
    remedy: str
    """How they are made again."""
    completions: Sequence[str] = ()
    """Files of another engine's samples, of which those in the damaged file are some."""

    @property
    def line(self) -> str:
        """The damage and its repair, in one line."""
        others = [str(p.name) for p in self.removed if p != self.path]
        beside = f" (with {', '.join(others)})" if others else ""
        return f"{self.path}{beside}: {self.remedy}; it was damaged: {self.fault}"


def find(files: Workdir, *, reads_arrays: bool = False) -> list[Damage]:
    """Returns all damage in a run's folder.

    Args:
      files: the run's folder.
      reads_arrays: whether to look for damage inside of checkpoints; otherwise only their structure
        is checked.

    Raises:
      UserError, MachineError: a file could not be read, so its state is unknown.
    """
    if not files.path.exists():
        return []
    found = [*_of_run(files)]
    for i in files.iterations():
        found += _of_iteration(files.iteration(i), reads_arrays)
    return found


def apply(damage: Sequence[Damage], *, completions: Sequence[str] = ()) -> None:
    """Removes the files that are made again.

    Args:
      damage: as `find` returns it.
      completions: files of another engine's samples that are read after this.

    Raises:
      UserError: samples of another engine are damaged, and there are no completions.
    """
    check(damage, completions=completions)
    for path in dict.fromkeys(path for part in damage for path in part.removed):
        if path.is_dir():
            path.rmtree()
        else:
            path.unlink(missing_ok=True)


def check(damage: Sequence[Damage], *, completions: Sequence[str] = ()) -> None:
    """Refuses to have a policy draw what another engine drew; see `apply`."""
    for part in damage:
        if part.completions and not completions:
            flags = " ".join(f"--completions={name}" for name in part.completions)
            raise UserError(
                f"{part.path} is damaged ({part.fault}), and its samples came from another engine:"
                f" nothing was removed; `restem generate` with --repair {flags} reads them again"
            )


def _of_run(files: Workdir) -> Iterator[Damage]:
    def remove(fault: str | None, path: epath.Path, remedy: str) -> Iterator[Damage]:
        if fault:
            yield Damage(path, fault, [path], remedy)

    yield from remove(_json_fault(files.identity, "base", "seed"), files.identity, IDENTITY)
    for path in (files.summary, files.contamination):
        yield from remove(_json_fault(path), path, WRITTEN)
    for path in _listed(files.problems("").parent, "*.parquet"):
        yield from remove(_table_fault(path, records.problems_from_table), path, READ)
    for path in _left_behind(files.path):
        yield Damage(path, "it is not whole", [path], UNFINISHED)


def _of_iteration(files: IterationDir, reads_arrays: bool) -> Iterator[Damage]:
    for path in _listed(files.samples, "*-of-*.parquet"):
        if fault := _table_fault(path, records.samples_from_table):
            # An E-step that counts as finished would not look for the shard.
            yield Damage(path, fault, [path, files.generation], SAMPLED, _completions_of(files))
    if fault := _json_fault(files.generation):
        yield Damage(files.generation, fault, [files.generation], COUNTED)
    for path in layout.shard_paths(files.dataset):
        if fault := _table_fault(path, records.examples_from_table):
            yield Damage(path, fault, [path, files.selection], SELECTED)
    if fault := _json_fault(files.selection):
        yield Damage(files.selection, fault, [files.selection], SELECTED)
    if fault := _json_fault(files.validation, "reward"):
        yield Damage(files.validation, fault, [files.validation], MEASURED)
    if fault := _json_fault(files.prefix, "prefix"):
        yield Damage(files.prefix, fault, [files.prefix, files.improvement], TRAINED)
    if fault := _json_fault(files.improvement, "improved", "start", "best_validation"):
        yield Damage(files.improvement, fault, [files.improvement], TRAINED)
    elif _is_improved(files) and (fault := _policy_fault(files.checkpoint, reads_arrays)):
        yield Damage(files.checkpoint, fault, [files.checkpoint, files.improvement], TRAINED)
    yield from _of_evaluations(files)


def _completions_of(files: IterationDir) -> tuple[str, ...]:
    """Returns the files of another engine's samples that an E-step read; empty if it drew them."""
    if _json_fault(files.generation) or not files.generation.exists():
        return ()
    return tuple(storage.read_json(files.generation).get("completions", ()))


def _is_improved(files: IterationDir) -> bool:
    return files.improvement.exists() and storage.read_json(files.improvement)["improved"]


def _of_evaluations(files: IterationDir) -> Iterator[Damage]:
    folder = files.path / "evals"
    names = {p.name.rpartition(".")[0] for p in _listed(folder, "*.json")}
    for name in sorted(names):
        report, answers = files.evaluation(name), files.answers(name)
        fault = _json_fault(report) or _table_fault(answers, records.samples_from_table)
        if fault:
            yield Damage(report, fault, [report, answers], EVALUATED)
    for path in sorted(folder.glob("*.parts/*/*.parquet")) if folder.exists() else ():
        if fault := _table_fault(path, records.samples_from_table):
            yield Damage(path, fault, [path], SAMPLED)


def _left_behind(folder: epath.Path) -> Iterator[epath.Path]:
    """Yields the files below a folder that were being written when their process was killed."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _left_behind(path)
        elif path.name.startswith(".") and path.name.endswith(".tmp"):
            yield path


def _listed(folder: epath.Path, pattern: str) -> list[epath.Path]:
    """Returns the files of a folder that are not being written."""
    if not folder.exists():
        return []
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))


def _json_fault(path: epath.Path, *required: str) -> str | None:
    """Returns what is wrong with a JSON file; None if it is whole or does not exist."""
    return _fault(path, lambda: storage.read_json(path, *required)) if path.exists() else None


def _table_fault(path: epath.Path, from_table: Callable[[Any], Any]) -> str | None:
    """Returns what is wrong with a table; None if it is whole or does not exist."""
    return _fault(path, lambda: storage.read_records(path, from_table)) if path.exists() else None


def _policy_fault(path: epath.Path, reads_arrays: bool) -> str | None:
    """Returns what is wrong with a checkpoint; None if it is whole."""

    def read() -> None:
        for folder in (path, path / "params"):
            with contextlib.suppress(FileNotFoundError):
                list(folder.iterdir())  # `exists` is also false where a disk fails
        orbax.read_config(path)
        orbax.adapter_origin(path)
        saved.load(path / "vocabulary")
        saved_checksums(path)

    fault = _fault(path, read)
    if fault or not reads_arrays:
        return fault
    try:
        orbax.check(path)
    except DamagedError as e:
        return _reason(path, e)
    return None


def _fault(path: epath.Path, read: Callable[[], Any]) -> str | None:
    try:
        read()
    except Exception as e:  # a tokenizer's library raises what it likes
        if fault := machine_errors.reading_fault(e, str(path)):
            raise fault from e
        return _reason(path, e)
    return None


def _reason(path: epath.Path, error: Exception) -> str:
    text = str(error).removeprefix(f"{path}: ").removesuffix(f"; {storage.REPAIR}")
    return text.partition("\n")[0] or type(error).__name__


def contradictions(files: Workdir, identity: Mapping[str, Any]) -> list[str]:
    """Returns in what other files of a run contradict an identity that is to be written again."""
    found = []
    for path in _listed(files.iteration(0).path / "evals", "*.json"):
        policy = storage.read_json(path).get("policy")
        if policy not in (None, identity["base"]):
            found.append(f"{path} evaluates {policy!r}, not {identity['base']!r}")
    wanted = identity.get("settings", {}).get("generate.num_samples")
    for i in files.iterations():
        path = files.iteration(i).generation
        drawn = storage.read_json(path).get("num_samples") if path.exists() else None
        if None not in (drawn, wanted) and drawn != wanted:
            found.append(f"{path} has num_samples {drawn}, not {wanted}")
    return found


def report(damage: Sequence[Damage], *, is_dry: bool) -> list[str]:
    """Returns what `--repair` prints, a line per damaged file."""
    if not damage:
        return ["repair: no file of this run is damaged"]
    verb = "would remove" if is_dry else "removed"
    return [f"repair: {verb} {part.line}" for part in damage]
