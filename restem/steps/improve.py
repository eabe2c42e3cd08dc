"""The M-step: fine-tunes a policy on the selected examples until validation stops improving.

Algorithm 1 of the paper: while the reward on D_val improves, maximise the reward-weighted
log-likelihood of equation 3, starting from the policy that the method names (for ReST-EM, the base
policy). The policy with the best validation reward is kept, not the last one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from restem.checkpoints import orbax
from restem.errors import UserError
from restem.records import Example, Problem
from restem.rollout import Rollout
from restem.run import layout, trackers
from restem.run.shards import StoredExamples
from restem.runtime import host_memory, storage
from restem.runtime.preemption import PREEMPTION
from restem.runtime.profiles import PROFILE
from restem.runtime.progress import progress
from restem.steps import moments, preparation
from restem.steps.adaptation import starting_policy
from restem.steps.examples import corpus_of
from restem.steps.history import BestPolicy, History, finish, report, without_examples
from restem.steps.settings import ImproveSettings
from restem.training import Corpus, DivergenceError, Trainer, TrainState


def improve(
    *,
    rollout: Rollout,
    examples: Sequence[Example] | StoredExamples,
    validation: Sequence[Problem],
    directory: layout.IterationDir,
    start_reward: float | None = None,
    settings: ImproveSettings = ImproveSettings(),
) -> dict[str, Any]:
    """Fits the policy of `rollout` to `examples`; writes the best policy to `directory.checkpoint`.

    An M-step that was killed continues from the last saved validation; one that was preempted, from
    the step it had reached. Many hosts train together on one mesh, and each runs the same program.

    Args:
      rollout: the policy that training starts from, whose parameters are left unchanged, and the
        task, whose prefix precedes every example (section 5: the few-shot prompt is part of the
        input). Its mesh serves training and validation; its key fixes the order of the examples.
      examples: the training set.
      validation: problems whose greedy reward decides when to stop; if empty, training runs for all
        epochs and the last policy is kept.
      directory: directory of the iteration.
      start_reward: validation reward of the policy of `rollout`; None if not yet measured.
      settings: settings of the M-step.

    Returns:
      The content of `improvement.json`.

    Raises:
      UserError: there is no example to train on, or training diverged.
    """
    if directory.improvement.exists():
        return storage.read_json(directory.improvement)
    began = time.monotonic()
    if not examples:
        return without_examples(
            rollout.policy, directory, start_reward, skip=settings.skip_empty, began=began
        )
    rollout = rollout.replace(max_new_tokens=settings.max_new_tokens).placed()
    prefix, data = corpus_of(rollout.card, examples, rollout.policy.vocabulary)
    total = data.sizes(None).total
    rollout = rollout.replace(policy=starting_policy(rollout.policy, settings.adapter))
    settings = preparation.with_param_dtype(settings, rollout.policy.params)
    host_memory.give_back()  # what sampling took
    room = preparation.memory_of_steps(rollout, settings, prefix_length=len(prefix))
    rollout = preparation.with_validation_mesh(rollout, room)
    trainer = preparation.trainer(rollout, prefix, data, settings, room)
    packed = trainer.pack(data, seed=rollout.key, epoch=0)
    if packed.too_long:
        logging.warning(
            "%s: %d of %d examples are longer than row_length=%d and are left out",
            directory.path.name, packed.too_long, total, trainer.row_length,
        )  # fmt: skip
    with contextlib.closing(orbax.TrainingCheckpoints(directory.training)) as checkpoints:
        m_step = _MStep(
            rollout=rollout,
            trainer=trainer,
            frozen=trainer.frozen(rollout.policy.params),
            data=data,
            validation=validation,
            total_steps=settings.epochs * len(packed),
            best=BestPolicy(directory, rollout.policy),
            checkpoints=checkpoints,
            settings=settings,
        )
        state, history = m_step.begin(start_reward, began)
        state = m_step.fit(state, history)
        if settings.keep_optimizer and history.best_step == history.steps:
            moments.keep(state, directory)
        del state  # writing the policy needs memory too
    m_step.best.make_policy(history)
    made = report(
        rollout.policy,
        history,
        examples=total,
        too_long=packed.too_long,
        packing_efficiency=packed.efficiency(),
        epochs=history.steps / len(packed),
    )
    made = finish(directory, made)
    if settings.keep_optimizer:
        moments.discard(rollout.policy.reference, directory)
    return made


@dataclasses.dataclass(frozen=True)
class _MStep:
    """An M-step whose examples are packed and whose trainer is built."""

    rollout: Rollout
    trainer: Trainer
    frozen: Any
    data: Corpus
    validation: Sequence[Problem]
    total_steps: int
    best: BestPolicy
    checkpoints: orbax.TrainingCheckpoints
    settings: ImproveSettings

    def begin(self, start_reward: float | None, began: float) -> tuple[TrainState, History]:
        """Returns the state and history to continue from: the saved ones, or fresh ones."""
        params = self.rollout.policy.params
        state = self.trainer.init(params, seed=self.rollout.key)
        resumed = self.checkpoints.restore(functools.partial(BestPolicy.saved_shapes, state))
        if resumed is not None:
            logging.info("%s: continues at step %d", self.name, resumed.step)
            history = History.from_dict(resumed.metadata, began=began)
            self.best.restore(history.best_step, resumed.tree)
            return resumed.tree["state"], history
        if self.settings.keep_optimizer:
            state = moments.continued(state, self.trainer, self.rollout.policy, self.best.directory)
        if start_reward is None or not self.validation:
            start_reward = self.validate(params, 0)
        measured = [] if start_reward is None else [[0, start_reward]]
        return state, History(best_reward=start_reward, validation=measured, began=began)

    def fit(self, state: TrainState, history: History) -> TrainState:
        """Trains until validation stops improving: update, validate, keep the best, save, stop.

        Returns the state after the last step.
        """
        settings, total = self.settings, self.total_steps
        updates = self.trainer.fit(
            state, self.data, epochs=settings.epochs, seed=self.rollout.key, frozen=self.frozen
        )
        with (
            self.shown(int(state.step)) as advance,
            self.divergence_named(history),
            PREEMPTION.deferring(),
        ):
            for update in updates:
                state = update.state
                history.add_update(update.step, update.metrics, update.seconds)
                self.log(update.step, update.metrics)
                advance(update.metrics["loss"])
                is_due = settings.is_validated(update.step, total, update.is_epoch_end)
                if is_due:
                    params = self.trainer.policy_params(update.state.params, self.frozen)
                    reward = self.validate(params, update.step)
                    self.log(update.step, {"validation": reward})
                    if history.add_validation(update.step, reward):
                        self.best.keep(update.step, update.state.params)
                    if update.step == total or history.stale == settings.patience:
                        break  # training is complete
                preempted = PREEMPTION.reached()
                if preempted or (is_due and history.is_saved(settings.save_every)):
                    saved = self.best.saved_with(update.state, update.step)
                    self.checkpoints.save(
                        update.step, saved, metadata=history.to_dict(), wait=preempted
                    )
                PREEMPTION.leave_if(preempted)
        return state

    @property
    def name(self) -> str:
        """Name of the iteration, for messages."""
        return self.best.directory.path.name

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Logs scalars of an optimizer step to the run's trackers."""
        where = self.best.directory.path.name
        trackers.log(step, {f"improve/{name}/{where}": value for name, value in values.items()})

    def validate(self, params: Any, step: int) -> float | None:
        """Returns the reward on D_val of the policy of a step; None without validation problems."""
        if not self.validation:
            return None
        rollout = preparation.validated(self.rollout, params)
        what = f"{self.name}: validating step {step}"
        reward = rollout.greedy_reward(self.validation, what=what)
        host_memory.give_back()
        return reward

    @contextlib.contextmanager
    def shown(self, done: int) -> Iterator[Callable[[float], None]]:
        """Shows progress and profiles some steps; yields a callback that takes each step's loss."""
        what = f"{self.name}: training"
        with (
            progress(what, total=self.total_steps, unit="steps", done=done) as bar,
            PROFILE.traced("train") as advance_trace,
        ):

            def advance(loss: float) -> None:
                bar.advance(1, note=f"loss {loss:.3f}")
                advance_trace()

            yield advance

    @contextlib.contextmanager
    def divergence_named(self, history: History) -> Iterator[None]:
        """Turns a divergence of training into a `UserError` that suggests another learning rate."""
        try:
            yield
        except DivergenceError as e:
            best = history.best_step
            kept = f"step {best}" if best else "none better than the start"
            if best:
                self.best.write(self.best.directory.best)
            raise UserError(
                f"{self.name}: {e}. The best policy so far ({kept}) and the last saved state are"
                f" kept in {self.best.directory.path}; with another learning rate use another"
                " --workdir"
            ) from e
