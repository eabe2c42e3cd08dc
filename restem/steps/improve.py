"""The M-step: fine-tunes a policy on the selected examples until validation stops improving.

Algorithm 1 of the paper: while the reward on D_val improves, maximise the reward-weighted
log-likelihood of equation 3, starting from the policy that the method names (the base one for
ReST-EM). The policy of the best validation is kept, not the last one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from restem import partitioning
from restem.checkpoints import orbax
from restem.errors import UserError
from restem.records import Example, Problem
from restem.rollout import Rollout, prompts
from restem.run import layout
from restem.runtime import storage
from restem.runtime.preemption import PREEMPTION
from restem.runtime.profiles import PROFILE
from restem.runtime.progress import progress
from restem.steps.examples import token_examples
from restem.steps.history import Candidates, History, finish, keep_policy, report
from restem.steps.settings import ImproveSettings
from restem.training import DivergenceError, TokenExample, Trainer, TrainState, choose_shape


def improve(
    *,
    rollout: Rollout,
    examples: Sequence[Example],
    validation: Sequence[Problem],
    directory: layout.IterationDir,
    start_reward: float | None = None,
    settings: ImproveSettings = ImproveSettings(),
) -> dict[str, Any]:
    """Fits the policy of `rollout` to `examples`; writes the best one to `directory.checkpoint`.

    Killed and run again, it continues from the last saved validation; preempted, from the step it
    had reached. Many hosts train together on one mesh, and each computes the same.

    Args:
      rollout: the policy that training starts from, whose parameters stay as they are, on the task,
        whose prefix precedes every example (section 5: the few-shot prompt is part of the input).
        Its mesh trains and validates; its key fixes the order of the examples.
      examples: the training set.
      validation: problems whose greedy reward decides when to stop; none: train all epochs and
        keep the last policy.
      directory: of the iteration.
      start_reward: validation reward of the policy of `rollout`, where it is known already.
      settings: of the training.

    Returns:
      What `improvement.json` holds: losses, validation rewards, the reference of the policy.

    Raises:
      UserError: there is no example to train on, or training diverged.
    """
    if directory.improvement.exists():
        return storage.read_json(directory.improvement)
    began = time.monotonic()
    if not examples:
        return _without_examples(rollout, directory, start_reward, settings, began)
    rollout = _on_its_mesh(rollout.replace(max_new_tokens=settings.max_new_tokens))
    data = token_examples(rollout.card, examples, rollout.policy.vocabulary)
    trainer = _trainer(rollout, data, settings)
    packed = trainer.pack(data, seed=rollout.key, epoch=0)
    if packed.too_long:
        logging.warning(
            "%s: %d of %d examples are longer than row_length=%d and are left out",
            directory.path.name, packed.too_long, len(data), trainer.row_length,
        )  # fmt: skip
    candidates = Candidates(directory, rollout.policy)
    checkpoints = orbax.TrainingCheckpoints(directory.training)
    try:
        state, history = _begin(rollout, trainer, checkpoints, validation, start_reward, began)
        _fit(
            rollout, trainer, data, state, history, validation, candidates, checkpoints,
            total=settings.epochs * len(packed), settings=settings,
        )  # fmt: skip
    finally:
        checkpoints.close()
    if history.best_step:
        candidates.make_policy(history.best_step)
    else:
        logging.warning(
            "%s: training never raised the validation reward above %.3f; the policy stays %s",
            directory.path.name, history.best_reward, rollout.policy.reference,
        )  # fmt: skip
    counts = {
        "examples": len(data),
        "too_long": packed.too_long,
        "packing_efficiency": packed.efficiency(),
        "epochs": history.steps / len(packed),
    }
    return finish(directory, report(rollout.policy, history, **counts))


def _begin(
    rollout: Rollout,
    trainer: Trainer,
    checkpoints: orbax.TrainingCheckpoints,
    validation: Sequence[Problem],
    start_reward: float | None,
    began: float,
) -> tuple[TrainState, History]:
    """The state and history to continue from: the saved ones, or those of the start."""
    params = rollout.policy.params
    state = trainer.init(params)
    resumed = checkpoints.restore(state, shardings=trainer.state_shardings(params))
    if resumed is not None:
        logging.info("the M-step continues at step %d", resumed.step)
        return resumed.tree, History.from_dict(resumed.metadata, began=began)
    if not validation:
        return state, History(began=began)
    if start_reward is None:
        start_reward = rollout.greedy_reward(validation, what="validating the start")
    return state, History(best_reward=start_reward, validation=[[0, start_reward]], began=began)


def _fit(
    rollout: Rollout,
    trainer: Trainer,
    data: Sequence[TokenExample],
    state: TrainState,
    history: History,
    validation: Sequence[Problem],
    candidates: Candidates,
    checkpoints: orbax.TrainingCheckpoints,
    *,
    total: int,
    settings: ImproveSettings,
) -> None:
    """Update, validate, keep the best, save, stop: until validation no longer improves."""
    where, done, validations = candidates.directory.path.name, int(state.step), 0
    bar = progress(f"{where}: training", total=total, unit="steps", done=done)
    with bar as shown, PROFILE.traced("train") as advance, _divergence_named(candidates, history):
        for update in trainer.fit(state, data, epochs=settings.epochs, seed=rollout.key):
            history.add_update(update.step, update.metrics, update.seconds)
            shown.advance(1, note=f"loss {update.metrics['loss']:.3f}")
            advance()
            is_due = is_validated(update.step, total, update.is_epoch_end, settings.validate_every)
            if is_due:
                params, what = update.state.params, f"{where}: validating step {update.step}"
                if history.add_validation(
                    update.step, _validate(rollout, params, validation, what)
                ):
                    candidates.save(update.step, params)
                if update.step == total or history.stale == settings.patience:
                    break  # nothing is left to continue with
                validations += 1
            preempted = PREEMPTION.reached()
            if preempted or (
                is_due and settings.save_every and validations % settings.save_every == 0
            ):
                checkpoints.save(update.step, update.state, metadata=history.to_dict(), wait=True)
                candidates.keep_only(history.best_step)
            PREEMPTION.leave_if(preempted)


@contextlib.contextmanager
def _divergence_named(candidates: Candidates, history: History) -> Iterator[None]:
    """Makes a divergence of training bad input: the remedy is another learning rate."""
    try:
        yield
    except DivergenceError as e:
        kept = f"step {history.best_step}" if history.best_step else "none better than the start"
        folder = candidates.directory.path
        raise UserError(
            f"{folder.name}: {e}. The best policy so far ({kept}) and the last good state are kept"
            f" in {folder}; with another learning rate use another --workdir"
        ) from e


def is_validated(step: int, total: int, is_epoch_end: bool, every: int | None) -> bool:
    """Whether the policy of a step is validated: that of each `every`-th step, and the last one.

    A validation less than half an interval before the end is left out:

        every=4    5 steps: 5      6 steps: 4 6      8 steps: 4 8      9 steps: 4 9
    """
    left = total - step
    if every is None:
        return is_epoch_end
    return not left or (step % every == 0 and 2 * left >= every)


def _without_examples(
    rollout: Rollout,
    directory: layout.IterationDir,
    reward: float | None,
    settings: ImproveSettings,
    began: float,
) -> dict[str, Any]:
    if settings.skip_empty:
        logging.warning(
            "%s: no sample was kept; the policy stays %s",
            directory.path.name, rollout.policy.reference,
        )  # fmt: skip
        return keep_policy(rollout.policy, directory, reward=reward, began=began)
    raise UserError(
        f"{directory.dataset}: nothing to train on, since no sample was kept;"
        f" {directory.selection} says where they went. Sample more"
        " (generate.num_samples), use easier problems, or a stronger base policy"
    )


def _on_its_mesh(rollout: Rollout) -> Rollout:
    """The rollout with its policy's parameters where its mesh wants them."""
    policy = rollout.policy
    if rollout.mesh is None:
        return rollout
    places = partitioning.param_shardings(policy.config, rollout.mesh)
    params = partitioning.reshard(policy.params, places)
    return rollout.replace(policy=policy.replace(params=params))


