r"""Pairs of answers whose equality is known by construction, derived from gold answers.

`rewrites` writes an equal answer in another way; `near_misses` writes a different answer that looks
similar. Both use string operations and exact arithmetic on the text of the answer, and nothing of
the verifier that they test.
"""

from __future__ import annotations

import random
import re
from fractions import Fraction

_FRACTION = re.compile(r"\\frac\{(\d+)\}\{(\d+)\}")
_WHOLE_FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
_INTEGER = re.compile(r"-?\d+")
_DECIMAL = re.compile(r"(-?\d*)\.(\d+)")
_UNIT = re.compile(
    r"(.*\d[^a-zA-Z]*?)\s*(?:\\,|\\ )?\\(?:text|mbox|textnormal)\s*\{\s*[a-z .]+\}(?:\^\d)?"
)
_POINT = re.compile(r"\((-?\d+),\s*(-?\d+)\)")
_BASE = re.compile(r"(-?[\d.]+)_\{?(\d+)\}?")


def top_level(text: str, separators: str) -> list[tuple[str, str]]:
    """Pieces of `text` between separators outside all brackets, each with the sign before it."""
    pieces = []
    depth = 0
    sign, start = "", 0
    for position, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char in separators and depth == 0:
            if position > start or pieces or separators == ",":
                pieces.append((sign, text[start:position].strip()))
            sign, start = char, position + 1
    pieces.append((sign, text[start:].strip()))
    return pieces


