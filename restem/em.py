"""Algorithm 1 of the paper: the loop over iterations of Generate (E-step) and Improve (M-step).

    for i = 1 .. I:
        D_i = samples of the current policy, annotated with their reward    generate, verify
        while the reward on D_val improves:
            maximise  sum over D_i of  r(x, y) log p(y | x)                 select, improve

Each step writes files and skips work whose files exist, so the loop below also resumes a run. Every
host runs the same loop; the steps divide the work among hosts. A method of the family is a set of
settings: the loop's own (`start_from`, `problems_per_iteration`, `generate_every`), who proposes
solutions (`generate`), which samples are kept and with what weight (`select`), and how the policy
is fitted to them (`improve`).
"""

from __future__ import annotations

import array
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from absl import logging

from restem import records
from restem.evaluation import comparisons
from restem.records import Problem
from restem.rollout import Rollout
from restem.rollout.completions import Completed
from restem.run import reader, shards, summary, trackers
from restem.run.problems import at
from restem.run.run import Run
from restem.runtime import distributed, storage
from restem.steps import moments, space
from restem.steps.evaluate import evaluate
from restem.steps.generate import generate
from restem.steps.improve import improve
from restem.steps.select import Pool, Selector, select_shards
from restem.steps.settings import Settings


def em(*, run: Run, settings: Settings = Settings()) -> dict[str, Any]:
    """Runs expectation-maximization, or continues it.

    Args:
      run: the base policy, the task and the run's folder.
      settings: settings of the loop and its steps; those of `run` take the place of its `run`.

    Returns:
      The content of `summary.json`.

    Raises:
      UserError: a setting is invalid, or the folder holds another run.
    """
    settings = dataclasses.replace(settings, run=run.settings)
    settings.check()
    run.open(settings)
    distributed.run_on_primary("free space", lambda: space.check(settings, run.files))
    evaluate_policy(run=run, settings=settings, iteration=0)
    loop = settings.loop
    for i in range(1, loop.iterations + 1):
        if generated_at(i, settings) == i:
            generate_samples(run=run, settings=settings, iteration=i)
        select_examples(run=run, settings=settings, iteration=i)
        improve_policy(run=run, settings=settings, iteration=i)
        if i % loop.evaluate_every == 0 or i == loop.iterations:
            evaluate_policy(run=run, settings=settings, iteration=i)
        summary.write(run.files)
    return summary.write(run.files)


def generated_at(iteration: int, settings: Settings) -> int:
    """Returns the iteration whose samples `iteration` trains on; ReST's Improve steps share one."""
    return iteration - (iteration - 1) % settings.loop.generate_every


def generate_samples(
    *, run: Run, settings: Settings, iteration: int, completions: Sequence[str] = ()
) -> None:
    """E-step: samples from the policy of `iteration - 1` and records the rewards.

    Args:
      run: the run.
      settings: its settings.
      iteration: number of the iteration.
      completions: files of samples that another engine drew from this policy; empty: none.
    """
    directory = run.directory(iteration)
    if distributed.run_on_primary("are the samples drawn", directory.generation.exists):
        return  # without loading a policy
    given: dict[str, Any] = dict(
        card=run.card(iteration=iteration - 1),
        verifier=run.verifier(),
        key=records.stable_key(run.seed, "generate", iteration),
        **run.e_step(),
    )
    if completions:
        header = run.sampler_header(iteration - 1)
        rollout: Rollout = Completed.of(completions, policy=header, **given)
    else:
        rollout = Rollout(policy=run.sampler(iteration - 1), **given)
    generate(
        rollout=rollout,
        problems=asked_problems(run, settings, iteration),
        directory=directory,
        source=run.settings.teacher or "policy",
        settings=settings.generate,
    )


def asked_problems(run: Run, settings: Settings, iteration: int) -> Sequence[Problem]:
    """Returns the training problems that the E-step of an iteration samples."""
    loop = settings.loop
    step = (iteration - 1) // loop.generate_every + 1
    return minibatch(run.problems("train"), step, loop.problems_per_iteration, run.seed)


def select_examples(*, run: Run, settings: Settings, iteration: int) -> None:
    """Chooses the samples that the policy is trained on."""
    directory = run.directory(iteration)
    if distributed.run_on_primary("start of the selection", directory.selection.exists):
        return
    first = generated_at(iteration, settings)
    paths = shards.sampled(run.directory(first))
    problems = run.problems("train")

    def pool(shard: int) -> Pool:
        samples, rows = shards.read(paths[shard])
        return Pool(shards.problems_of(samples, rows, problems), samples)

    report = select_shards(
        Selector(
            iteration,
            run.seed,
            settings.select,
            step=iteration - first,
            samples_are_own=run.settings.teacher is None,
        ),
        [directory.dataset / path.name for path in paths],
        pool,
    )

    def write() -> None:
        storage.write_json(directory.selection, report)
        names = ("sampled", "correct", "kept", "problems_solved")
        trackers.log(iteration, {f"select/{name}": report[name] for name in names})

    distributed.run_on_primary("selection", write)


