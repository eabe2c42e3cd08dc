"""A tokenizer of cleaned answers, for the parser."""

from __future__ import annotations

import dataclasses
import re

from restem.verify.answers.extract import balanced
from restem.verify.answers.latex.notation import MAX_CHARS, NUMBER_WORDS, ROW
from restem.verify.answers.latex.units import SCALES, SHORT_WORDS, names_unit

MAX_TOKENS = 1500


class ParseError(ValueError):
    """This is not an answer in the grammar, or it is too long or too deep for one."""


@dataclasses.dataclass(slots=True)
class Token:
    """One token; `kind` and `value` together say what it is."""

    kind: str
    """"num" (digits and point), "sym" (a letter), "cmd" (a TeX command, without its backslash),
    "text" (words), "base" (digits|base), "sep" ("or", "and" or ","), "op" (one character),
    "end"."""
    value: str
    """The token's text."""
    spaced: bool = False
    """Whether white space precedes it."""


_FUNCTIONS = "sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt"
FUNCTIONS = frozenset(_FUNCTIONS.split())
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?")
_BASE = re.compile(
    r"((?:[A-Z]*+\d[0-9A-Z]*+|[A-Z]{2,}+)(?:\.[0-9A-Z]++)?+)"
    r" ?_ ?(?:(\d)(?!\d)|\{ ?(\d{1,2}) ?\}|(\d\d))"
)
_PERIOD = re.compile(
    r"(\d*)\.(?:()\((\d+)\)|(\d+)\((\d+)\)(?= ?(?:$|[%,;)}\]]|\\(?:text|%|\})|[a-z]{2})))"
)
"""A repeating decimal, `0.1(6)`; but `0.5(8) = 4` is a product."""
_SCIENTIFIC = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:[Ee]([+-]?\d{1,6}))(?![\w.])")
_LETTERS = re.compile(r"[a-zA-Z]+")
_HYPHENATED = re.compile(r"[a-zA-Z]{2,}+(?:-[a-zA-Z]{2,}+){1,3}")
_CLOCK = re.compile(r"[ap]\. ?m\b\.?", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,2})(?::(\d\d))? ?([ap]\.? ?m)\.?", re.IGNORECASE)
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_LISTING = re.compile(r"[,;. ]*\b(?:and/or|and|or)\b[,;. ]*|[,;]", re.IGNORECASE)
_VOWEL = re.compile(r"[aeiouAEIOU]")
_FIGURES = frozenset(("triangle", "angle", "square"))
_OPERATORS = frozenset("+-*/=<>()[]{},;:|^_!'%&\"" + ROW)


def tokenize(cleaned: str, *, thousands: bool = True) -> list[Token]:
    """Returns the tokens of a cleaned answer, with an "end" token after them.

    Args:
      cleaned: result of `notation.clean`.
      thousands: read `1,234` outside brackets as one number rather than as a list of two.

    Raises:
      ParseError: if there are too many tokens, an open text group, or an invalid character.
    """
    if len(cleaned) > MAX_CHARS:
        raise ParseError("too long")
    tokens: list[Token] = []
    position = 0
    brackets = [""]
    has_base = "_" in cleaned
    while position < len(cleaned):
        char = cleaned[position]
        spaced = position > 0 and cleaned[position - 1] == " "
        if char == " ":
            position += 1
            continue
        if len(tokens) > MAX_TOKENS:
            raise ParseError("too many tokens")
        if char.isascii() and (char.isdigit() or char.isupper() or char == "."):
            subscript = bool(tokens) and tokens[-1].kind == "op" and tokens[-1].value == "_"
            # No list stands in the braces of `\\frac{1,000}{3}`.
            grouped = brackets[-1] == "{" or (thousands and not brackets[-1])
            found = _number(cleaned, position, spaced, subscript or not has_base, grouped)
            if found:
                found_tokens, position = found
                tokens += found_tokens
                continue
        if char == "\\":
            found_tokens, position = _command(cleaned, position, spaced)
            if found_tokens and found_tokens[0].kind == "cmd":
                _nest(brackets, {"{": r"\{", "}": "}"}.get(found_tokens[0].value, ""))
            tokens += found_tokens
        elif char.isascii() and char.isalpha():
            before = tokens[-1] if tokens else None
            words = _words(cleaned, position, before)
            run = words or _LETTERS.match(cleaned, position)[0]
            position += len(run)
            tokens += [Token("text", run, spaced)] if words else _letter_tokens(run, spaced, before)
        elif char == "!" and _is_unequal(cleaned, position, tokens, spaced):
            tokens.append(Token("cmd", "ne", spaced))
            position += 2
        elif char in _OPERATORS:
            _nest(brackets, char)
            if char != '"':
                tokens.append(Token("op", char, spaced))
            position += 1
        else:
            raise ParseError("a character that no answer has")
    tokens.append(Token("end", ""))
    return tokens


