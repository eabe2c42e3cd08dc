"""Comparison of two policies by their answers to the same problems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from etils import epath

from restem.errors import UserError
from restem.evaluation.paired_tests import PairedTest, paired_test
from restem.records import COMPLETIONS_SOURCE, CORRECT_REWARD
from restem.runtime import storage

UNGRADED = "ungraded"
"""`Verdict.method` of an answer whose task has no grader; its reward is a placeholder."""


class Answers(NamedTuple):
    """The columns of an evaluation's answers, or of samples, that a comparison needs."""

    problem_id: np.ndarray
    """[n] str."""
    is_greedy: np.ndarray
    """[n] bool; see `greedy_column`."""
    correct: np.ndarray
    """[n] float32, 1 or 0; NaN until verified."""


def compare(before: Answers, after: Answers) -> dict[str, PairedTest]:
    """Pairs the answers of two evaluations by problem.

    Args:
      before: answers of the first policy.
      after: answers of the second.

    Returns:
      `greedy`: the test of pass@1 (exact McNemar). `sampled`: the test of the average success per
      problem (sign flips, bootstrap interval), if both have samples. Empty if the two share no
      problem.
    """
    found = {}
    for name, is_greedy in (("greedy", True), ("sampled", False)):
        a, b = (success(answers, is_greedy=is_greedy) for answers in (before, after))
        shared = sorted(a.keys() & b.keys())
        if shared:
            found[name] = paired_test([a[p] for p in shared], [b[p] for p in shared])
    return found


def compare_files(first: str, second: str) -> dict[str, PairedTest]:
    """Compares two files `evals/TASK.parquet`, or two of `restem score`; see `compare`.

    Raises:
      UserError: if a file is missing or not an evaluation, its answers are not graded, the two
        share no problem with answers of the same kind, or problems of the same id have other
        gold answers.
    """
    paths = epath.Path(first), epath.Path(second)
    before, after = map(read, paths)
    for path in paths:
        _require_graded(path)
    _require_same_problems(*paths)
    found = compare(before, after)
    if not found:
        raise UserError(
            f"{first} and {second} share no problem with verified answers of the same kind (a"
            " single one, or several samples); give two evaluations of the same task"
        )
    return found


def _require_same_problems(*paths: epath.Path) -> None:
    """Raises UserError if problems of the same id have other gold answers, where both files have
    their problems at hand; ids may be positions in a file that was edited since."""
    first, second = map(_golds, paths)
    shared = first.keys() & second.keys()
    others = sorted(name for name in shared if first[name] != second[name])
    if others:
        raise UserError(
            f"{paths[0]} and {paths[1]}: {len(others)} of {len(shared)} problems have the same id,"
            f" such as {others[0]!r}, but other gold answers: the task's data changed between the"
            " two evaluations; evaluate both policies on the same data"
        )


def _golds(path: epath.Path) -> dict[str, tuple[str | None, str | None]]:
    """Returns answer and tests of each problem of an evaluation; empty if they are not at hand."""
    for folder in list(path.absolute().parents)[:3]:  # of a score, or of a run
        stored = folder / "problems" / path.name
        if stored.exists():
            rows = storage.read_columns(stored, ("problem_id", "answer", "tests")).to_pylist()
            return {row["problem_id"]: (row["answer"], row["tests"]) for row in rows}
    return {}


def read(path: epath.Path) -> Answers:
    """Reads the answers of an evaluation, or samples.

    Raises:
      UserError: if the file does not exist, or is not a table of samples.
    """
    names = ("problem_id", "sample_index", "reward", "verdict", "source")
    table = storage.read_columns(path, names)
    try:
        columns = [table.column(name) for name in names]
    except KeyError as e:
        raise UserError(f"{path}: not a table of answers ({e}); give evals/TASK.parquet") from None
    ids, index, reward, verdict, source = columns
    return Answers(
        np.array(ids.to_pylist(), object),
        greedy_column(index.to_numpy(), np.array(source.to_pylist(), object)),
        correct_column(reward, verdict),
    )


def _require_graded(path: epath.Path) -> None:
    """Raises UserError if the answers in a file have placeholders for rewards."""
    import pyarrow.compute as pc

    verdict = storage.read_columns(path, ("verdict",)).column("verdict")
    names = [verdict.type.field(i).name for i in range(verdict.type.num_fields)]
    if "method" not in names:
        return
    if pc.any(pc.equal(pc.struct_field(verdict, "method"), UNGRADED)).as_py():
        raise UserError(
            f"{path}: these answers are not graded, so there is nothing to compare; humans grade"
            " them, and `restem score --grades=TASK.sheet.csv` adds their points up"
        )


def greedy_column(sample_index: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Returns which answers of an evaluation are greedy: [n] bool.

    Greedy answers have the index 0 and precede the samples. A file of `restem score` with several
    outputs per problem has samples only.

    Args:
      sample_index: [n] int32.
      source: [n] str; see `Sample.source`.
    """
    of_outputs = source == COMPLETIONS_SOURCE
    several = bool(np.any(sample_index[of_outputs] > 0))
    return (sample_index == 0) & ~(of_outputs & several)


def correct_column(reward, verdict) -> np.ndarray:
    """Returns which samples are correct: [n] float32, 1 or 0; NaN until verified.

    This is `Sample.correct` as a column. Verdicts of version 0.1 lack the field `correct`.

    Args:
      reward: pyarrow array of rewards, [n].
      verdict: pyarrow array of verdicts, [n] structs.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rewards = pc.fill_null(reward, float("nan")).to_numpy(zero_copy_only=False)
    correct = (rewards >= CORRECT_REWARD).astype(np.float32)
    names = [verdict.type.field(i).name for i in range(verdict.type.num_fields)]
    if "correct" in names:
        stated = pc.cast(pc.struct_field(verdict, "correct"), pa.float32())
        stated = pc.fill_null(stated, float("nan")).to_numpy(zero_copy_only=False)
        correct = np.where(np.isnan(stated), correct, stated)
    return np.where(np.isnan(rewards), np.float32("nan"), correct)


def sentences(found: dict[str, PairedTest], first: str, second: str) -> list[str]:
    """Returns a comparison in words, one line for each kind of answer."""
    words = {"greedy": "pass@1, greedy", "sampled": "average success of samples"}
    lines = [f"A: {first}", f"B: {second}"]
    for name, test in found.items():
        low, high = test.ci
        lines.append(
            f"{words[name]}: B - A = {100 * test.difference:+.1f} points (95% interval"
            f" {100 * low:+.1f} to {100 * high:+.1f}), p = {test.p_value:.2g} ({test.name}); of"
            f" {test.n} problems B is better on {test.only_b}, A on {test.only_a}"
        )
    return lines


def success(answers: Answers, *, is_greedy: bool) -> dict[str, float]:
    """Returns the share of correct answers per problem, of greedy answers or of samples."""
    problem, greedy, correct = answers
    chosen = (greedy == is_greedy) & ~np.isnan(correct)
    names, place = np.unique(problem[chosen].astype(str), return_inverse=True)
    if not len(names):
        return {}
    rates = np.bincount(place, correct[chosen], len(names)) / np.bincount(place)
    return dict(zip(names.tolist(), rates.tolist(), strict=True))