def _decimal(value: Fraction) -> str | None:
    """The finite decimal of a fraction, or None."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1 or value.denominator > 10**6:
        return None
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    text = digits[:-places] + "." + digits[-places:] if places else digits
    return "-" + text if value < 0 else text


def _sum_commuted(gold: str) -> str | None:
    if re.search(r"[=<>,:|]|\\le|\\ge|\\in|\\cup|\\text|\\mbox|\\pm|\\begin|\.$", gold):
        return None
    pieces = [(sign, piece) for sign, piece in top_level(gold, "+-") if piece or sign == ""]
    if pieces and pieces[0] == ("", ""):
        pieces = pieces[1:]
    if len(pieces) < 2 or any(not piece for _, piece in pieces):
        return None
    text = " ".join(f"{sign or '+'} {piece}" for sign, piece in reversed(pieces))
    return text.removeprefix("+ ")


def rewrites(gold: str) -> dict[str, str]:
    """The gold answer in other forms, by kind of rewriting; only those that change the text."""
    out: dict[str, str] = {}
    if "\\!" not in gold:
        out["spaces added"] = re.sub(r"(?<![\\a-zA-Z^_,{!])([+=,()])(?![!}])", r" \1 ", gold)
    out["spaces dropped"] = re.sub(r"(?<![a-zA-Z\\]) (?![a-zA-Z\\0-9])|(?<=[+=,(]) ", "", gold)
    out["dfrac"] = gold.replace(r"\frac", r"\dfrac")
    out["tfrac"] = gold.replace(r"\frac", r"\tfrac")
    out["frac12"] = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold)
    out["slash"] = re.sub(r"^(-?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", gold)
    if "\\left" not in gold and "\\cup" not in gold:
        out["left right"] = re.sub(r"^\((.*)\)$", r"\\left(\1\\right)", gold)
    out["dollars around"] = f"${gold}$"
    out["period after"] = gold + "."
    commuted = _sum_commuted(gold)
    if commuted:
        out["sum commuted"] = commuted
    whole = _WHOLE_FRACTION.fullmatch(gold.strip())
    if whole and int(whole[3]):
        value = Fraction(int(whole[2]), int(whole[3])) * (-1 if whole[1] else 1)
        decimal = _decimal(value)
        if decimal:
            out["equal decimal"] = decimal
        out["fraction not reduced"] = (
            rf"{whole[1]}\frac{{{3 * int(whole[2])}}}{{{3 * int(whole[3])}}}"
        )
        out["sign on top"] = rf"\frac{{{whole[1]}{whole[2]}}}{{{whole[3]}}}"
        if abs(value) > 1 and value.denominator > 1:
            part = abs(value) - int(abs(value))
            out["mixed number"] = (
                rf"{whole[1]}{int(abs(value))}\frac{{{part.numerator}}}{{{part.denominator}}}"
            )
    decimal = _DECIMAL.fullmatch(gold.strip())
    if decimal:
        value = Fraction(gold.strip())
        out["equal fraction"] = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
        out["zero after"] = gold.strip() + "0"
    if _INTEGER.fullmatch(gold.strip()):
        number = int(gold)
        if abs(number) >= 1000:
            out["thousands"] = f"{number:,}"
            out["thousands in braces"] = f"{number:,}".replace(",", "{,}")
        out["decimal zero"] = f"{number}.0"
    unit = _UNIT.fullmatch(gold.strip())
    if unit:
        out["unit dropped"] = unit[1]
    if r"\%" in gold and "=" not in gold:
        out["per cent dropped"] = gold.replace(r"\%", "").strip()
    if r"\$" in gold and "approx" not in gold:
        out["currency dropped"] = gold.replace(r"\$", "").strip()
    if re.fullmatch(r"-?[\d.]+\^\{?\\circ\}?", gold.strip()):
        number = re.match(r"-?[\d.]+", gold.strip())[0]
        out["degree dropped"] = number
        out["degrees in words"] = number + r"\text{ degrees}"
    pieces = top_level(gold, ",")
    if len(pieces) > 1 and not re.search(r"\d,\d{3}|\\!|=|\\text|\\\{", gold):
        out["list reversed"] = ", ".join(piece for _, piece in reversed(pieces))
        out["list in braces"] = r"\{" + ", ".join(piece for _, piece in pieces) + r"\}"
    out["bmatrix"] = gold.replace("pmatrix", "bmatrix")
    out["root as power"] = re.sub(r"\\sqrt\{(\d+)\}", r"{\1}^{1/2}", gold)
    out["product dot"] = re.sub(r"^(\d+) ?\\(sqrt\{\d+\}|pi)$", r"\\\2 \\cdot \1", gold)
    out["root over"] = re.sub(
        r"^\\frac\{\\sqrt\{(\d+)\}\}\{(\d+)\}$", r"\\frac{1}{\2} \\sqrt{\1}", gold
    )
    if re.fullmatch(r"-?\d+|-?\\frac\{\d+\}\{\d+\}", gold.strip()):
        out["labelled"] = "x = " + gold
    out["plus infinity"] = re.sub(r"(?<!-)\\infty", r"+\\infty", gold)
    return {kind: text for kind, text in out.items() if text != gold}


def near_misses(gold: str, numbers: random.Random) -> dict[str, str]:
    """Answers that look like the gold answer but differ from it, by kind of mistake."""
    out: dict[str, str] = {}
    text = gold.strip()
    whole = _WHOLE_FRACTION.fullmatch(text)
    if _INTEGER.fullmatch(text):
        number = int(text)
        out["one more"] = str(number + 1)
        out["a tenth"] = _decimal(Fraction(number, 10)) or "1/7" if number else "0.1"
        out["a little more"] = text + ".0001"
        if number:
            out["sign"] = str(-number)
            out["a hundredth"] = _decimal(Fraction(number, 100))
        if abs(number) > 10**6:
            out["last digit"] = str(number - 1)
        if number not in (0, 1):
            out["as an exponent"] = rf"10^{{{number}}}" if abs(number) < 10**4 else str(number + 2)
    if whole and int(whole[3]) > 1 and int(whole[2]):
        top, bottom = int(whole[2]), int(whole[3])
        out["denominator"] = rf"{whole[1]}\frac{{{top}}}{{{bottom + 1}}}"
        out["upside down"] = rf"{whole[1]}\frac{{{bottom}}}{{{top}}}" if top != bottom else "2"
        value = Fraction(top, bottom)
        if _decimal(value) is None:
            out["rounded"] = whole[1] + f"{float(value):.4f}"
            out["rounded far"] = whole[1] + f"{float(value):.15f}"
    point = _POINT.fullmatch(text)
    if point and point[1] != point[2]:
        out["swapped"] = f"({point[2]},{point[1]})"
    if re.fullmatch(r"\([^()]*\\infty\)|\(-\\infty,[^()]*\)", text) and "\\cup" not in text:
        other = "[" + text[1:] if "-\\infty" not in text else text[:-1] + "]"
        out["end point closed"] = other
    pieces = top_level(text, ",")
    if len(pieces) > 1 and not re.search(r"\d,\d{3}|\\!|=|\\text|\\begin|\\\{", text):
        names = [piece for _, piece in pieces]
        if len(set(names)) == len(names):
            out["one missing"] = ", ".join(names[:-1])
            out["one too many"] = ", ".join([*names, "97"])
    base = _BASE.fullmatch(text)
    if base:
        out["another base"] = f"{base[1]}_{{{int(base[2]) + 1}}}"
    roots = list(re.finditer(r"\\sqrt\{(\d+)\}", text))
    if roots:
        root = numbers.choice(roots)
        changed = rf"\sqrt{{{int(root[1]) + 1}}}"
        out["radicand"] = text[: root.start()] + changed + text[root.end() :]
    if r"\pi" in text and not re.search(r"[(\[]|\\frac ?\\pi", text):
        out["pi rounded"] = text.replace(r"\pi", r"\cdot 3.14159265358979").lstrip(r"\cdot ")
    if re.search(r"\^2(?!\d)", text) and "\\text" not in text and "mbox" not in text:
        out["exponent"] = re.sub(r"\^2(?!\d)", "^3", text, count=1)
    if (
        re.fullmatch(r"[^,=<>:]*[^,=<>:(] ?- ?[^,=<>:]*", text)
        and "{" not in text
        and "(" not in text
    ):
        head, _, tail = text.rpartition("-")
        out["minus to plus"] = head + "+" + tail
    if r"\%" in text and (number := re.fullmatch(r"([\d.]+) ?\\%", text)):
        out["factor of 100"] = _decimal(Fraction(number[1]) / 100) + r"\%"
    if match := re.fullmatch(r"\\text\{\(?([A-Z])\)?\}", text):
        out["next letter"] = r"\text{(" + chr(ord("A") + (ord(match[1]) - 64) % 26) + ")}"
    return {kind: t for kind, t in out.items() if t is not None and t != text}


HOSTILE = {
    "a tower of powers": r"9^{9^{9^{9}}}",
    "a double factorial": "10000!!",
    "a binomial": r"\binom{10^9}{5}",
    "10,000 fractions": r"\frac{" * 10_000 + "1" + "}{2}" * 10_000,
    "a million digits": "1" * 10**6,
    "a million letters": "x" * 10**6,
    "a million brackets": "(" * 10**6,
    "100,000 braces": "{" * 10**5,
    "lone surrogates": "\ud800\udfff",
    "NUL": "5\x006",
    "an import": "__import__('os').system('id')",
    "a dunder": "().__class__.__bases__[0].__subclasses__()",
    "a large power of a sum": "(x+1)^{100000}",
    "a power of a radical": r"(1+\sqrt{2})^{99999}",
    "200 radicals": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 202)),
    "200 sines": "+".join(rf"\sin({n})" for n in range(2, 202)),
    "a root of unity of large order": r"\cos\frac{\pi}{99991}",
    "exponentials of exponentials": r"e^{e^{e^{e^{10}}}}",
    "35 nested roots": r"\sqrt{2+" * 35 + "1" + "}" * 35,
    "a list of 1,900": "1," * 1900 + "1",
    "factorials of factorials": "5!!!!!!!!!",
    "announcements": "Final Answer: The final answer is" * 10_000,
}
HOSTILE_GOLDS = ("5", "x+1", r"\sqrt{2}+\sqrt{3}", "(1,2)", r"\text{odd}")

SYMBOLIC = (
    (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{\sqrt{6}-\sqrt{2}}{4}", r"\sin 15^\circ"),
    (r"\frac{2\pi}{\sqrt{3}}", r"\frac{2\pi\sqrt{3}}{3}"),
    ("(2x+1)(x-3)", "2x^2-5x-3"),
    (r"2\sin x\cos x", r"\sin 2x"),
    (r"y=2x+1", r"4x-2y+2=0"),
    (r"(-\infty,2]\cup(2,5)", "x<5"),
    (r"\frac{1+3i}{1-i}", "-1+2i"),
    (r"\log_2 12", r"2+\frac{\ln 3}{\ln 2}"),
)
"""Pairs whose equality neither text nor rational arithmetic shows."""