def _nest(brackets: list[str], bracket: str) -> None:
    """Adds an opening bracket to those that are open, or removes the last one at a closing one."""
    if bracket in ("(", "[", "{", r"\{"):
        brackets.append(bracket)
    elif bracket in (")", "]", "}") and len(brackets) > 1:
        brackets.pop()


def _number(
    cleaned: str, position: int, spaced: bool, subscript: bool, thousands: bool
) -> tuple[list[Token], int] | None:
    """Returns the number or numeral at a position, and its end; None if there is only a letter."""
    if not subscript and (match := _BASE.match(cleaned, position)):
        base = match[2] or match[3] or match[4]
        return [Token("base", f"{match[1]}|{base}", spaced)], match.end()
    if cleaned[position].isupper():
        return None
    if match := _PERIOD.match(cleaned, position):
        whole, part, digits = match[1] or "0", match[4] or "", match[3] or match[5]
        mark = [Token("cmd", "overline"), Token("op", "{"), Token("num", digits), Token("op", "}")]
        return [Token("num", f"{whole}.{part}", spaced), *mark], match.end()
    if match := _SCIENTIFIC.match(cleaned, position):
        return [Token("num", f"{match[1]}E{int(match[2])}", spaced)], match.end()
    if thousands and (match := _THOUSANDS.match(cleaned, position)):
        return [Token("num", match[0].replace(",", ""), spaced)], match.end()
    if match := _NUMBER.match(cleaned, position):
        return [Token("num", match[0], spaced)], match.end()
    raise ParseError("a stray period")


def _words(cleaned: str, position: int, before: Token | None) -> str | None:
    """Returns `twenty-one`, or `a.m.` after a number, if it is at a position."""
    match = _HYPHENATED.match(cleaned, position)
    if match and any(word.lower() in NUMBER_WORDS for word in match[0].split("-")):
        return match[0]
    match = _CLOCK.match(cleaned, position) if before and before.kind == "num" else None
    return match[0] if match else None


def _is_unequal(cleaned: str, position: int, tokens: list[Token], spaced: bool) -> bool:
    """Returns whether `!=` at a position is one sign; in `5!=120`, `!` is a factorial."""
    if not cleaned.startswith("!=", position):
        return False
    return spaced or (bool(tokens) and tokens[-1].kind in ("sym", "text"))


def _command(cleaned: str, position: int, spaced: bool) -> tuple[list[Token], int]:
    """Returns the tokens of the TeX command at a position, and where they end."""
    match = _COMMAND.match(cleaned, position)
    if match is None:
        raise ParseError("a stray backslash")
    name = match[1]
    position = match.end()
    if name == "text":
        body = cleaned[position:].lstrip()
        inner = balanced(body)
        if inner is None:
            raise ParseError("an open text group")
        position = len(cleaned) - len(body) + len(inner) + 2
        if not inner.strip():
            return [], position
        following = cleaned[position : position + 2].lstrip()[:1]
        return _text_tokens(inner, spaced, following in ("(", "{", "^", "\\")), position
    if name in "{}%$|" or name.isalpha():
        return [Token("cmd", name, spaced)], position
    raise ParseError(f"an unknown command \\{name}")


