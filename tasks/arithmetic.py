"""The task `arithmetic`: word problems and plain sums, generated from a seed.

Problems belong to families of graded difficulty (`FAMILIES`). The operands of a problem, as an
unordered tuple, are hashed to exactly one split, independently of the family and the seed. A tuple
of the training split therefore never occurs in validation or test, not even reversed or in another
family, and no answer can be given from memory.

A model of 135M parameters solves the default mix often enough for the loop to start; the harder
families suit larger models.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin

from restem.data import registry
from restem.data.splits import rank
from restem.data.task_spec import IN_A_BOX
from restem.errors import UserError
from restem.tasks import arithmetic_stories as stories
from restem.tasks import shots

# Share of the operand tuples, in twentieths. Validation and test have larger shares than their
# number of problems suggests, because a small share has too few different tuples.
_SHARES = {"train": 11, "validation": 3, "test": 6}

Operands = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """Problems of one kind."""

    name: str
    """Name in `families`."""
    level: int
    """Difficulty: 1 is one step on small numbers, 2 one step on larger numbers, 3 two steps."""
    operands: Callable[[], Iterator[Operands]]
    """Generator of all operand tuples of the family."""
    write: Callable[[Operands, random.Random], tuple[str, str, int]]
    """Function from a tuple to (question, reasoning up to the result of its equation, result)."""


@gin.configurable(module="restem.tasks")
def arithmetic(
    split: str,
    *,
    families: Sequence[str] = ("add", "multiply", "sums"),
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Returns the problems of one split, taken from the families in turn.

    Args:
      split: "train", "validation" or "test".
      families: names in `FAMILIES`; a name given twice has a double share.
      sizes: number of problems per split; default `DEFAULT_SIZES`. A smaller size gives the head of
        a larger one.
      seed: seed of operands, stories and names. The split of the operands does not depend on it.

    Returns:
      Records as `restem.data.task_spec.TaskSpec.source` describes them.

    Raises:
      UserError: if a family is unknown, or the families cannot fill a size without repeating a
        question.
    """
    sizes = {**DEFAULT_SIZES, **(sizes or {})}
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families:
        raise UserError(
            f"arithmetic.families: no family {unknown[0] if unknown else ''!r}; choose from "
            f"{', '.join(FAMILIES)}"
        )
    streams = {name: _stream(FAMILIES[name], split, seed) for name in dict.fromkeys(families)}
    questions: set[str] = set()
    counts = dict.fromkeys(streams, 0)
    records = []
    for name in itertools.islice(itertools.cycle(families), sizes[split]):
        operands, question, reasoning, result = next(
            found for found in streams[name] if found[1] not in questions
        )
        questions.add(question)
        records.append(
            {
                "problem_id": f"{split}-{name}-{counts[name]:05d}",
                "inputs": f"Problem:\n{question}\n\nSolution:",
                "answer": str(result),
                "solutions": (f"\n{_solution(reasoning, result)}",),
                "metadata": {
                    "family": name,
                    "level": FAMILIES[name].level,
                    "operands": list(operands),
                },
            }
        )
        counts[name] += 1
    return records


DEFAULT_SIZES = {"train": 480, "validation": 120, "test": 240}


def split_of(operands: Operands) -> str:
    """Returns the split of an unordered tuple of operands, the same for every family and seed."""
    key = ",".join(map(str, sorted(operands)))
    part = rank(key, seed=0, salt="arithmetic operands") % sum(_SHARES.values())
    for split, share in _SHARES.items():
        if part < share:
            return split
        part -= share
    raise AssertionError("unreachable: part is below the sum of the shares")


