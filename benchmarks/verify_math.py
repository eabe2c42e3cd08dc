"""Measures the mathematical verifier; verify_math.md has the results.

    export RESTEM_DATA_DIR=...   # the folder that holds math/train.jsonl.gz
    export PYTHONPATH=.
    python benchmarks/verify_math.py self
    python benchmarks/verify_math.py cross
    python benchmarks/verify_math.py distinct
    python benchmarks/verify_math.py algebra
    python benchmarks/verify_math.py rewrites
    python benchmarks/verify_math.py questions
    python benchmarks/verify_math.py compare --math_verify_python=/path/to/venv/bin/python
    python benchmarks/verify_math.py forms --math_verify_python=/path/to/venv/bin/python
    python benchmarks/verify_math.py hostile
    python benchmarks/verify_math.py speed

Only `compare` and `forms` need an interpreter from a separate environment that has math-verify.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import re
import runpy
import subprocess
import time
from unittest import mock

import verify_math_pairs
from verify_math_golds import Pair, answered, cross_pairs, derived_pairs, golds

from restem.records import Problem
from restem.verify import Verifier
from restem.verify.answers.compare import algebra
from restem.verify.answers.equivalence import _simple, compare
from restem.verify.answers.latex.notation import clean, squeeze

# The other side of `compare`: reads [gold, answer] per line, writes a boolean or an error per line.
MATH_VERIFY = """
import json, sys
from math_verify import parse, verify
for line in sys.stdin:
    gold, answer = json.loads(line)
    try:
        result = verify(parse("$" + gold + "$"), parse("$" + answer + "$"))
    except Exception as error:
        result = type(error).__name__
    print(json.dumps(result), flush=True)
"""

# Golds rewritten by a computer algebra system: reads a gold per line, writes a list of forms.
FORMS = """
import json, signal, sys
import sympy
from math_verify import parse
def alarm(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, alarm)
for line in sys.stdin:
    forms = []
    try:
        node = parse("$" + json.loads(line) + "$")[0]
        for change in (lambda x: x, sympy.expand, sympy.factor, sympy.simplify, sympy.together,
                       sympy.radsimp, lambda x: x.rewrite(sympy.exp) if x.atoms(sympy.sin) else x):
            signal.alarm(3)
            try:
                forms.append(sympy.latex(change(node)))
            except (TimeoutError, Exception):
                pass
            signal.alarm(0)
    except Exception:
        pass
    print(json.dumps(sorted(set(forms))), flush=True)
