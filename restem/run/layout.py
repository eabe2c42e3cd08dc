"""The layout of a run's folder.

A file appears whole or not at all: it is written under a temporary name in the same folder and then
renamed. Therefore, if the last file of a step exists, the step is finished, and a run that was
killed at any point continues when the same command runs again. Paths go through `etils.epath`, so
the folder may be in a bucket.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator

from etils import epath

from restem import records
from restem.runtime import storage


def shard_path(folder: epath.Path, shard: int, shards: int) -> epath.Path:
    """Returns the path of one of `shards` shards."""
    return folder / f"{shard:05d}-of-{shards:05d}.parquet"


def shard_paths(folder: epath.Path) -> list[epath.Path]:
    """Returns the finished shards in a folder, by number; [] if there is no folder."""
    return [path for _, path in sorted(_numbered(folder))]


def number_of_shards(path: epath.Path) -> int:
    """Returns how many shards there are, according to the name of one of them."""
    return int(path.name.removesuffix(".parquet").rpartition("-")[2])


def _numbered(folder: epath.Path) -> Iterator[tuple[int, epath.Path]]:
    for path in folder.iterdir() if folder.exists() else ():
        # The names of files that are being written begin with a dot.
        if found := re.fullmatch(r"([0-9]+)-of-[0-9]+\.parquet", path.name):
            yield int(found[1]), path


def unfinished_path(folder: epath.Path, host: int) -> epath.Path:
    """Returns the path of a host's samples of unfinished shards, deleted once they are whole."""
    return folder / f"unfinished-{host:05d}.parquet"


def unfinished_paths(folder: epath.Path) -> list[epath.Path]:
    """Returns the files of all hosts with samples of unfinished shards."""
    paths = folder.iterdir() if folder.exists() else ()
    return sorted(p for p in paths if re.fullmatch(r"unfinished-[0-9]+\.parquet", p.name))