def _stream(family: Family, split: str, seed: int) -> Iterator[tuple[Operands, str, str, int]]:
    """Yields problems of a family endlessly; operands repeat only after all have occurred."""
    tuples = [operands for operands in family.operands() if split_of(operands) == split]
    tuples.sort(key=lambda t: rank(",".join(map(str, t)), seed=seed, salt=f"order {family.name}"))
    seen: set[str] = set()
    for cycle in itertools.count():
        fresh = 0
        for operands in tuples:
            # Text seeds and random() give the same numbers in every version of Python.
            rng = random.Random(f"{seed}/{split}/{family.name}/{operands}/{cycle}")
            question, reasoning, result = family.write(operands, rng)
            if question not in seen:
                seen.add(question)
                fresh += 1
                yield operands, question, reasoning, result
        if not fresh:
            raise UserError(
                f"arithmetic.sizes: family {family.name!r} has only {len(seen)} different {split} "
                "questions; choose a smaller size or more families"
            )


def _solution(reasoning: str, result: int) -> str:
    return (
        f"{reasoning}{result}$.\n"
        f"Final Answer: The final answer is ${result}$. I hope it is correct."
    )


def _choose(rng: random.Random, options: Sequence[Any]) -> Any:
    return options[int(rng.random() * len(options))]


def _tell(template: Sequence[str], rng: random.Random, **numbers: int) -> list[str]:
    """Returns the texts of a template with numbers, two names and a thing filled in."""
    (n, pronoun), (m, _) = _two_people(rng)
    he, him, his = stories.PRONOUNS[pronoun]
    words = {
        "n": n, "m": m, "he": he, "He": he.capitalize(), "him": him, "his": his,
        "o": _choose(rng, stories.THINGS),
    }  # fmt: skip
    return [text.format(**words, **numbers) for text in template]


def _two_people(rng: random.Random) -> tuple[tuple[str, str], tuple[str, str]]:
    first = int(rng.random() * len(stories.PEOPLE))
    second = (first + 1 + int(rng.random() * (len(stories.PEOPLE) - 1))) % len(stories.PEOPLE)
    return stories.PEOPLE[first], stories.PEOPLE[second]


def _pairs(low: int, high: int, *, ordered: bool = False) -> Callable[[], Iterator[Operands]]:
    """Returns a generator of pairs with low <= a, b <= high; in both orders if `ordered`."""

    def pairs() -> Iterator[Operands]:
        for a, b in itertools.product(range(low, high + 1), repeat=2):
            if ordered or a >= b:
                yield a, b

    return pairs


def _larger_first(low: int, high: int) -> Callable[[], Iterator[Operands]]:
    return lambda: (pair for pair in _pairs(low, high)() if pair[0] > pair[1])


def _story(templates: Sequence[tuple[str, str]], sign: str, solve: Callable[[int, int], int]):
    """Returns a writer of one-step word problems; commuting operands come in either order."""

    def write(operands: Operands, rng: random.Random) -> tuple[str, str, int]:
        a, b = operands
        if sign in ("+", "\\cdot ") and rng.random() < 0.5:
            a, b = b, a
        result = solve(a, b)
        question, reasoning = _tell(_choose(rng, templates), rng, a=a, b=b, c=result)
        return question, f"{reasoning} ${a}{sign}{b}=", result

    return write


def _share(operands: Operands, rng: random.Random) -> tuple[str, str, int]:
    a, b = operands
    question, reasoning = _tell(_choose(rng, stories.DIVIDE), rng, a=a, c=a * b)
    return question, f"{reasoning} ${a * b}/{a}=", b


def _plain(sign: str, solve: Callable[[int, int], int]):
    """Returns a writer of "What is a + b?"."""

    def write(operands: Operands, rng: random.Random) -> tuple[str, str, int]:
        a, b = operands
        if sign in ("+", "\\cdot ") and rng.random() < 0.5:
            a, b = b, a
        spoken = {"\\cdot ": "times"}.get(sign, sign)
        return f"What is {a} {spoken} {b}?", f"We compute ${a}{sign}{b}=", solve(a, b)

    return write


