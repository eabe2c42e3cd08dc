"""The M-step: fine-tunes a policy on the selected examples until validation stops improving.

Algorithm 1 of the paper: while the reward on D_val improves, maximise the reward-weighted
log-likelihood of equation 3, starting from the policy that the method names (the base one for
ReST-EM). The policy of the best validation is kept, not the last one.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import optax
from absl import logging
from etils import epath

from restem import partitioning
from restem.checkpoints import orbax
from restem.errors import UserError
from restem.records import Example, Problem, TaskCard
from restem.rollout import prompts
from restem.run import layout
from restem.runtime import distributed, storage
from restem.runtime.preemption import PREEMPTION
from restem.runtime.profiles import PROFILE
from restem.runtime.progress import progress
from restem.sampling.stopping import training_ids
from restem.steps.evaluate import GREEDY
from restem.steps.generate import sample_and_verify
from restem.training import (
    DivergenceError,
    TokenExample,
    Trainer,
    Update,
    choose_shape,
    optimizers,
)
from restem.training.losses import Normalisation


def token_examples(card: TaskCard, examples: Sequence[Example], vocabulary) -> list[TokenExample]:
    """Examples in tokens: the sampled ids, cut to the text, and the end-of-sequence id.

    Selection keeps finished samples only, so every target ends with EOS; the model learns to stop
    where its sample was stopped.
    """
    # The lowest is the one that ends a document in pretraining; the others end a chat turn.
    eos_id = min(vocabulary.eos_ids)
    made = []
    for example in examples:
        if example.target_ids:
            ids = training_ids(example.target_ids, example.targets, vocabulary).ids
        else:
            ids = tuple(vocabulary.encode(example.targets))
        ids = (*ids, eos_id)
        question = prompts.question_ids(card, example.inputs, vocabulary)
        made.append(TokenExample(question, ids, example.weight))
    return made


@dataclasses.dataclass
class _History:
    """What an M-step has seen; saved beside the state, so that a resumed one knows it too."""

    best_reward: float | None = None
    """Validation reward of the best policy so far; None without validation problems."""
    best_step: int = 0
    """The step it was found at; 0 is the policy that training starts from."""
    stale: int = 0
    """Validations since then."""
    loss: list[list[float]] = dataclasses.field(default_factory=list)
    """[step, loss] of every step."""
    validation: list[list[float]] = dataclasses.field(default_factory=list)
    """[step, reward] of every validation."""
    tokens: int = 0
    """Target tokens trained on."""
    training_seconds: float = 0.0
    """Seconds in training steps alone."""
    seconds: float = 0.0
    """Seconds in all."""

    def note(self, step: int, reward: float | None) -> bool:
        """Takes in a validation; says whether the policy of `step` is the best so far.

        Without validation the last policy is the best.
        """
        if reward is not None:
            self.validation.append([step, reward])
            if self.best_reward is not None and reward <= self.best_reward:
                self.stale += 1
                return False
        self.best_reward, self.best_step, self.stale = reward, step, 0
        return True

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> _History:
        return cls(**fields)


def is_validated(item: Update, every: int | None) -> bool:
    """Whether the policy of a step is to be validated: `every` so many, and in the end.

    A validation less than half an interval before the end is left out:

        every=4    5 steps: 5      6 steps: 4 6      8 steps: 4 8      9 steps: 4 9
    """
    left = item.total_steps - item.step
    if every is None:
        return item.is_epoch_end
    return not left or (item.step % every == 0 and 2 * left >= every)


def keep_policy(
    start,
    directory: layout.IterationDir,
    *,
    reward: float | None,
    validation: Sequence[Sequence[float]] = (),
    examples: int = 0,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Ends an iteration without training: its policy is `start`.

    Args:
      start: the policy.
      directory: of the iteration.
      reward: its validation reward; None where it was not measured.
      validation: [step, reward] of what was measured.
      examples: that were looked at.
      seconds: that it took.

    Returns:
      What `improvement.json` holds.
    """
    report = {
        "improved": False,
        "start": start.reference,
        "best_validation": reward,
        "best_step": 0,
        "loss": [],
        "validation": [list(v) for v in validation],
        "steps": 0,
        "examples": examples,
        "too_long": 0,
        "packing_efficiency": 1.0,
        "epochs": 0.0,
        "target_tokens": 0,
        "tokens_per_second": 0.0,
        "seconds_training": 0.0,
        "seconds": seconds,
    }
    return _finish(directory, report)


def _finish(directory: layout.IterationDir, report: dict[str, Any]) -> dict[str, Any]:
    """Ends an M-step: writes its report, and discards what was needed only until here."""

    def write() -> dict[str, Any]:
        storage.write_json(directory.improvement, report)
        directory.discard_training()
        return report

    return distributed.on_first("end of the M-step", write)