@dataclasses.dataclass(frozen=True)
class Shards:
    """The division of a step's problems into files, each with a run of consecutive problems."""

    problems: int
    """Number of problems."""
    per_shard: int
    """Maximum number of problems per shard."""

    def __len__(self) -> int:
        return max(1, -(-self.problems // self.per_shard))

    def positions(self, shard: int) -> range:
        """Returns the positions of a shard's problems; sizes differ by at most one."""
        size, larger = divmod(self.problems, len(self))
        start = shard * size + min(shard, larger)
        return range(start, start + size + (shard < larger))

    def path(self, folder: epath.Path, shard: int) -> epath.Path:
        return shard_path(folder, shard, len(self))

    def missing(self, folder: epath.Path) -> list[int]:
        """Returns the shards that the folder lacks, in order; lists the folder once."""
        names = {path.name for _, path in _numbered(folder)}
        return [i for i in range(len(self)) if self.path(folder, i).name not in names]


@dataclasses.dataclass(frozen=True)
class IterationDir:
    """The files of one iteration; 0 holds the evaluations of the base policy."""

    path: epath.Path

    @property
    def number(self) -> int:
        """Number of the iteration."""
        return int(self.path.name.removeprefix("iteration_"))

    def of_policy(self, reference: str) -> IterationDir | None:
        """Returns the iteration of the same run that made a policy; None for other policies."""
        if not reference.startswith("orbax:"):
            return None
        # References of loaded policies are absolute, and the run's folder is as the user wrote it.
        folder = storage.absolute(reference.removeprefix("orbax:")).parent
        is_of_run = folder.parent == storage.absolute(self.path).parent
        return IterationDir(folder) if is_of_run else None

    @property
    def samples(self) -> epath.Path:
        return self.path / "samples"

    @property
    def generation(self) -> epath.Path:
        """Seconds, tokens and rates of the E-step; written once every shard is."""
        return self.path / "generation.json"

    @property
    def dataset(self) -> epath.Path:
        """Training examples; each shard has those of the shard of samples with the same name."""
        return self.path / "dataset"

    @property
    def selection(self) -> epath.Path:
        return self.path / "selection.json"

    @property
    def prefix(self) -> epath.Path:
        """Few-shot prompt of this iteration's policy, if the method rewrites the prompt."""
        return self.path / "prefix.json"

    @property
    def training(self) -> epath.Path:
        """Checkpoints of the training state, for resuming; deleted once the M-step is finished."""
        return self.path / "training"

    @property
    def best(self) -> epath.Path:
        """Best policy of an M-step that diverged."""
        return self.path / "best"

    @property
    def checkpoint(self) -> epath.Path:
        return self.path / "checkpoint"

    @property
    def optimizer(self) -> epath.Path:
        """Moments that the optimizer ended with, for the next M-step; see `steps.moments`."""
        return self.path / "optimizer"

    @property
    def improvement(self) -> epath.Path:
        """Losses, validation rewards and seconds; written once the M-step is finished."""
        return self.path / "improvement.json"

    @property
    def validation(self) -> epath.Path:
        """Validation reward of the base policy; only in iteration 0."""
        return self.path / "validation.json"

    def discard_training(self) -> None:
        """Removes the working files of a finished M-step, which a kill may have left behind."""
        for leftover in (self.training, self.best):
            leftover.rmtree(missing_ok=True)

    def evaluation(self, name: str) -> epath.Path:
        return self.path / "evals" / f"{name}.json"

    def answers(self, name: str) -> epath.Path:
        return self.path / "evals" / f"{name}.parquet"

    def evaluation_parts(self, name: str) -> epath.Path:
        """Returns the folder of an unfinished evaluation's shards, deleted once it is finished."""
        return self.path / "evals" / f"{name}.parts"


class Workdir:
    """A run's folder."""

    def __init__(self, path: str | os.PathLike):
        self.path = epath.Path(path)

    def iteration(self, i: int) -> IterationDir:
        return IterationDir(self.path / f"iteration_{i:03d}")

    def iterations(self) -> list[int]:
        """Numbers of the iterations that have a folder; copies such as `iteration_001.old` do not
        count."""
        numbers = []
        for path in self.path.glob("iteration_[0-9]*"):
            found = re.fullmatch(r"iteration_([0-9]{3,})", path.name)
            if found and self.iteration(int(found[1])).path.name == path.name and path.is_dir():
                numbers.append(int(found[1]))
        return sorted(numbers)

    @property
    def identity(self) -> epath.Path:
        return self.path / "run.json"

    @property
    def lease(self) -> epath.Path:
        """Job that works in the folder; removed when the job ends."""
        return self.path / "lease.json"

    @property
    def tracker_id(self) -> epath.Path:
        """Random name of the run in Weights & Biases and MLflow; see `run.trackers.ids`."""
        return self.path / "tracker_id.json"

    @property
    def operative_config(self) -> epath.Path:
        return self.path / "operative_config.gin"

    @property
    def summary(self) -> epath.Path:
        return self.path / "summary.json"

    @property
    def contamination(self) -> epath.Path:
        """Report of the test problems that share text with training problems."""
        return self.path / "contamination.json"

    @property
    def report(self) -> epath.Path:
        return self.path / "report"

    @property
    def compilation_cache(self) -> epath.Path:
        return self.path / "compilation_cache"

    @property
    def log(self) -> epath.Path:
        return self.path / "run.log"

    def evaluation_of(self, reference: str) -> epath.Path:
        """Returns the folder for evaluating a policy from outside the run, laid out as a run.

        The folder's name is the reference with `_` in place of characters that file names should
        avoid, plus a hash if any were replaced, so that two references never share a folder.
        """
        name = re.sub(r"[^\w.-]+", "_", reference)
        if name != reference.replace(":", "_", 1) or len(name) > 100:
            name = f"{name[-100:]}-{records.stable_key(reference):08x}"
        return self.path / "evaluations" / name

    def problems(self, task: str) -> epath.Path:
        return self.path / "problems" / f"{task}.parquet"
