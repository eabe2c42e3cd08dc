"""MATH's gold answers, and pairs made of them."""

from __future__ import annotations

import collections
import gzip
import json
import os
import pathlib
import random
import sys
from typing import NamedTuple

import verify_math_pairs

from restem.verify.answers.extract import extract_gold


class Gold(NamedTuple):
    """One MATH problem's reference."""

    place: str
    type: str
    problem: str
    solution: str
    answer: str


class Pair(NamedTuple):
    """An answer, the gold answer, whether they are equal (None: unknown), and their origin."""

    kind: str
    answer: str
    gold: str
    equal: bool | None


def golds() -> list[Gold]:
    """All 12,500 problems of MATH."""
    folder = os.environ.get("RESTEM_DATA_DIR")
    if not folder:
        sys.exit("set RESTEM_DATA_DIR to the folder that holds math/train.jsonl.gz")
    found = []
    for split in ("train", "test"):
        with gzip.open(pathlib.Path(folder) / "math" / f"{split}.jsonl.gz", "rt") as lines:
            for line in lines:
                row = json.loads(line)
                answer = extract_gold(row["solution"])
                place = f"{split}/{row['idx']}"
                texts = row["problem"], row["solution"], answer or ""
                found.append(Gold(place, row["type"], *texts))
    return found


def answered(rows: list[Gold]) -> list[Gold]:
    return [row for row in rows if row.answer]


def cross_pairs(rows: list[Gold], seed: int) -> list[Pair]:
    """Each gold against the answer of another problem of its type."""
    numbers = random.Random(seed)
    by_type = collections.defaultdict(list)
    for row in rows:
        by_type[row.type].append(row)
    pairs = []
    for row in rows:
        other = numbers.choice(by_type[row.type])
        while other.place == row.place:
            other = numbers.choice(by_type[row.type])
        pairs.append(Pair("another problem", other.answer, row.answer, None))
    return pairs


def derived_pairs(rows: list[Gold], seed: int) -> list[Pair]:
    """Rewritten forms of the golds, and near misses."""
    numbers = random.Random(seed)
    pairs = []
    for row in rows:
        for kind, text in verify_math_pairs.rewrites(row.answer).items():
            pairs.append(Pair(kind, text, row.answer, True))
        for kind, text in verify_math_pairs.near_misses(row.answer, numbers).items():
            pairs.append(Pair(kind, text, row.answer, False))
    return pairs
