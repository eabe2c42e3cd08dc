"""Reinforced in-context learning: kept samples become the shots of the prompt, without training."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from typing import Annotated, Any

import gin
from absl import logging

from restem.data.prompts import split_form, split_shots
from restem.errors import UserError
from restem.records import Example, Problem, TaskCard
from restem.rollout import Rollout, prompts
from restem.run import layout
from restem.run.shards import StoredExamples
from restem.runtime import storage
from restem.runtime.checks import at_least
from restem.steps.history import keep_policy

_MOST_EXAMPLES = 1 << 17
"""Number of examples, of random shards, among which the shots are chosen."""


@gin.configurable("many_shot", module="restem.methods")
@dataclasses.dataclass(frozen=True)
class ManyShot:
    """Builds a few-shot prefix from kept samples and writes it to `directory.prefix`.

    Agarwal et al. 2024 (arXiv 2404.11018), section 3: model-written solutions with correct answers,
    one random solution to each chosen problem. This strategy replaces `improve` (gin binds it to
    `em.improve`): the policy is unchanged, and evaluation and the next iteration use the new
    prefix. Transfer tasks keep their own prompts.
    """

    num_shots: Annotated[int, at_least(1)] = 4
    """Number of shots, each from a different problem."""
    separator: str = "\n\n"
    """Text after each shot."""
    max_prefix_tokens: Annotated[int | None, at_least(1)] = None
    """Length limit of the prefix in tokens; a shot that would exceed it is skipped. None: the
    policy's context length minus one solution and twice the longest question among the examples and
    the validation problems."""
    max_new_tokens: Annotated[int | None, at_least(1)] = None
    """Length limit of a solution in validation, in tokens; None: the task's limit."""

    def __call__(
        self,
        *,
        rollout: Rollout,
        examples: Sequence[Example] | StoredExamples,
        validation: Sequence[Problem],
        directory: layout.IterationDir,
        start_reward: float | None = None,
    ) -> dict[str, Any]:
        """Chooses the shots and writes the prefix; the arguments are those of `improve`.

        Returns:
          The content of `improvement.json`; "validation" holds the rewards before and after.

        Raises:
          UserError: no sample was kept, no kept sample fits, or a chat cannot show the shots.
        """
        chat = rollout.card.chat
        if chat is not None and chat.shots == "turns" and not all(split_form(chat.form)):
            raise UserError(
                f"task {rollout.card.task}: its form {chat.form!r} does not show where a question"
                " begins and ends, so samples cannot become the turns of a chat; give it one such"
                ' as "Problem:\\n{problem}\\n\\nSolution:"'
            )
        if directory.improvement.exists():
            return storage.read_json(directory.improvement)
        began = time.monotonic()
        count = len(examples)
        if isinstance(examples, StoredExamples):
            examples = examples.some(_MOST_EXAMPLES, rollout.key)
        rollout = rollout.replace(max_new_tokens=self.max_new_tokens)
        shots = self._shots(rollout, examples, validation)
        if not shots:
            raise UserError(
                f"{directory.dataset}: holds no example that fits a prompt of"
                f" {self._most(rollout, examples, validation)} tokens; sample more"
                " (generate.num_samples), or raise many_shot.max_prefix_tokens"
            )
        if len(shots) < self.num_shots:
            logging.warning(
                "%s: %d shots, not the %d of many_shot.num_shots",
                directory.path.name, len(shots), self.num_shots,
            )  # fmt: skip
        renewed = rollout.replace(card=self._with(shots, rollout.card))
        rewards = []
        if validation:
            where = directory.path.name
            if start_reward is None:
                start_reward = rollout.greedy_reward(
                    validation, what=f"{where}: validating old shots"
                )
            after = renewed.greedy_reward(validation, what=f"{where}: validating new shots")
            rewards = [[0, start_reward], [1, after]]
        storage.write_json(
            directory.prefix,
            {
                "prefix": renewed.card.prefix,
                "shots": [[s.problem_id, s.sample_index] for s in shots],
                "sha256": renewed.card.prefix_sha256,
            },
        )
        return keep_policy(
            rollout.policy,
            directory,
            reward=rewards[-1][1] if rewards else None,
            validation=rewards,
            examples=count,
            began=began,
        )

    def _shots(
        self, rollout: Rollout, examples: Sequence[Example], validation: Sequence[Problem]
    ) -> list[Example]:
        """Returns examples of different problems that fit into the prefix, in random order."""
        most = self._most(rollout, examples, validation)
        shots: list[Example] = []
        order = sorted(examples, key=lambda e: (e.problem_id, e.sample_index))
        random.Random(rollout.key).shuffle(order)
        for example in order:
            if len(shots) == self.num_shots:
                break
            if example.problem_id in {s.problem_id for s in shots}:
                continue
            longer = self._with([*shots, example], rollout.card)
            if longer.chat is not None and longer.chat.shots == "turns":
                _, shown = split_shots(longer.prefix, longer.chat.form)
                if [s for _, s in shown] != [s.targets.strip() for s in (*shots, example)]:
                    continue  # it would not end where its solution ends
            if len(prompts.prefix_ids(longer, rollout.policy.vocabulary)) <= most:
                shots.append(example)
        return shots

    def _most(
        self, rollout: Rollout, examples: Sequence[Example], validation: Sequence[Problem]
    ) -> int:
        """Returns the length limit of the prefix in tokens."""
        if self.max_prefix_tokens is not None:
            return self.max_prefix_tokens
        questions = {*(e.inputs for e in examples), *(p.inputs for p in validation)}
        encoded = prompts.encode(rollout.card, sorted(questions), rollout.policy.vocabulary)
        longest = max(map(len, encoded.questions), default=0)
        solution = max(rollout.card.max_new_tokens, self.max_new_tokens or 0)
        return rollout.policy.config.max_length - solution - 2 * longest

    def _with(self, shots: Sequence[Example], card: TaskCard) -> TaskCard:
        return dataclasses.replace(card, prefix=as_prefix(shots, self.separator))


def as_prefix(shots: Sequence[Example], separator: str) -> str:
    """Returns the few-shot prompt made of these solved problems."""
    return "".join(s.inputs + s.targets.rstrip() + separator for s in shots)
