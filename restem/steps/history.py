"""What an M-step keeps besides its training state: its history and the best policy so far."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath

from restem.checkpoints import orbax
from restem.checkpoints.policy import Policy
from restem.errors import UserError
from restem.run import layout
from restem.runtime import distributed, storage
from restem.training import TrainState

MOST_LOSSES = 20_000
"""Number of losses in `improvement.json`; beyond it, every second one is left out."""


@dataclasses.dataclass
class History:
    """The progress of an M-step; saved with the training state so that a resumed M-step has it."""

    best_reward: float | None = None
    """Validation reward of the best policy so far; None without validation problems."""
    best_step: int = 0
    """Step of the best policy; 0 is the policy that training starts from."""
    stale: int = 0
    """Validations since the best policy."""
    validations: int = 0
    """Number of validations, excluding that of the starting policy."""
    loss: list[list[float]] = dataclasses.field(default_factory=list)
    """[step, loss] per optimizer step, or per `loss_every` steps of long training."""
    loss_every: int = 1
    """Steps between entries of `loss`."""
    steps: int = 0
    """Optimizer steps taken."""
    validation: list[list[float]] = dataclasses.field(default_factory=list)
    """[step, reward] per validation."""
    tokens: int = 0
    """Number of target tokens trained on."""
    training_seconds: float = 0.0
    """Seconds spent in optimizer steps."""
    seconds_before: float = 0.0
    """Seconds spent by earlier processes, which were killed or preempted."""
    began: float = dataclasses.field(default_factory=time.monotonic)
    """Time at which this process began the M-step, by `time.monotonic`."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, began: float) -> History:
        """Inverts `to_dict`, in the process that continues the M-step."""
        return cls(**fields, began=began)

    def to_dict(self) -> dict[str, Any]:
        """Returns the dictionary that is saved with the training state."""
        fields = dataclasses.asdict(self)
        del fields["began"]
        return fields | {"seconds_before": self.seconds}

    @property
    def seconds(self) -> float:
        """Total seconds, including those of earlier processes."""
        return self.seconds_before + time.monotonic() - self.began

    def is_saved(self, every: int) -> bool:
        """Returns whether to save the state at the last validation, each `every`-th; 0: none."""
        return bool(every) and self.validations % every == 0

    def add_update(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Records an optimizer step."""
        if self.steps % self.loss_every == 0:
            self.loss.append([step, metrics["loss"]])
        if len(self.loss) > MOST_LOSSES:
            self.loss, self.loss_every = self.loss[::2], 2 * self.loss_every
        self.steps = step
        self.tokens += int(metrics["target_tokens"])
        self.training_seconds += seconds

    def add_validation(self, step: int, reward: float | None) -> bool:
        """Records a validation; returns whether the policy of `step` is the best so far.

        Without validation problems (`reward` is None) the last policy counts as the best.
        """
        self.validations += 1
        if reward is not None:
            self.validation.append([step, reward])
            if self.best_reward is not None and reward <= self.best_reward:
                self.stale += 1
                return False
        self.best_reward, self.best_step, self.stale = reward, step, 0
        return True


@dataclasses.dataclass
class BestPolicy:
    """The best policy so far in an unfinished M-step, in memory beside the one in training."""

    directory: layout.IterationDir
    """Directory of the iteration."""
    start: Policy
    """Policy that training starts from; the best one shares its architecture, vocabulary and
    adapter settings."""
    step: int = 0
    """Its step; 0 is the policy that training starts from."""
    trained: Any = None
    """A copy of its trained parameters, or its adapter; None at step 0."""

    def keep(self, step: int, trained: Any) -> None:
        """Copies the policy of a step, whose arrays the next step consumes."""
        self.step, self.trained = step, jax.tree.map(jnp.copy, trained)

    def saved_with(self, state: TrainState, step: int) -> dict[str, Any]:
        """Returns what is saved after a step: the state and, if that is not it, the best policy."""
        tree: dict[str, Any] = {"state": state}
        if self.step not in (0, step):
            tree["best"] = self.trained
        return tree

    @staticmethod
    def saved_shapes(state: TrainState, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the shapes of what `saved_with` returned, given the saved history.

        The last step in a saved history is the one after which it was saved.
        """
        history = History.from_dict(saved, began=0.0)
        is_apart = history.best_step not in (0, history.steps)
        return {"state": state} | ({"best": state.params} if is_apart else {})

    def restore(self, step: int, saved: Mapping[str, Any]) -> None:
        """Takes the policy of the best step from what `saved_with` returned."""
        if step:
            self.keep(step, saved["best"] if "best" in saved else saved["state"].params)

    def write(self, path: epath.Path) -> None:
        """Writes the policy to `path`; every host must call this."""
        start = self.start
        orbax.save(
            path, self.trained, start.config, start.vocabulary, adapter=start.adapter,
            hub=start.hub, overwrite=True,
        )  # fmt: skip

    def make_policy(self, history: History) -> None:
        """Makes the best policy the iteration's policy."""
        if self.step:
            self.write(self.directory.checkpoint)
            return
        logging.warning(
            "%s: training never raised the validation reward above %.3f; the policy stays %s",
            self.directory.path.name, history.best_reward, self.start.reference,
        )  # fmt: skip


def keep_policy(
    start: Policy,
    directory: layout.IterationDir,
    *,
    reward: float | None,
    validation: Sequence[Sequence[float]] = (),
    examples: int = 0,
    began: float,
) -> dict[str, Any]:
    """Ends an iteration without training: `start` becomes its policy.

    Args:
      start: the policy to keep.
      directory: directory of the iteration.
      reward: validation reward of the policy; None if it was not measured.
      validation: [step, reward] per validation.
      examples: number of examples considered.
      began: time at which the M-step began, by `time.monotonic`.

    Returns:
      The content of `improvement.json`.
    """
    history = History(best_reward=reward, validation=[list(v) for v in validation], began=began)
    return finish(directory, report(start, history, examples=examples))


def without_examples(
    start: Policy,
    directory: layout.IterationDir,
    reward: float | None,
    *,
    skip: bool,
    began: float,
) -> dict[str, Any]:
    """Ends an iteration in which no sample was kept, as `keep_policy` does.

    Raises:
      UserError: `skip` is false: such an iteration is an error.
    """
    if skip:
        where = directory.path.name
        logging.warning("%s: no sample was kept; the policy stays %s", where, start.reference)
        return keep_policy(start, directory, reward=reward, began=began)
    raise UserError(
        f"{directory.dataset}: nothing to train on, since no sample was kept;"
        f" {directory.selection} says where they went. Sample more"
        " (generate.num_samples), use easier problems, or a stronger base policy"
    )


def report(
    start: Policy,
    history: History,
    *,
    examples: int,
    too_long: int = 0,
    packing_efficiency: float = 1.0,
    epochs: float = 0.0,
) -> dict[str, Any]:
    """Returns the content of `improvement.json`.

    Args:
      start: the policy that training started from.
      history: history of the training.
      examples: number of examples in the training set.
      too_long: number of examples left out because they are longer than a row.
      packing_efficiency: share of the tokens in packed rows that are not padding.
      epochs: number of passes over the examples.
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
    """Ends an M-step: writes its report and deletes its training state.

    A policy of the same run is named by its iteration, so that the run's folder can be moved.
    """
    start = directory.of_policy(improvement["start"])
    if start is not None:
        improvement = improvement | {"start": start.path.name}

    def write() -> dict[str, Any]:
        storage.write_json(directory.improvement, improvement)
        directory.discard_training()
        return improvement

    return distributed.run_on_primary("end of the M-step", write)