"""


def run_self(_: argparse.Namespace) -> None:
    """Every gold solution as a sample: extraction and comparison, in the worker pool."""
    rows = golds()
    problems = [Problem(row.place, "", "", answer=row.answer) for row in rows]
    start = time.perf_counter()
    with Verifier(grader={"kind": "math", "extraction": "boxed"}, workers=1) as verifier:
        verdicts = verifier.grade(problems, [row.solution for row in rows])
    seconds = time.perf_counter() - start
    wrong = [row.place for row, verdict in zip(rows, verdicts, strict=True) if not verdict.reward]
    empty = [row.place for row in rows if not row.answer]
    print(f"{len(rows)} solutions, {len(empty)} without an answer in the box: {empty}")
    print(f"correct: {len(rows) - len(wrong)}; incorrect: {wrong}; {seconds:.1f} s with one worker")
    # Equal strings need no mathematics, so compare again with 0 added to every number.
    start = time.process_time()
    methods = collections.Counter()
    failed = []
    for row in answered(rows):
        number = row.answer[0].isdigit() and "_" not in row.answer and "=" not in row.answer
        verdict = compare("0+" + row.answer if number else row.answer, row.answer)
        methods[verdict.method] += 1
        if not verdict.reward:
            failed.append((row.place, row.answer, verdict.detail))
    seconds = time.process_time() - start
    print(f"0 + gold: {dict(methods)}, {seconds:.1f} s of CPU time; not equal:")
    for case in failed:
        print("  ", case)


def run_algebra(_: argparse.Namespace) -> None:
    """How many comparisons reach the last stage, what it decides, and its cost."""
    rows = answered(golds())
    tables = runpy.run_path("tests/helpers/answer_tables.py")
    sets = {
        "golds, 0+ before numbers": [
            (f"0+{row.answer}" if row.answer[0].isdigit() else row.answer, row.answer)
            for row in rows
        ],
        "other problems": [pair[1:3] for seed in range(3) for pair in cross_pairs(rows, seed)],
        "rewrites and near misses": [pair[1:3] for pair in derived_pairs(rows, 0)],
        "table of equals": [(r["prediction"], r["gold"]) for r in tables["rows"](tables["EQUAL"])],
        "table of differents": [
            (row["prediction"], row["gold"]) for row in tables["rows"](tables["DIFFERENT"])
        ],
    }
    start = time.process_time()
    import sympy

    print(f"import of SymPy {sympy.__version__}: {time.process_time() - start:.2f} s of CPU time")
    for name, pairs in sets.items():
        asked, seconds = [], 0.0
        outcomes = collections.Counter()
        original = algebra.Oracle.__call__

        def counted(oracle, answer, gold, original=original, outcomes=outcomes, asked=asked):
            start = time.process_time()
            result = original(oracle, answer, gold)
            decided = "equal" if result.equal else result.detail or "different"
            outcomes[decided] += 1
            asked.append(time.process_time() - start)
            return result

        with mock.patch.object(algebra.Oracle, "__call__", counted):
            reached = 0
            start = time.process_time()
            for answer, gold in pairs:
                before = len(asked)
                compare(answer, gold)
                reached += len(asked) > before
            seconds = time.process_time() - start
        print(
            f"{name}: {len(pairs)} pairs in {seconds:.1f} s; {reached} reach SymPy with "
            f"{len(asked)} questions, {sum(asked):.2f} s, at most {max(asked, default=0):.3f} s: "
            f"{dict(outcomes)}"
        )


def run_distinct(arguments: argparse.Namespace) -> None:
    """Distinct golds that are not plain numbers, against others of the same shape and at random."""
    same = {squeeze(clean(row.answer)): row.answer for row in answered(golds())}
    texts = sorted(text for squeezed, text in same.items() if _simple(squeezed) is None)
    by_shape = collections.defaultdict(list)
    for text in texts:
        by_shape[re.sub(r"[\d\s]+", "", clean(text))].append(text)
    numbers = random.Random(0)
    pairs = set()
    for alike in by_shape.values():
        pairs |= set(itertools.permutations(alike, 2))
    for text in texts:
        pairs |= {(other, text) for other in numbers.sample(texts, arguments.partners)}
    pairs = sorted(pair for pair in pairs if pair[0] != pair[1])
    start = time.process_time()
    equal = 0
    for answer, gold in pairs:
        verdict = compare(answer, gold)
        if verdict.reward:
            equal += 1
            print(f"   {verdict.method} {verdict.detail}: {answer}  |  {gold}")
    seconds = time.process_time() - start
    print(
        f"{len(pairs)} ordered pairs of {len(texts)} golds: {equal} equal, {seconds:.0f} s of CPU"
    )


def run_cross(arguments: argparse.Namespace) -> None:
    pairs = []
    for seed in range(arguments.rounds):
        pairs += cross_pairs(answered(golds()), seed)
    same = positive = 0
    for pair in pairs:
        verdict = compare(pair.answer, pair.gold)
        if verdict.method == "string" and verdict.reward:
            same += 1
        elif verdict.reward:
            positive += 1
            print(f"   equal though written otherwise ({verdict.method}): {pair[1:3]}")
    print(f"{len(pairs)} pairs: {same} are the same string, {positive} more are called equal")


def run_rewrites(_: argparse.Namespace) -> None:
    count = collections.Counter()
    missed = collections.Counter()
    for pair in derived_pairs(answered(golds()), 0):
        verdict = compare(pair.answer, pair.gold)
        count[pair.equal, pair.kind] += 1
        if bool(verdict.reward) != pair.equal:
            missed[pair.equal, pair.kind] += 1
            print("   judged wrongly:", pair, verdict.method, verdict.detail)
    for (equal, kind), number in sorted(count.items()):
        name = "rewrite" if equal else "near miss"
        print(f"{name:9}  {kind:22} {number:6}  wrong {missed[equal, kind]}")
    for equal in (True, False):
        total = sum(n for key, n in count.items() if key[0] == equal)
        wrong = sum(n for key, n in missed.items() if key[0] == equal)
        print("rewrites" if equal else "near misses", total, "judged wrongly:", wrong)


# As a reader would find them, rather than as the grader does.
_FORMULA = re.compile(r"(?<!\\)\$\$?(.+?)(?<!\\)\$\$?|\\\[(.+?)\\\]", re.DOTALL)
_ASKED = re.compile(
    r"(?:[Ff]ind|[Cc]ompute|[Dd]etermine|[Ee]valuate|[Cc]alculate|[Ww]hat is)(?: the value of)?"
    r" \$([^$=<>]*[a-z][^$=<>]*)\$"
)


def run_questions(_: argparse.Namespace) -> None:
    """What the text of the question changes: answers copied from it, and names in front of them."""
    rows = answered(golds())
    copied = collections.Counter()
    named = collections.Counter()
    for row in rows:
        formulas = {(m[1] or m[2]).strip().rstrip(".,? ") for m in _FORMULA.finditer(row.problem)}
        formulas = {f for f in formulas if len(f) <= 150}
        if not any(squeeze(clean(f)) == squeeze(clean(row.answer)) for f in formulas):
            paid = [f for f in sorted(formulas) if compare(f, row.answer).reward]
            left = [f for f in paid if compare(f, row.answer, question=row.problem).reward]
            copied.update(problems=1, without=bool(paid), known=bool(left))
            for formula in left:
                print("   equal though copied:", formula, "for", row.answer)
        asked = _ASKED.search(row.problem)
        if asked and _simple(squeeze(clean(row.answer))) is not None:
            answer = f"{asked[1].rstrip(' .,?')} = {row.answer}"
            named.update(
                problems=1,
                without=int(compare(answer, row.answer).reward),
                known=int(compare(answer, row.answer, question=row.problem).reward),
            )
    print("a formula of the question is accepted:", dict(copied))
    print("`E = answer` to a question for E is accepted:", dict(named))
    changed = collections.Counter()
    for row in rows:
        for pair in derived_pairs([row], row.place):
            if compare(pair.answer, pair.gold).reward != pair.equal:
                continue
            if compare(pair.answer, pair.gold, question=row.problem).reward != pair.equal:
                changed[pair.equal] += 1
                print("   judged wrongly with the question:", row.place, pair)
    print("rewrites, near misses judged wrongly with the question:", changed[True], changed[False])


def run_compare(arguments: argparse.Namespace) -> None:
    rows = answered(golds())
    numbers = random.Random(0)
    derived = derived_pairs(rows, 0)
    tables = runpy.run_path("tests/helpers/answer_tables.py")
    by_kind = collections.defaultdict(list)
    for pair in derived:
        by_kind[pair.equal, pair.kind].append(pair)
    some = numbers.sample(rows, min(arguments.golds, len(rows)))
    pairs = [Pair("itself", row.answer, row.answer, True) for row in some]
    pairs += numbers.sample(cross_pairs(rows, 0), len(some))
    for name, equal in (("EQUAL", True), ("DIFFERENT", False)):
        for row in tables["rows"](tables[name]):
            pairs.append(Pair(f"table of {name}", row["prediction"], row["gold"], equal))
    for same_kind in by_kind.values():
        pairs += numbers.sample(same_kind, min(arguments.per_kind, len(same_kind)))
    start = time.process_time()
    ours = [bool(compare(pair.answer, pair.gold).reward) for pair in pairs]
    our_seconds = time.process_time() - start
    lines = "".join(json.dumps([pair.gold, pair.answer]) + "\n" for pair in pairs)
    start = time.perf_counter()
    done = subprocess.run(
        [arguments.math_verify_python, "-c", MATH_VERIFY],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    their_seconds = time.perf_counter() - start
    theirs = [json.loads(line) is True for line in done.stdout.splitlines()]
    table = collections.Counter()
    by_kind_table = collections.Counter()
    differing = []
    for pair, us, them in zip(pairs, ours, theirs, strict=True):
        table["not known" if pair.equal is None else pair.equal, us, them] += 1
        by_kind_table[pair.kind, pair.equal, us, them] += 1
        if us != them:
            differing.append((pair, us, them))
    print(f"restem {our_seconds:.1f} s of CPU time, math-verify {their_seconds:.1f} s")
    print("truth            restem  math-verify  pairs")
    for (truth, us, them), number in sorted(table.items(), key=str):
        print(f"{truth!s:16} {us!s:7} {them!s:12} {number}")
    with open(arguments.out, "w", encoding="utf-8") as stream:
        for pair, us, them in differing:
            record = {**pair._asdict(), "restem": us, "math_verify": them}
            stream.write(json.dumps(record) + "\n")
    print("by kind: pairs (truth; restem; math-verify)")
    for (kind, equal, us, them), number in sorted(by_kind_table.items(), key=str):
        print(f"   {kind:24} {number:6} ({equal}; {us}; {them})")
    print(f"{len(differing)} disagreements are in {arguments.out}")


def run_forms(arguments: argparse.Namespace) -> None:
    answers = {row.answer for row in answered(golds()) if not re.fullmatch(r"-?\d+", row.answer)}
    chosen = random.Random(0).sample(sorted(answers), arguments.golds)
    done = subprocess.run(
        [arguments.math_verify_python, "-c", FORMS],
        input="".join(json.dumps(answer) + "\n" for answer in chosen),
        capture_output=True,
        text=True,
        check=True,
    )
    count = 0
    for answer, line in zip(chosen, done.stdout.splitlines(), strict=True):
        for form in json.loads(line):
            count += 1
            verdict = compare(form, answer)
            if not verdict.reward:
                print(f"   {answer!r} <- {form!r}: {verdict.method}, {verdict.detail}")
    print(f"{count} forms of {len(chosen)} golds; those not called equal are listed above")


def run_hostile(_: argparse.Namespace) -> None:
    problems = [Problem("p", "", "", answer=gold) for gold in verify_math_pairs.HOSTILE_GOLDS]
    grader = {"kind": "math", "extraction": "any"}
    with Verifier(grader=grader, workers=1) as verifier:
        verifier.submit(problems[0], "5").result()

        def easy() -> float:
            start = time.perf_counter()
            verifier.grade([problems[0]] * 5000, ["5.0"] * 5000)
            return 5000 / (time.perf_counter() - start)

        print(f"before: {easy():.0f} easy answers/s")
        for name, text in verify_math_pairs.HOSTILE.items():
            start = time.perf_counter()
            verdicts = verifier.grade(problems, [text] * len(problems))
            seconds = time.perf_counter() - start
            methods = sorted({verdict.method for verdict in verdicts})
            correct = sum(verdict.reward for verdict in verdicts)
            print(f"{name:32} {seconds:6.3f} s for {len(problems)}  correct {correct:g}  {methods}")
        print(f"after: {easy():.0f} easy answers/s")


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def run_speed(_: argparse.Namespace) -> None:
    easy = [("$42$", "42"), (r"\frac{1}{2}", "0.5"), (r"\dfrac{3}{4}", r"\frac34"), ("7", "8")]
    grader = {"kind": "math", "extraction": "any"}
    start = time.perf_counter()
    with Verifier(grader=grader, workers=1) as verifier:
        problem = Problem("p", "", "", answer=r"\sqrt{8}")
        verdict = verifier.submit(problem, r"2\sqrt{2}").result()
        print(f"first verdict {verdict.reward} after {time.perf_counter() - start:.2f} s")
    for name, pairs, count in (
        ("easy", easy, 20_000),
        ("symbolic", verify_math_pairs.SYMBOLIC, 5000),
    ):
        problems = [Problem("p", "", "", answer=pairs[k % len(pairs)][1]) for k in range(count)]
        texts = [pairs[k % len(pairs)][0] for k in range(count)]
        start, cpu = time.perf_counter(), _cpu_seconds()
        with Verifier(grader=grader, workers=1) as verifier:
            correct = sum(verdict.reward for verdict in verifier.grade(problems, texts))
        wall, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
        print(
            f"{name}: {count} answers through the pool with one worker, start included: "
            f"{count / wall:.0f}/s, {count / cpu:.0f} per second of CPU time of both processes; "
            f"{correct:g} correct"
        )
    for name, pairs, rounds in (
        ("easy", easy, 2000),
        ("symbolic", verify_math_pairs.SYMBOLIC, 100),
    ):
        start = time.process_time()
        for _ in range(rounds):
            for answer, gold in pairs:
                compare(answer, gold)
        rate = rounds * len(pairs) / (time.process_time() - start)
        print(f"{name}: {rate:.0f} comparisons per second of CPU time, without the pool")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, run in (
        ("self", run_self),
        ("cross", run_cross),
        ("distinct", run_distinct),
        ("algebra", run_algebra),
        ("rewrites", run_rewrites),
        ("questions", run_questions),
        ("compare", run_compare),
        ("forms", run_forms),
        ("hostile", run_hostile),
        ("speed", run_speed),
    ):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        if name == "cross":
            command.add_argument("--rounds", type=int, default=3, help="partners for each gold")
        if name == "distinct":
            command.add_argument("--partners", type=int, default=50, help="at random, for each")
        if name in ("compare", "forms"):
            command.add_argument("--math_verify_python", required=True)
        if name == "forms":
            command.add_argument("--golds", type=int, default=1500)
        if name == "compare":
            command.add_argument("--golds", type=int, default=12_500)
            command.add_argument("--per_kind", type=int, default=300)
            command.add_argument("--out", default="math_verify_disagreements.jsonl")
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