def _trainer(rollout: Rollout, data: Sequence[TokenExample], settings: ImproveSettings) -> Trainer:
    """The trainer, in the row shape of the settings or else in the cheapest one."""
    start, mesh = rollout.policy, rollout.mesh
    prefix = prompts.prefix_ids(rollout.card, start.vocabulary)
    length, rows = choose_shape(
        data,
        config=start.config,
        batch_examples=settings.batch_examples,
        prefix_length=len(prefix),
        max_tokens=settings.micro_batch_tokens,
        rows_multiple=1 if mesh is None else partitioning.batch_parts(mesh),
    )
    total_steps = settings.epochs * -(-len(data) // settings.batch_examples)
    return Trainer(
        start.config.replace(remat=settings.remat),
        optimizer=settings.optimizer(total_steps=total_steps),
        prefix_ids=prefix,
        row_length=settings.row_length or length,
        rows_per_batch=settings.rows_per_batch or rows,
        batch_examples=settings.batch_examples,
        normalisation=settings.normalisation,
        param_dtype=settings.param_dtype,
        mesh=mesh,
    )


def _validate(
    rollout: Rollout, params: Any, validation: Sequence[Problem], what: str
) -> float | None:
    """The reward on D_val of the policy with these parameters; None without such problems."""
    if not validation:
        return None
    policy = rollout.policy.replace(params=params)
    return rollout.replace(policy=policy).greedy_reward(validation, what=what)
