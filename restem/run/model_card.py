"""The model card of an exported policy: README.md, from the files of its run.

The card names folders of this machine by their last part only, since it may be published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from restem.checkpoints import pypi
from restem.evaluation import comparisons
from restem.evaluation.paired_tests import PairedTest
from restem.run.reader import Evaluation, StoredRun
from restem.run.reports import mapping, number
from restem.runtime import storage

_SETTINGS = (
    "em.start_from", "generate.num_samples", "generate.sampling", "select.keep", "select.distinct",
    "select.cap", "select.weight", "select.max_examples", "improve.optimizer", "improve.epochs",
    "improve.batch_examples", "improve.normalisation", "improve.adapter", "Run.train_problems",
)  # fmt: skip
"""Settings that the card lists, besides those of strategies and optimizers."""


def card(run: StoredRun, iteration: int) -> str:
    """Returns the card of the policy of an iteration, as Markdown with the Hub's front matter.

    Raises:
      UserError: a file of the run is damaged, or lacks something that the card says.
    """
    lines = [
        *_front_matter(run),
        f"# {base_name(run.model)} after {_count(iteration)} on {run.task}",
        "",
        *_introduction(run, iteration),
        "",
        *_results(run, iteration),
        *_prompt(run, iteration),
        *_training(run, iteration),
        *_settings(run),
        "## Licence",
        "",
        *_licence(run.model),
    ]
    return "\n".join(lines) + "\n"


def base_name(reference: str) -> str:
    """Returns the name of a base policy: its name on the Hub if known, else its last part."""
    model = pypi.MODELS.get(reference.removeprefix("pypi:"))
    if reference.startswith("pypi:") and model is not None:
        return model.upstream
    return reference.partition(":")[2].rstrip("/").rpartition("/")[2]


def _front_matter(run: StoredRun) -> Iterator[str]:
    yield "---"
    yield "library_name: transformers"
    yield "pipeline_tag: text-generation"
    if run.model.startswith("pypi:"):
        yield f"base_model: {json.dumps(base_name(run.model))}"
    yield "tags: [restem, self-training]"
    yield "---"
    yield ""


def _count(iteration: int) -> str:
    return "1 iteration" if iteration == 1 else f"{iteration} iterations"


def _introduction(run: StoredRun, iteration: int) -> Iterator[str]:
    method = f" (method `{run.method}`)" if run.method else ""
    restem = f"[restem](https://arxiv.org/abs/2312.06585){method}"
    made_in = trained_in(run, iteration)
    is_rewritten = run.files.iteration(iteration).prefix.exists()
    if iteration == 0:
        yield "These are the weights of the base model, before any training."
    elif made_in == 0 and is_rewritten:
        yield (
            f"These are the weights of the base model. {restem} rewrote only the few-shot prompt of"
            f" the task `{run.task}`, in {_count(iteration)}: a change on this task is that of the"
            " prompt below, with which this model was evaluated."
        )
    elif made_in == 0:
        yield (
            f"These are the weights of the base model: in {_count(iteration)} of restem{method}, no"
            " training raised the validation reward."
        )
    else:
        yield f"{restem} trained this model on the task `{run.task}`: {_procedure(run, iteration)}"
        if made_in != iteration:
            yield (
                f"The policy of iteration {iteration} is that of iteration {made_in}: later"
                " training did not raise the validation reward."
            )


def _procedure(run: StoredRun, iteration: int) -> str:
    """Returns what the run did in the iterations up to this one, as the end of a sentence."""
    if run.trains_on_human_solutions:
        return "it was fine-tuned on human solutions of the training problems."
    settings = run.settings
    every = int(number(settings.get("em.generate_every")) or 1)
    when = "in each iteration" if every == 1 else f"every {every} iterations"
    parts = [f"{when}, {'a teacher model' if run.teacher else 'a policy'} samples solutions"]
    if settings.get("generate.grading") is None:
        parts.append("a program verifies them")
    if "HumanSolutions" in mapping(settings.get("generate.extend")):
        parts.append("human solutions are added")
    parts.append(f"and {'a' if every == 1 else 'in each iteration a'} policy is fine-tuned on")
    text = f"{', '.join(parts)} {_chosen(run, iteration)}."
    if run.grades_without_gold:
        text += " No gold answer of a training problem was used."
    return text


def _chosen(run: StoredRun, iteration: int) -> str:
    """Returns in words which samples the policy is fine-tuned on."""
    weights = [
        number(mapping(i.selection.get("weights")).get("min"))
        for i in run.iterations
        if 0 < i.number <= iteration
    ]
    if any(weight is not None and weight < 0 for weight in weights):
        return "those that were kept, with negative weights for some that failed"
    if "MajorityAnswer" in mapping(run.settings.get("select.keep")):
        return "those with the most frequent answer to their problem"
    return "those that were kept"


def trained_in(run: StoredRun, iteration: int) -> int:
    """Returns the iteration whose training made the policy of `iteration`; 0: the base policy."""
    reference = run.policy_reference(iteration)
    same = (i for i in range(iteration + 1) if run.policy_reference(i) == reference)
    return next(same)


def _results(run: StoredRun, iteration: int) -> Iterator[str]:
    stored = {i.number: i for i in run.iterations}
    evals = stored[iteration].evals if iteration in stored else {}
    of_base = stored[0].evals if 0 in stored else {}
    rows = []
    for name in run.evaluations:
        e, base = evals.get(name), of_base.get(name)
        if e is None or number(e.values.get("pass@1")) is None:
            continue
        paths = [run.files.iteration(i).answers(name) for i in (0, iteration)]
        test = None
        if iteration and all(path.exists() for path in paths):
            test = comparisons.compare(*map(comparisons.read, paths)).get("greedy")
        count = "" if e.count is None else e.count
        rows.append((name, count, _rate(base), _rate(e), _difference(test)))
    if not rows:
        return
    yield "## Results"
    yield ""
    yield from _table(("evaluation", "problems", "base model", "this model", "difference"), rows)
    yield ""
    yield (
        "pass@1 with its 95% interval; differences are in percentage points, with the p-value of a"
        " paired test on the same problems."
    )
    yield ""


def _rate(evaluation: Evaluation | None) -> str:
    if evaluation is None or evaluation.pass1 is None:
        return ""
    rate = f"{100 * evaluation.pass1:.1f}%"
    if evaluation.interval is None:
        return rate
    low, high = evaluation.interval
    return f"{rate} ({100 * low:.1f} to {100 * high:.1f})"


def _difference(test: PairedTest | None) -> str:
    if test is None:
        return ""
    p_value = f"p = {test.p_value:.2g}" if test.p_value >= 1e-4 else "p < 0.0001"
    return f"{100 * test.difference:+.1f}, {p_value}"


def _prompt(run: StoredRun, iteration: int) -> Iterator[str]:
    """Yields the few-shot prompt of an iteration that rewrote it."""
    path = run.files.iteration(iteration).prefix
    if not path.exists():
        return
    prefix = str(storage.read_json(path, "prefix")["prefix"])
    # A fence is longer than any row of backticks in the text.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", prefix)), default=0))
    yield "## Prompt"
    yield ""
    yield (
        f"The few-shot prompt of `{run.task}` that the run wrote, character for character in the"
        f" file `{path.parent.name}/{path.name}` of the run's folder. Other tasks keep their own."
    )
    yield ""
    yield from (f"{fence}text", prefix.rstrip("\n"), fence, "")


def _training(run: StoredRun, iteration: int) -> Iterator[str]:
    is_human, is_blind = run.trains_on_human_solutions, run.grades_without_gold
    rows = []
    for i in run.iterations:
        if not 0 < i.number <= iteration or not i.selection:
            continue
        found = storage.read_json(
            i.files.selection, "sampled", "correct", "problems_solved", "problems", "kept"
        )
        reward = run.validation_rewards.get(i.number)
        cells = [i.number, found["sampled"]]
        if is_human:
            cells.append(found["problems"])
        elif not is_blind:
            solved = f"{found['problems_solved']} of {found['problems']}"
            cells += [found["correct"], solved]
        rows.append((*cells, found["kept"], "" if reward is None else f"{reward:.3f}"))
    if not rows:
        return
    sampled = "human solutions" if is_human else "samples"
    names = ["iteration", f"{sampled} of the teacher" if run.teacher else sampled]
    names += ["problems"] if is_human else [] if is_blind else ["correct", "problems solved"]
    yield "## Training"
    yield ""
    yield from _table((*names, "examples", "validation reward"), rows)
    yield ""


def _settings(run: StoredRun) -> Iterator[str]:
    settings = run.settings
    shown = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    bindings = mapping(run.identity.get("bindings"))
    # Values that name files belong to this machine.
    shown |= {name: value for name, value in bindings.items() if "/" not in str(value)}
    versions = mapping(run.identity.get("versions"))
    yield "## Settings"
    yield ""
    yield f"- base model: `{base_name(run.model)}`"
    yield f"- seed: {run.seed}"
    yield from (f"- `{name}`: `{json.dumps(value)}`" for name, value in shown.items())
    yield f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}"
    yield ""


def _licence(reference: str) -> Iterator[str]:
    model = pypi.MODELS.get(reference.removeprefix("pypi:"))
    if reference.startswith("pypi:") and model is not None:
        yield f"The licence of the base model applies: {model.licence}."
    else:
        yield "The licence of the base model applies."


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * len(names)}"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)