def _text_tokens(inner: str, spaced: bool, applied: bool) -> list[Token]:
    """Returns a `\\text{...}` group as words, list separators, numbers or a lone symbol."""
    words = inner.strip()
    if words == r"\$":
        return [Token("cmd", "$", spaced)]
    words = words.replace("$", " ").strip()
    if _NUMBER.fullmatch(words):
        return [Token("num", words, spaced)]
    if match := _TIME.fullmatch(words):
        hour, minutes, half = match.groups()
        rest = [Token("op", ":"), Token("num", minutes)] if minutes else []
        return [Token("num", hour, spaced), *rest, Token("text", half, True)]
    if re.fullmatch(r"[.,;:]*", words):
        return [Token("sep", ",")] if "," in words or ";" in words else []
    if inner in ("e", "i", "d"):
        # Upright, as ISO 80000-2 wants the constants and the differential.
        return [Token("sym", inner, spaced)]
    if words in FUNCTIONS or (applied and words in ("max", "min", "gcd", "lcm")):
        return [Token("cmd", words, spaced)]
    pieces = []
    last = 0
    for match in _LISTING.finditer(words):
        pieces.append((words[last : match.start()], False))
        word = match.group().lower()
        pieces.append(("or" if "or" in word else "and" if "and" in word else ",", True))
        last = match.end()
    pieces.append((words[last:], False))
    tokens: list[Token] = []
    for piece, lists in pieces:
        if lists:
            # ", and" is one separator; so is a comma that ends one text and starts the next.
            if not (tokens and tokens[-1].kind == "sep"):
                tokens.append(Token("sep", piece, spaced))
        elif _NUMBER.fullmatch(piece.strip()):
            tokens.append(Token("num", piece.strip(), spaced))
        elif piece.strip():
            tokens.append(Token("text", piece.strip(), spaced))
    return tokens


def _letter_tokens(run: str, spaced: bool, before: Token | None) -> list[Token]:
    """Returns letters outside `\\text` as a function, a word, or a product of variables.

    Letters after a value are a unit if they name one, or if they look like a word and are spaced
    like one; `24wxyz` and `2 ABC` are products.
    """
    if len(run) == 1:
        return [Token("sym", run, spaced)]
    lowered = run.lower()
    if run in FUNCTIONS or run in ("pi", "infty", "infinity", "theta"):
        return [Token("cmd", "infty" if run == "infinity" else run, spaced)]
    if lowered in ("and", "or"):
        return [Token("sep", lowered, spaced)]
    if lowered in SHORT_WORDS or lowered in NUMBER_WORDS or lowered in SCALES:
        return [Token("text", run, spaced)]
    for name in ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "sec", "csc", "cot", "sqrt"):
        if run.startswith(name) and len(run) == len(name) + 1:
            return [Token("cmd", name, spaced), Token("sym", run[-1])]
    if before is not None and before.kind == "cmd" and before.value in _FIGURES and run.isupper():
        return [Token("sym", run, spaced)]
    follows = before is not None and (
        before.kind in ("num", "sym") or (before.kind == "op" and before.value in ")]}")
    )
    if follows and not (spaced and (run.islower() or run.istitle())) and not names_unit(run):
        return [Token("sym", letter, spaced and index == 0) for index, letter in enumerate(run)]
    if (len(run) >= 4 and _VOWEL.search(run)) or (len(run) >= 3 and run.isupper()):
        return [Token("text", run, spaced)]
    if len(run) >= 3 and run[0].isupper() and run[1:].islower():
        return [Token("text", run, spaced)]
    return [Token("sym", letter, spaced and index == 0) for index, letter in enumerate(run)]
