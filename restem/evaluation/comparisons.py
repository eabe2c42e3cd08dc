"""Two policies on the same problems: the difference of their rewards, and how sure it is."""

from __future__ import annotations

import numpy as np
from etils import epath

from restem.errors import UserError
from restem.evaluation import metrics
from restem.evaluation.metrics import PairedTest
from restem.runtime import storage

Rewards = tuple[np.ndarray, np.ndarray, np.ndarray]
"""problem_id [n] str, sample_index [n] int32, reward [n] float32, NaN where not verified."""


def compare(before: Rewards, after: Rewards) -> dict[str, PairedTest]:
    """Pairs the answers of two evaluations by problem.

    Args:
      before: of the first policy; sample 0 is the greedy answer, the others are sampled.
      after: of the second.

    Returns:
      `greedy`: the paired test of pass@1 (exact McNemar); `sampled`: that of the average success a
      problem (sign flips, with the bootstrap's interval), where both have samples; {} where they
      share no problem.
    """
    found = {}
    for name, is_greedy in (("greedy", True), ("sampled", False)):
        a, b = _success(before, is_greedy), _success(after, is_greedy)
        shared = sorted(a.keys() & b.keys())
        if shared:
            found[name] = metrics.paired_test([a[p] for p in shared], [b[p] for p in shared])
    return found


def compare_files(first: str, second: str) -> dict[str, PairedTest]:
    """`compare` of two `evals/TASK.parquet`.

    Raises:
      UserError: one is missing or no evaluation, or they share no problem.
    """
    found = compare(read(epath.Path(first)), read(epath.Path(second)))
    if not found:
        raise UserError(f"{first} and {second} share no problem: two evaluations of one task do")
    return found


def read(path: epath.Path) -> Rewards:
    """What a comparison needs of an evaluation's answers, or of samples.

    Raises:
      UserError: no such file, or not a table of samples.
    """
    table = storage.read_table(path)
    try:
        columns = [table.column(n) for n in ("problem_id", "sample_index", "reward")]
    except KeyError as e:
        raise UserError(f"{path}: not a table of answers ({e}); give evals/TASK.parquet") from None
    reward = columns[2].to_numpy().astype(np.float32)
    return np.array(columns[0].to_pylist(), object), columns[1].to_numpy(), reward


def sentences(found: dict[str, PairedTest], first: str, second: str) -> list[str]:
    """A comparison in words, a line for each kind of answer."""
    words = {"greedy": "pass@1, greedy", "sampled": "average success of samples"}
    lines = [f"A: {first}", f"B: {second}"]
    for name, test in found.items():
        low, high = test.ci
        how = "exact McNemar test" if test.method == "mcnemar" else "sign-flip test"
        lines.append(
            f"{words[name]}: B - A = {100 * test.difference:+.1f} points (95% interval"
            f" {100 * low:+.1f} to {100 * high:+.1f}), p = {test.p_value:.2g} ({how}); of"
            f" {test.n} problems B is better on {test.only_b}, A on {test.only_a}"
        )
    return lines


def _success(rewards: Rewards, is_greedy: bool) -> dict[str, float]:
    """Share of correct answers by problem, of the greedy ones or of the samples."""
    problem, index, reward = rewards
    chosen = ((index == 0) == is_greedy) & ~np.isnan(reward)
    names, place = np.unique(problem[chosen].astype(str), return_inverse=True)
    if not len(names):
        return {}
    right = np.bincount(place, reward[chosen] >= 1.0, len(names))
    return dict(zip(names.tolist(), (right / np.bincount(place)).tolist(), strict=True))
