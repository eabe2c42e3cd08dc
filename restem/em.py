"""Algorithm 1 of the paper: the loop over iterations of Generate (E-step) and Improve (M-step).

    for i = 1 .. I:
        D_i = samples of the current policy, annotated with their reward    generate, verify
        while the reward on D_val improves:
            maximise  sum over D_i of  r(x, y) log p(y | x)                 select, improve

Each step writes files and does nothing where they are there, so the loop below is also how a run
resumes. Many hosts run it alike; the steps share out the work between them. What a method of the
family changes is bound by gin: `start_from`, `problems_per_iteration` and `generate_every` here,
who proposes in `generate`, what is kept and with what weight in `select`, how the policy is fitted
in `improve`.
"""

from __future__ import annotations

import random
from typing import Literal

import gin

from restem import records
from restem.records import Problem
from restem.run import summary
from restem.run.run import Run
from restem.runtime import distributed, storage
from restem.steps.evaluate import evaluate
from restem.steps.generate import generate
from restem.steps.improve import improve
from restem.steps.select import select


@gin.configurable
def em(
    *,
    run: Run,
    iterations: int = 3,
    start_from: Literal["base", "last"] = "base",
    problems_per_iteration: int | None = None,
    generate_every: int = 1,
    evaluate_every: int = 1,
) -> None:
    """Runs expectation-maximization, or goes on with it.

    Args:
      run: what is trained on what.
      iterations: section 5: 3 for MATH, 2 for APPS.
      start_from: the M-step fine-tunes the "base" policy (ReST-EM) or the "last" one (ReST).
      problems_per_iteration: a mini-batch of problems an iteration (IML, RAFT); None: all.
      generate_every: iterations that share the samples of the first of them: the Improve steps of
        one Generate step in ReST.
      evaluate_every: iterations between evaluations; the last is always evaluated.
    """
    run.open()
    evaluate_policy(run=run, iteration=0)
    for i in range(1, iterations + 1):
        generated_at = i - (i - 1) % generate_every
        if generated_at == i:
            generate_samples(run=run, iteration=i, problems_per_iteration=problems_per_iteration)
        select_examples(run=run, iteration=i, generated_at=generated_at)
        improve_policy(run=run, iteration=i, start_from=start_from)
        if i % evaluate_every == 0 or i == iterations:
            evaluate_policy(run=run, iteration=i)
        summary.write(run)


def generate_samples(*, run: Run, iteration: int, problems_per_iteration: int | None = None):
    """E-step: samples of the policy of iteration - 1, with their rewards."""
    generate(
        policy=run.sampler(iteration - 1),
        source=run.teacher or "policy",
        card=run.card(iteration=iteration - 1),
        problems=minibatch(run.problems("train"), iteration, problems_per_iteration, run.seed),
        directory=run.directory(iteration),
        verifier=run.verifier(),
        key=records.stable_key(run.seed, "generate", iteration),
    )


def select_examples(*, run: Run, iteration: int, generated_at: int | None = None):
    """What of the samples the policy is trained on."""
    directory = run.directory(iteration)

    def write() -> None:
        if directory.selection.exists():
            return
        samples = run.directory(generated_at or iteration).read_samples()
        sampled = {s.problem_id for s in samples}
        chosen = select(
            problems=[p for p in run.problems("train") if p.problem_id in sampled],
            samples=samples,
            iteration=iteration,
            seed=run.seed,
            step=iteration - (generated_at or iteration),
        )
        storage.write_table(directory.dataset, records.examples_to_table(chosen.examples))
        storage.write_json(directory.selection, chosen.report)

    distributed.on_first("selection", write)


@gin.configurable
def improve_policy(*, run: Run, iteration: int, start_from: str = "base", improve=improve):
    """M-step: fits the base (or the last) policy to the selected examples.

    `improve` is the step itself; reinforced ICL puts another in its place, which does not train.
    """
    directory = run.directory(iteration)

    def finished() -> bool:
        if directory.improvement.exists():
            directory.discard_training()
        return directory.improvement.exists()

    if distributed.on_first("start of the M-step", finished):
        return
    table = storage.read_table(directory.dataset)
    start = 0 if start_from == "base" else iteration - 1
    improve(
        start=run.policy(start),
        start_reward=run.validation_reward(start),
        card=run.card(iteration=iteration - 1),
        examples=records.examples_from_table(table),
        validation=run.problems("validation"),
        directory=directory,
        verifier=run.verifier(),
        key=records.stable_key(run.seed, "improve", iteration),
    )


def evaluate_policy(*, run: Run, iteration: int):
    """Evaluates the policy that `iteration` ended with on every task of the run."""
    directory = run.directory(iteration)
    for name, task, split in run.evaluated_sets:
        if distributed.on_first(f"is {name} evaluated", directory.evaluation(name).exists):
            continue
        base = run.directory(0).answers(name)
        base_answers = None
        if iteration and base.exists():
            stored = records.samples_from_table(storage.read_table(base))
            base_answers = [s for s in stored if s.sample_index > 0] or None
        evaluate(
            policy=run.policy(iteration),
            card=run.card(task, iteration=iteration),
            problems=run.evaluated_problems(task, split),
            directory=directory,
            name=name,
            verifier=run.verifier(task),
            key=records.stable_key(run.seed, "evaluate", name),
            base_answers=base_answers,
            # Pass@k is of test problems; the gap to training problems is one of greedy answers.
            **({"num_samples": 0} if split == "train" else {}),
        )


def minibatch(
    problems: list[Problem], iteration: int, size: int | None, seed: int
) -> list[Problem]:
    """The problems of one iteration: all, or the next `size` of a seeded shuffle of them.

    The shuffles of successive epochs follow one another, as in any mini-batch training.
    """
    if size is None or size >= len(problems):
        return problems
    start = (iteration - 1) * size
    chosen = []
    for position in range(start, start + size):
        epoch, index = divmod(position, len(problems))
        order = list(range(len(problems)))
        random.Random(records.stable_key(seed, "epoch", epoch)).shuffle(order)
        chosen.append(problems[order[index]])
    return list({p.problem_id: p for p in chosen}.values())