def _three_terms(operands: Operands, rng: random.Random) -> tuple[str, str, int]:
    a, b, c = sorted(operands, key=lambda _: rng.random())
    if rng.random() < 0.5 and a + b > c:
        return f"What is {a} + {b} - {c}?", f"${a}+{b}={a + b}$ and ${a + b}-{c}=", a + b - c
    return f"What is {a} + {b} + {c}?", f"${a}+{b}={a + b}$ and ${a + b}+{c}=", a + b + c


def _two_steps(operands: Operands, rng: random.Random) -> tuple[str, str, int]:
    a, b, d = operands
    if rng.random() < 0.5 and a + b > d:
        question, first, second = _tell(_choose(rng, stories.ADD_THEN_SUBTRACT), rng, a=a, b=b, d=d)
        return question, f"{first} ${a}+{b}={a + b}$. {second} ${a + b}-{d}=", a + b - d
    question, first, second = _tell(_choose(rng, stories.MULTIPLY_THEN_ADD), rng, a=a, b=b, d=d)
    return question, f"{first} ${a}\\cdot {b}={a * b}$. {second} ${a * b}+{d}=", a * b + d


def _equation(operands: Operands, rng: random.Random) -> tuple[str, str, int]:
    a, b, x = operands
    if rng.random() < 0.5:
        question = f"Solve for $x$: ${a}x + {b} = {a * x + b}$."
        reasoning = f"Subtracting {b} gives ${a}x={a * x}$. Dividing by {a} gives $x="
    else:
        question = f"Solve for $x$: ${a}(x + {b}) = {a * (x + b)}$."
        reasoning = f"Dividing by {a} gives $x+{b}={x + b}$. Subtracting {b} gives $x="
    return question, reasoning, x


def _triples(low: int, high: int) -> Callable[[], Iterator[Operands]]:
    return lambda: itertools.product(range(low, high + 1), repeat=3)


# Number of templates of the plain families; few, because a small model learns from a kind of story
# only if it occurs more than once or twice.
_PLAIN = 4

_plus, _minus, _times = operator.add, operator.sub, operator.mul

FAMILIES = {
    family.name: family
    for family in (
        Family("add", 1, _pairs(2, 20), _story(stories.ADD[:_PLAIN], "+", _plus)),
        Family("multiply", 1, _pairs(2, 12), _story(stories.MULTIPLY[:_PLAIN], "\\cdot ", _times)),
        Family("sums", 1, _pairs(2, 30), _plain("+", _plus)),
        Family("subtract", 2, _larger_first(2, 20), _story(stories.SUBTRACT[:_PLAIN], "-", _minus)),
        Family("longer_sums", 2, _pairs(2, 99), _plain("+", _plus)),
        Family("varied_add", 2, _pairs(2, 20), _story(stories.ADD, "+", _plus)),
        Family("varied_subtract", 2, _larger_first(2, 20), _story(stories.SUBTRACT, "-", _minus)),
        Family("varied_multiply", 2, _pairs(2, 12), _story(stories.MULTIPLY, "\\cdot ", _times)),
        Family("divide", 2, _pairs(2, 12, ordered=True), _share),
        Family("differences", 2, _larger_first(2, 99), _plain("-", _minus)),
        Family("products", 2, _pairs(2, 20), _plain("\\cdot ", _times)),
        Family("large_sums", 2, _pairs(100, 299), _plain("+", _plus)),
        Family("three_terms", 3, _triples(2, 20), _three_terms),
        Family("two_steps", 3, _triples(2, 12), _two_steps),
        Family("equations", 3, _triples(2, 12), _equation),
    )
}
"""All families by name, from the easiest to the hardest."""


registry.add(
    "arithmetic",
    source=arithmetic,
    form="Problem:\n{problem}\n\nSolution:",
    zero_shot=IN_A_BOX,
    prompt=lambda data_dir: shots.own("arithmetic_4shot"),
    stop=("\nProblem:",),
    stop_after=("I hope it is correct.",),
    grader={"kind": "math", "extraction": "minerva"},
    max_new_tokens=64,
    through_seqio=True,
)
