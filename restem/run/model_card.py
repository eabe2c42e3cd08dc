"""The model card of an exported policy: README.md, from the files of its run.

The card names folders of this machine by their last part only, since it may be published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from restem.checkpoints import pypi
from restem.run import summary
from restem.run.reader import StoredRun

_SETTINGS = (
    "em.start_from", "generate.num_samples", "generate.sampling", "select.keep", "select.distinct",
    "select.cap", "select.weight", "select.max_examples", "improve.optimizer", "improve.epochs",
    "improve.batch_examples", "improve.normalisation", "improve.adapter", "Run.train_problems",
)  # fmt: skip
"""Settings that the card lists, besides those of strategies and optimizers."""


def card(run: StoredRun, iteration: int) -> str:
    """Returns the card of the policy of an iteration, as Markdown with the Hub's front matter."""
    entries = {entry["iteration"]: entry for entry in summary.summarize(run)["iterations"]}
    lines = [
        *_front_matter(run),
        f"# {base_name(run.model)} after {_count(iteration)} on {run.task}",
        "",
        *_introduction(run, iteration),
        "",
        *_results(entries, iteration),
        *_training(run, entries, iteration),
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
    if iteration == 0:
        yield "These are the weights of the base model, before any training."
        return
    if trained_in(run, iteration) == 0:
        yield (
            f"These are the weights of the base model: in {_count(iteration)} of restem{method}, no"
            " training raised the validation reward."
        )
        return
    yield (
        f"[restem](https://arxiv.org/abs/2312.06585){method} trained this model on the task"
        f" `{run.task}`: in each iteration, a policy samples solutions, a program verifies them,"
        " and a policy is fine-tuned on those that were kept."
    )
    if trained_in(run, iteration) != iteration:
        yield (
            f"The policy of iteration {iteration} is that of iteration"
            f" {trained_in(run, iteration)}: later training did not raise the validation reward."
        )


def trained_in(run: StoredRun, iteration: int) -> int:
    """Returns the iteration whose training made the policy of `iteration`; 0: the base policy."""
    reference = run.policy_reference(iteration)
    same = (i for i in range(iteration + 1) if run.policy_reference(i) == reference)
    return next(same)


def _results(entries: Mapping[int, Mapping[str, Any]], iteration: int) -> Iterator[str]:
    entry, base = entries.get(iteration, {}), entries.get(0, {})
    found = {
        name: report
        for name, report in entry.get("evals", {}).items()
        if report.get("pass@1") is not None
    }
    if not found:
        return
    yield "## Results"
    yield ""
    yield from _table(("evaluation", "problems", "base model", "this model", "difference"), [
        (
            name, report["n"], _rate(base.get("evals", {}).get(name)), _rate(report),
            _difference(entry.get("versus_base", {}).get(name, {}).get("greedy")),
        )
        for name, report in found.items()
    ])  # fmt: skip
    yield ""
    yield (
        "pass@1 with its 95% interval; differences are in percentage points, with the p-value of a"
        " paired test on the same problems."
    )
    yield ""


def _rate(report: Mapping[str, Any] | None) -> str:
    if report is None or report.get("pass@1") is None:
        return ""
    low, high = report["ci95"]
    return f"{100 * report['pass@1']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def _difference(test: Mapping[str, Any] | None) -> str:
    if test is None:
        return ""
    p_value = f"p = {test['p_value']:.2g}" if test["p_value"] >= 1e-4 else "p < 0.0001"
    return f"{100 * test['difference']:+.1f}, {p_value}"


def _training(
    run: StoredRun, entries: Mapping[int, Mapping[str, Any]], iteration: int
) -> Iterator[str]:
    rows = []
    for i in range(1, iteration + 1):
        selection = entries.get(i, {}).get("selection")
        if selection is None:
            continue
        reward = run.validation_rewards.get(i)
        solved = f"{selection['problems_solved']} of {selection['problems']}"
        rows.append((
            i, selection["sampled"], selection["correct"], solved, selection["kept"],
            "" if reward is None else f"{reward:.3f}",
        ))  # fmt: skip
    if not rows:
        return
    yield "## Training"
    yield ""
    names = ("samples", "correct", "problems solved", "examples", "validation reward")
    yield from _table(("iteration", *names), rows)
    yield ""


def _settings(run: StoredRun) -> Iterator[str]:
    settings = run.identity.get("settings") or {}
    shown = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    bindings = run.identity.get("bindings") or {}
    # Values that name files belong to this machine.
    shown |= {name: value for name, value in bindings.items() if "/" not in str(value)}
    versions = run.identity.get("versions") or {}
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
