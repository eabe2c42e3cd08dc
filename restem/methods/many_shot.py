"""Reinforced in-context learning: kept samples become the prompt's shots; nothing is trained."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from typing import Any

import gin
from absl import logging

from restem.errors import UserError
from restem.records import Example, Problem, TaskCard
from restem.rollout import prompts
from restem.run import layout
from restem.runtime import storage
from restem.steps.evaluate import GREEDY
from restem.steps.generate import sample_and_verify
from restem.steps.improve import keep_policy


@gin.configurable(module="restem.methods")
def many_shot(
    *,
    start,
    card: TaskCard,
    examples: Sequence[Example],
    validation: Sequence[Problem],
    directory: layout.IterationDir,
    verifier,
    key: int,
    start_reward: float | None = None,
    num_shots: int = 4,
    separator: str = "\n\n",
    max_prefix_tokens: int | None = None,
    max_new_tokens: int | None = None,
    slots: int | None = None,
    mesh=None,
) -> dict[str, Any]:
    """Writes a few-shot prefix of `num_shots` kept samples to `directory.prefix`.

    Agarwal et al. 2024 (arXiv 2404.11018), section 3: model-written solutions of correct answers,
    one of each chosen problem at random. It stands where `improve` does, so the next iteration
    samples, and is evaluated, behind the new prefix; the policy stays what it was. Tasks that are
    evaluated for transfer keep their own prompts.

    Args:
      start: the policy.
      card: the task, with the prefix in use.
      examples: what was kept.
      validation: their greedy reward is measured behind the new prefix; may be none.
      directory: of the iteration.
      verifier: of the task's grader.
      key: fixes which examples are chosen.
      start_reward: of the policy behind the old prefix, where known; else it is measured.
      num_shots: examples of different problems.
      separator: between shots, and before the question.
      max_prefix_tokens: shots that would make the prefix longer are passed over; None: what the
        policy takes, less a solution and twice the longest question at hand.
      max_new_tokens: of validation; None takes the task's.
      slots: of validation.
      mesh: devices to sample on.

    Returns:
      What `improvement.json` holds; "validation" is before and after.

    Raises:
      UserError: no sample was kept, or none fits.
    """
    if directory.improvement.exists():
        return storage.read_json(directory.improvement)
    began = time.monotonic()
    vocabulary = start.vocabulary
    if max_prefix_tokens is None:
        questions = {*(e.inputs for e in examples), *(p.inputs for p in validation)}
        longest = max((len(vocabulary.encode(q)) for q in questions), default=0)
        max_prefix_tokens = start.config.max_length - card.max_new_tokens - 2 * longest
    shots: list[Example] = []
    order = sorted(examples, key=lambda e: (e.problem_id, e.sample_index))
    random.Random(key).shuffle(order)
    for example in order:
        if len(shots) == num_shots:
            break
        if example.problem_id in {s.problem_id for s in shots}:
            continue
        prefix = as_prefix([*shots, example], separator)
        renewed = dataclasses.replace(card, prefix=prefix)
        if len(prompts.prefix_ids(renewed, vocabulary)) <= max_prefix_tokens:
            shots.append(example)
    if not shots:
        raise UserError(
            f"{directory.dataset}: holds no example that fits a prompt of {max_prefix_tokens}"
            " tokens; sample more (generate.num_samples), or raise many_shot.max_prefix_tokens"
        )
    if len(shots) < num_shots:
        logging.warning(
            "%s: %d shots where %d were asked for", directory.path.name, len(shots), num_shots
        )
    renewed = dataclasses.replace(card, prefix=as_prefix(shots, separator))

    def validate(card: TaskCard, step: int) -> float:
        answers = sample_and_verify(
            policy=start,
            card=card,
            problems=validation,
            num_samples=1,
            sampling=GREEDY,
            max_new_tokens=max_new_tokens,
            key=key,
            verifier=verifier,
            what=f"{directory.path.name}: validating {'new' if step else 'old'} shots",
            slots=slots,
            mesh=mesh,
        )
        return sum(s.reward for s in answers) / len(validation)

    rewards = []
    if validation:
        before = validate(card, 0) if start_reward is None else start_reward
        rewards = [[0, before], [1, validate(renewed, 1)]]
    storage.write_json(
        directory.prefix,
        {
            "prefix": renewed.prefix,
            "shots": [[s.problem_id, s.sample_index] for s in shots],
            "sha256": renewed.prefix_sha256,
        },
    )
    return keep_policy(
        start,
        directory,
        reward=rewards[-1][1] if rewards else None,
        validation=rewards,
        examples=len(examples),
        seconds=time.monotonic() - began,
    )


def as_prefix(shots: Sequence[Example], separator: str) -> str:
    """The few-shot prompt that these solved problems make."""
    return "".join(s.inputs + s.targets.rstrip() + separator for s in shots)