def improve_policy(*, run: Run, settings: Settings, iteration: int) -> None:
    """M-step: fits the base or the last policy to the selected examples."""
    directory = run.directory(iteration)

    def finished() -> bool:
        if directory.improvement.exists():
            directory.discard_training()
            if settings.improve.keep_optimizer:
                moments.discard(reader.policy_reference(run.files, iteration - 1), directory)
        return directory.improvement.exists()

    if distributed.run_on_primary("start of the M-step", finished):
        return
    examples = shards.StoredExamples(directory)
    # A method that rewrites the prompt continues from the last prompt.
    is_base = (
        settings.loop.start_from == "base" and not run.directory(iteration - 1).prefix.exists()
    )
    start = 0 if is_base else iteration - 1
    # Rounded to the dtype of sampling, the last policy would lose most of a small step.
    is_continued = start > 0 and settings.loop.improve is None and settings.improve.adapter is None
    dtype = settings.improve.param_dtype if is_continued else None
    # The base policy is validated under the limit of the policies that it is compared with.
    limit = getattr(settings.loop.improve or settings.improve, "max_new_tokens", None)
    rollout = Rollout(
        policy=run.policy(start, dtype=dtype),
        card=run.card(iteration=iteration - 1),
        verifier=run.verifier(),
        key=records.stable_key(run.seed, "improve", iteration),
        max_new_tokens=limit,
        **run.m_step(),
    )
    if rollout.validation_mesh is not None:
        # From here on the policy lies on the mesh of training alone.
        rollout = rollout.placed()
        run.forget_policy()
    fit = settings.loop.improve or (lambda **given: improve(**given, settings=settings.improve))
    fit(
        rollout=rollout,
        examples=examples,
        validation=run.problems("validation"),
        directory=directory,
        start_reward=validation_reward(run=run, rollout=rollout, iteration=start),
    )


def validation_reward(*, run: Run, rollout: Rollout, iteration: int) -> float | None:
    """Returns the reward on D_val of the policy of `iteration`; None without validation problems.

    The base policy's reward is measured once, with `rollout`; the M-step measures every other one.
    """
    if iteration:
        return storage.read_json(run.directory(iteration).improvement, "best_validation")[
            "best_validation"
        ]
    problems = run.problems("validation")
    if not problems:
        logging.warning(
            "without validation problems, the M-step takes all epochs and keeps the last policy"
        )
        return None
    path = run.directory(0).validation
    if not distributed.run_on_primary("is the base policy validated", path.exists):
        reward = rollout.greedy_reward(problems, what="validating the base policy")
        measured = {"reward": reward, "n": len(problems), "policy": rollout.policy.reference}
        distributed.run_on_primary(
            "the base policy's validation", lambda: storage.write_json(path, measured)
        )
    return storage.read_json(path, "reward")["reward"]


def evaluate_policy(*, run: Run, settings: Settings, iteration: int) -> None:
    """Evaluates the policy of `iteration` on every task of the run."""
    directory = run.directory(iteration)
    for name, task, split in run.evaluated_sets:
        if distributed.run_on_primary(f"is {name} evaluated", directory.evaluation(name).exists):
            continue
        base = run.directory(0).answers(name)
        of_base: dict[str, float] | None = {} if iteration else None
        if iteration and base.exists():
            of_base = comparisons.success(comparisons.read(base), is_greedy=False)
        evaluate(
            rollout=Rollout(
                policy=run.policy(iteration),
                card=run.card(task, iteration=iteration),
                verifier=run.verifier(task),
                key=records.stable_key(run.seed, "evaluate", name),
                **run.e_step(),
            ),
            problems=run.evaluated_problems(task, split),
            directory=directory,
            name=name,
            of_base=of_base,
            settings=settings.evaluate.of_split(split),
        )


def minibatch(
    problems: Sequence[Problem], step: int, size: int | None, seed: int
) -> Sequence[Problem]:
    """Returns the problems of one E-step: all of them, or the next `size` in a seeded shuffle.

    Each epoch has a shuffle of its own, and a mini-batch may span two epochs. The problems of a
    mini-batch are in their original order.
    """
    if size is None or size >= len(problems):
        return problems
    chosen: set[int] = set()
    position, stop = (step - 1) * size, step * size
    while position < stop:
        epoch, index = divmod(position, len(problems))
        order = array.array("q", range(len(problems)))
        random.Random(records.stable_key(seed, "epoch", epoch)).shuffle(order)
        chosen.update(order[index : index + stop - position])
        position += min(stop - position, len(problems) - index)
    return at(problems, sorted(chosen))
