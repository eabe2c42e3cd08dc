"""The steps of the loop on lists in memory: what `import restem` offers to Python programs.

Each function is the step of the same name with the same defaults, without a run's folder. Seeds are
those of a run's iteration 1, so the samples of `generate`, and what `select` keeps of them, equal
those of `restem run` with the same settings. `restem.verify(task, samples)` is the remaining step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from jax.sharding import Mesh

from restem import checkpoints, records
from restem.checkpoints.policy import Policy
from restem.data import fingerprints
from restem.data.task import Task
from restem.errors import UserError
from restem.models.lora import Lora
from restem.records import Example, Sample
from restem.rollout import Rollout
from restem.run import identity, layout
from restem.run import settings as checking
from restem.runtime import storage
from restem.steps.evaluate import evaluate as evaluate_step
from restem.steps.improve import improve as improve_step
from restem.steps.select import select as select_step
from restem.steps.settings import (
    EvaluateSettings,
    GenerateSettings,
    ImproveSettings,
    SelectSettings,
    Settings,
)
from restem.verify import Verifier

T = TypeVar("T")


def generate(
    policy: Policy,
    task: Task,
    *,
    split: str = "train",
    seed: int = 0,
    mesh: Mesh | None = None,
    slots: int | None = None,
    **settings: Any,
) -> list[Sample]:
    """Samples solutions of a task's problems: the E-step without verification.

    Args:
      policy: the policy that writes the solutions.
      task: the task.
      split: which of its problems are sampled.
      seed: equal seeds give equal samples, whatever the other problems are.
      mesh: devices; None: the first one.
      slots: samples decoded concurrently; None: chosen by the engine.
      **settings: `num_samples`, `sampling` and `max_new_tokens` of `GenerateSettings`.

    Returns:
      Samples without a reward, in the order of the problems and of their indices.

    Raises:
      UserError: the split is empty, a setting is invalid, or a prompt is too long for the policy.
    """
    made = _checked(GenerateSettings, settings, ("num_samples", "sampling", "max_new_tokens"))
    problems = task.of_split(split)
    with Verifier(grader={"kind": "none"}) as ungraded:
        rollout = Rollout(
            policy=policy,
            card=task.card,
            verifier=ungraded,
            key=records.stable_key(seed, "generate", 1),
            sampling=made.sampling,
            max_new_tokens=made.max_new_tokens,
            mesh=mesh,
            slots=slots,
        )
        samples = [
            dataclasses.replace(sample, reward=None, verdict=None)  # type: ignore[arg-type]
            for sample in rollout.sample(problems, made.num_samples, what="sampling")
        ]
    place = {problem.problem_id: index for index, problem in enumerate(problems)}
    return sorted(samples, key=lambda s: (place[s.problem_id], s.sample_index))


def select(
    task: Task,
    samples: Sequence[Sample],
    *,
    seed: int = 0,
    samples_are_own: bool = True,
    **settings: Any,
) -> list[Example]:
    """Chooses and weights the samples that a policy is trained on.

    Args:
      task: the task.
      samples: verified samples of its problems.
      seed: seed of the random choices.
      samples_are_own: whether the policy that is trained drew the samples. Those of a teacher are
        trained on as text, since its tokens may be others.
      **settings: fields of `SelectSettings`: `keep`, `distinct`, `cap`, `weight`, `max_examples`.

    Raises:
      UserError: a setting is invalid.
      ValueError: a sample has no reward; see `restem.verify`.
    """
    made = _checked(SelectSettings, settings)
    sampled = {sample.problem_id for sample in samples}
    problems = [problem for problem in task.problems if problem.problem_id in sampled]
    return select_step(
        problems=problems, samples=samples, iteration=1, seed=seed, settings=made,
        samples_are_own=samples_are_own,
    ).examples  # fmt: skip


def improve(
    policy: Policy,
    task: Task,
    examples: Sequence[Example],
    *,
    seed: int = 0,
    mesh: Mesh | None = None,
    slots: int | None = None,
    folder: str | pathlib.Path | None = None,
    **settings: Any,
) -> Policy:
    """Fine-tunes a policy on examples: the M-step.

    Training stops when the reward on the task's validation problems no longer improves. Without
    validation problems it takes all epochs.

    Args:
      policy: the policy to start from; it is left as it is.
      task: the task, whose prefix precedes every example.
      examples: weighted training pairs.
      seed: seed of the order of the examples.
      mesh: devices; None: the first one.
      slots: samples decoded concurrently in validation; None: chosen by the engine.
      folder: empty or missing folder for the checkpoint, the training curves and the state from
        which the same call resumes; None: a temporary one.
      **settings: fields of `ImproveSettings`, such as `optimizer`, `epochs`, `batch_examples`.

    Returns:
      The policy with the best validation reward, which is `policy` if training never raised it.

    Raises:
      UserError: a setting is invalid, there is no example, training diverged, or the folder holds
        the result of other arguments.
    """
    made = _checked(ImproveSettings, settings)
    made.check_optimizer()
    if not examples:
        raise UserError("there are no examples to train on: sample more, or a stronger policy")
    if made.adapter is not None:
        _check_base(policy, made.adapter)
    with _directory(folder) as directory, Verifier(grader=task.card.grader) as verifier:
        if folder is not None:
            call = {
                "policy": policy.reference,
                "task": fingerprints.of_list(task),
                "seed": seed,
                "settings": identity.settings_of(Settings(improve=made), only=("improve",)),
                "examples": records.stable_key(*map(dataclasses.astuple, examples)),
            }
            _claim(directory, call)
        report = improve_step(
            rollout=Rollout(
                policy=policy,
                card=task.card,
                verifier=verifier,
                key=records.stable_key(seed, "improve", 1),
                mesh=mesh,
                slots=slots,
            ),
            examples=examples,
            validation=[p for p in task.problems if p.split == "validation"],
            directory=directory,
            settings=made,
        )
        if not report["improved"]:
            return policy
        dtype = str(policy.params["embedding"].dtype)
        trained = checkpoints.load(f"orbax:{directory.checkpoint}", dtype=dtype)
    return trained if folder else trained.replace(reference=f"{policy.reference}, fine-tuned")


def evaluate(
    policy: Policy,
    task: Task,
    *,
    split: str = "test",
    seed: int = 0,
    mesh: Mesh | None = None,
    slots: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluates a policy on a task's problems.

    Args:
      policy: the policy.
      task: the task.
      split: which of its problems are asked.
      seed: seed of the samples for pass@k; two policies are compared under the same one.
      mesh: devices; None: the first one.
      slots: samples decoded concurrently; None: chosen by the engine.
      **settings: fields of `EvaluateSettings`, such as `num_samples` for pass@k and maj@k.

    Returns:
      What `evals/TASK.json` of a run holds: "pass@1", "ci95", "n" and others (docs/evaluation.md).

    Raises:
      UserError: the split is empty, or a setting is invalid.
    """
    made = _checked(EvaluateSettings, settings)
    problems = task.of_split(split)
    with _directory(None) as directory, Verifier(grader=task.card.grader) as verifier:
        return evaluate_step(
            rollout=Rollout(
                policy=policy,
                card=task.card,
                verifier=verifier,
                key=records.stable_key(seed, "evaluate", task.name),
                mesh=mesh,
                slots=slots,
            ),
            problems=problems,
            directory=directory,
            name=task.name,
            settings=made,
        )