@gin.configurable
def improve(
    *,
    start,
    card: TaskCard,
    examples: Sequence[Example],
    validation: Sequence[Problem],
    directory: layout.IterationDir,
    verifier,
    key: int,
    start_reward: float | None = None,
    optimizer: Callable[..., optax.GradientTransformation] = optimizers.adamw,
    epochs: int = 8,
    batch_examples: int = 64,
    rows_per_batch: int | None = None,
    row_length: int | None = None,
    micro_batch_tokens: int = 4096,
    normalisation: Normalisation = "token",
    param_dtype: str | None = "float32",
    remat: str = "full",
    validate_every: int | None = None,
    save_every: int = 1,
    patience: int = 1,
    max_new_tokens: int | None = None,
    slots: int | None = None,
    skip_empty: bool = False,
    mesh=None,
) -> dict[str, Any]:
    """Fits `start` to `examples` and writes the best policy to `directory.checkpoint`.

    Killed and run again, it goes on from the last validation; preempted, from the step it had
    reached. Many hosts train together on one mesh, and each computes the same.

    Args:
      start: the policy training starts from; its parameters stay as they are.
      card: the task, whose prefix stands before every example (section 5: the few-shot prompt is
        part of the input).
      examples: the training set.
      validation: problems whose greedy reward decides when to stop; none: train all epochs and
        keep the last policy.
      directory: of the iteration.
      verifier: of the task's grader.
      key: fixes the order of the examples.
      start_reward: validation reward of `start`, where it is known already.
      optimizer: called with `total_steps`.
      epochs: at most so many passes over the examples.
      batch_examples: examples an optimizer step.
      rows_per_batch: packed rows computed at once; None: chosen with the row length.
      row_length: tokens a packed row; None: the length that costs the fewest products.
      micro_batch_tokens: most tokens of rows computed at once, where these are chosen: what fits in
        memory.
      normalisation: how the sum over examples becomes the loss; see `losses.Normalisation`.
      param_dtype: of the trained parameters; None keeps the policy's.
      remat: what the backward pass computes again; see `ModelConfig.remat`.
      validate_every: steps between validations; None: at the end of each epoch. The end is always
        validated; see `is_validated`.
      save_every: validations between saves of the training state, which is three times as large as
        the policy; 0: only when preempted, for trainings of minutes.
      patience: stop at this many validations in a row without a better one.
      max_new_tokens: of validation; None takes the task's.
      slots: of validation.
      skip_empty: where no example was kept, leave the policy as it is instead of failing: the next
        mini-batch of problems may be luckier (IML, RAFT).
      mesh: devices to train on; None: this process's first, or all of a job of several hosts,
        each with a copy of the policy.

    Returns:
      What `improvement.json` holds: losses, validation rewards, the reference of the policy.

    Raises:
      UserError: no examples to train on, or training diverged.
    """
    if directory.improvement.exists():
        return storage.read_json(directory.improvement)
    began = time.monotonic()
    where = directory.path.name
    if not examples and skip_empty:
        logging.warning("%s: no sample was kept; the policy stays %s", where, start.reference)
        return keep_policy(start, directory, reward=start_reward)
    if not examples:
        raise UserError(
            f"{directory.dataset}: nothing to train on, since no sample was kept;"
            f" {directory.selection} says where they went. Sample more"
            " (generate.num_samples), use easier problems, or a stronger base policy"
        )
    if mesh is None and distributed.several():
        mesh = partitioning.make_mesh()
    if mesh is not None:
        places = partitioning.param_shardings(start.config, mesh)
        start = start.replace(params=partitioning.reshard(start.params, places))
    vocabulary = start.vocabulary
    data = token_examples(card, examples, vocabulary)
    prefix = prompts.prefix_ids(card, vocabulary)
    length, rows = choose_shape(
        data,
        config=start.config,
        batch_examples=batch_examples,
        prefix_length=len(prefix),
        max_tokens=micro_batch_tokens,
        rows_multiple=1 if mesh is None else partitioning.batch_parts(mesh),
    )
    trainer = Trainer(
        start.config.replace(remat=remat),
        optimizer=optimizer(total_steps=epochs * -(-len(data) // batch_examples)),
        prefix_ids=prefix,
        row_length=row_length or length,
        rows_per_batch=rows_per_batch or rows,
        batch_examples=batch_examples,
        normalisation=normalisation,
        param_dtype=param_dtype,
        mesh=mesh,
    )
    packed = trainer.pack(data, seed=key, epoch=0)
    if packed.too_long:
        logging.warning(
            "%s: %d of %d examples are longer than row_length=%d and are left out",
            where, packed.too_long, len(data), trainer.row_length,
        )  # fmt: skip

    def validate(params, step: int) -> float:
        answers = sample_and_verify(
            policy=start.replace(params=params),
            card=card,
            problems=validation,
            num_samples=1,
            sampling=GREEDY,
            max_new_tokens=max_new_tokens,
            key=key,
            verifier=verifier,
            what=f"{where}: validating step {step}",
            slots=slots,
            mesh=mesh,
        )
        return math.fsum(s.reward for s in answers) / len(validation)

    checkpoints = orbax.TrainingCheckpoints(directory.training)
    state = trainer.init(start.params)
    resumed = checkpoints.restore(state, shardings=trainer.state_shardings(start.params))
    if resumed is not None:
        state = resumed.tree
        history = _History.from_dict(resumed.metadata)
        logging.info("%s: goes on at step %d", where, resumed.step)
    else:
        if validation and start_reward is None:
            start_reward = validate(start.params, 0)
        history = _History(best_reward=start_reward)
        if validation and start_reward is not None:
            history.validation.append([0, start_reward])
    seconds_before = history.seconds

    def save(item) -> None:
        history.seconds = seconds_before + time.monotonic() - began
        checkpoints.save(item.step, item.state, metadata=history.to_dict(), wait=True)

    done, total = int(state.step), epochs * len(packed)
    validations = 0
    try:
        with (
            progress(f"{where}: training", total=total, unit="steps", done=done) as bar,
            PROFILE.traced("train") as advance,
        ):
            for item in trainer.fit(state, data, epochs=epochs, seed=key):
                history.loss.append([item.step, item.metrics["loss"]])
                history.tokens += int(item.metrics["target_tokens"])
                history.training_seconds += item.seconds
                bar.advance(1, note=f"loss {item.metrics['loss']:.3f}")
                advance()
                due = is_validated(item, validate_every)
                if not due:
                    if PREEMPTION.reached():
                        save(item)
                        PREEMPTION.leave_if(True)
                    continue
                before = history.best_step
                reward = validate(item.state.params, item.step) if validation else None
                if history.note(item.step, reward):
                    path = _candidate(directory, item.step)
                    orbax.save(path, item.state.params, start.config, vocabulary, overwrite=True)
                if item.step == total or history.stale == patience:
                    break  # nothing is left to go on with
                validations += 1
                preempted = PREEMPTION.reached()
                if preempted or (save_every and validations % save_every == 0):
                    save(item)
                    # Only now: a kill before must find the policy that the state speaks of.
                    if 0 < before < history.best_step and distributed.is_first():
                        _candidate(directory, before).rmtree(missing_ok=True)
                PREEMPTION.leave_if(preempted)
    except DivergenceError as e:
        kept = f"step {history.best_step}" if history.best_step else "none better than the start"
        raise UserError(
            f"{where}: {e}. The best policy so far ({kept}) and the last good state are kept in"
            f" {directory.path}; with another learning rate use another --workdir"
        ) from e
    finally:
        checkpoints.close()
    if history.best_step and distributed.is_first():
        _keep(_candidate(directory, history.best_step), directory.checkpoint)
    if not history.best_step:
        logging.warning(
            "%s: training never raised the validation reward above %.3f; the policy stays %s",
            where, history.best_reward, start.reference,
        )  # fmt: skip
    steps_taken = history.loss[-1][0] if history.loss else 0
    report = {
        "improved": history.best_step > 0,
        "start": start.reference,
        "best_validation": history.best_reward,
        "best_step": history.best_step,
        "loss": history.loss,
        "validation": history.validation,
        "steps": steps_taken,
        "examples": len(data),
        "too_long": packed.too_long,
        "packing_efficiency": packed.efficiency(),
        "epochs": steps_taken / len(packed),
        "target_tokens": history.tokens,
        "tokens_per_second": history.tokens / max(history.training_seconds, 1e-9),
        "seconds_training": history.training_seconds,
        "seconds": seconds_before + time.monotonic() - began,
    }
    return _finish(directory, report)


def _candidate(directory: layout.IterationDir, step: int) -> epath.Path:
    return directory.candidates / f"step_{step:06d}"


def _keep(candidate: epath.Path, checkpoint: epath.Path) -> None:
    """Makes the best candidate the iteration's policy; done already where a kill came after it."""
    if not candidate.exists():
        return
    checkpoint.rmtree(missing_ok=True)
    if "://" not in str(candidate):
        candidate.rename(checkpoint)
        return
    # What a kill leaves half copied is copied again: without its report no M-step is finished.
    storage.copy_folder(candidate, checkpoint)
