"""What an M-step keeps beside its state: its history, and the best policy so far."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from restem.checkpoints import orbax
from restem.checkpoints.policy import Policy
from restem.run import layout
from restem.runtime import distributed, storage


@dataclasses.dataclass
class History:
    """What an M-step has seen; saved with the training state for a resumed one."""

    best_reward: float | None = None
    """Validation reward of the best policy so far; None without validation problems."""
    best_step: int = 0
    """Step of that policy; 0 is the one that training starts from."""
    stale: int = 0
    """Validations since then."""
    validations: int = 0
    """Validations in all, that of the start not counted."""
    loss: list[list[float]] = dataclasses.field(default_factory=list)
    """[step, loss] of every step."""
    validation: list[list[float]] = dataclasses.field(default_factory=list)
    """[step, reward] of every validation."""
    tokens: int = 0
    """Target tokens trained on."""
    training_seconds: float = 0.0
    """Seconds in training steps alone."""
    seconds_before: float = 0.0
    """Seconds of the processes that were killed or preempted."""
    began: float = dataclasses.field(default_factory=time.monotonic)
    """When this process began, by `time.monotonic`."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, began: float) -> History:
        """The inverse of `to_dict`, in the process that continues."""
        return cls(**fields, began=began)

    def to_dict(self) -> dict[str, Any]:
        """What is saved with the training state."""
        fields = dataclasses.asdict(self)
        del fields["began"]
        return fields | {"seconds_before": self.seconds}

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return int(self.loss[-1][0]) if self.loss else 0

    def is_saved(self, every: int) -> bool:
        """Whether the state of the last validation is saved: that of each `every`-th; 0: none."""
        return bool(every) and self.validations % every == 0

    def add_update(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Adds an optimizer step."""
        self.loss.append([step, metrics["loss"]])
        self.tokens += int(metrics["target_tokens"])
        self.training_seconds += seconds

    def add_validation(self, step: int, reward: float | None) -> bool:
        """Adds a validation; returns whether the policy of `step` is the best so far.

        Without validation problems (None) the last policy is the best.
        """
        self.validations += 1
        if reward is not None:
            self.validation.append([step, reward])
            if self.best_reward is not None and reward <= self.best_reward:
                self.stale += 1
                return False
        self.best_reward, self.best_step, self.stale = reward, step, 0
        return True


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The best policies of an M-step under way, by step."""

    directory: layout.IterationDir
    """Of the iteration."""
    start: Policy
    """The policy that training starts from; decoder, vocabulary and adapter's form are its own."""

    def path(self, step: int) -> epath.Path:
        return self.directory.candidates / f"step_{step:06d}"

    def save(self, step: int, params: Any) -> None:
        """Writes the policy of a step, or its adapter; all hosts call it."""
        start = self.start
        orbax.save(
            self.path(step), params, start.config, start.vocabulary, adapter=start.adapter,
            overwrite=True,
        )  # fmt: skip

    def keep_only(self, step: int) -> None:
        """Removes all others.

        Only once a training state that names `step` is saved: a kill before must find the policy
        that the saved state names.
        """
        if distributed.is_primary() and self.directory.candidates.exists():
            for path in self.directory.candidates.iterdir():
                if path != self.path(step):
                    path.rmtree()

    def make_policy(self, history: History) -> None:
        """Makes the best policy the iteration's; a kill may have come after that already."""
        if not history.best_step:
            logging.warning(
                "%s: training never raised the validation reward above %.3f; the policy stays %s",
                self.directory.path.name, history.best_reward, self.start.reference,
            )  # fmt: skip
            return
        candidate, checkpoint = self.path(history.best_step), self.directory.checkpoint
        if not distributed.is_primary() or not candidate.exists():
            return
        checkpoint.rmtree(missing_ok=True)
        if "://" not in str(candidate):
            candidate.rename(checkpoint)
            return
        # What a kill leaves half copied is copied again: without its report no M-step is finished.
        storage.copy_folder(candidate, checkpoint)


def keep_policy(
    start: Policy,
    directory: layout.IterationDir,
    *,
    reward: float | None,
    validation: Sequence[Sequence[float]] = (),
    examples: int = 0,
    began: float,
) -> dict[str, Any]:
    """Ends an iteration without training: its policy is `start`.

    Args:
      start: the policy.
      directory: of the iteration.
      reward: its validation reward; None where it was not measured.
      validation: [step, reward] of what was measured.
      examples: that were looked at.
      began: when the M-step began, by `time.monotonic`.

    Returns:
      What `improvement.json` holds.
    """
    history = History(best_reward=reward, validation=[list(v) for v in validation], began=began)
    return finish(directory, report(start, history, examples=examples))


def report(
    start: Policy,
    history: History,
    *,
    examples: int,
    too_long: int = 0,
    packing_efficiency: float = 1.0,
    epochs: float = 0.0,
) -> dict[str, Any]:
    """What `improvement.json` holds.

    Args:
      start: the policy that training started from.
      history: of the training.
      examples: of the training set.
      too_long: examples left out because they are longer than a row.
      packing_efficiency: share of the tokens of rows that are no padding.
      epochs: passes over the examples.
    """
    return {
        "improved": history.best_step > 0,
        "start": start.reference,
        "best_validation": history.best_reward,
        "best_step": history.best_step,
        "loss": history.loss,
        "validation": history.validation,
        "steps": history.steps,
        "examples": examples,
        "too_long": too_long,
        "packing_efficiency": packing_efficiency,
        "epochs": epochs,
        "target_tokens": history.tokens,
        "tokens_per_second": history.tokens / max(history.training_seconds, 1e-9),
        "seconds_training": history.training_seconds,
        "seconds": history.seconds,
    }


def finish(directory: layout.IterationDir, improvement: dict[str, Any]) -> dict[str, Any]:
    """Ends an M-step: writes its report, and discards what was needed only until here."""

    def write() -> dict[str, Any]:
        storage.write_json(directory.improvement, improvement)
        directory.discard_training()
        return improvement

    return distributed.run_on_primary("end of the M-step", write)