def _claim(directory: layout.IterationDir, call: dict[str, Any]) -> None:
    """Marks a folder as that of a call, or checks that it is.

    Raises:
      UserError: it is another call's.
    """
    path = directory.path / "call.json"
    if not path.exists():
        storage.write_json(path, call)
        return
    stored = storage.read_json(path)
    if other := [name for name in call if stored.get(name) != call[name]]:
        raise UserError(
            f"{directory.path.parent}: holds the result of another call of improve, with other"
            f" {', '.join(other)}; give each call a folder of its own"
        )


def _check_base(policy: Policy, form: Lora) -> None:
    """Checks that the adapter to be trained can be stored beside the reference of its base.

    Raises:
      UserError: the base exists in memory only.
    """
    is_continued = policy.adapter is not None and policy.adapter.form == form
    if is_continued:
        return
    try:
        checkpoints.load_header(policy.reference)
    except UserError as error:
        raise UserError(
            f"improve.adapter: an adapter is stored with the reference of its base, and {error};"
            " pass folder= to the call that makes the base"
        ) from error


@contextlib.contextmanager
def _directory(folder: str | pathlib.Path | None) -> Iterator[layout.IterationDir]:
    """Yields a folder for the files of a step, deleted afterwards unless it has a name."""
    if folder is not None:
        yield layout.Workdir(folder).iteration(1)
        return
    with tempfile.TemporaryDirectory(prefix="restem-") as temporary:
        yield layout.Workdir(temporary).iteration(1)


def _checked(cls: type[T], given: dict[str, Any], allowed: Sequence[str] = ()) -> T:
    """Returns settings of a step after checking their names, types and ranges."""
    names = allowed or [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if unknown := sorted(given.keys() - set(names)):
        raise UserError(f"there is no setting {unknown[0]!r} here; it has {', '.join(names)}")
    made = cls(**given)
    checking.check(made)
    return made
