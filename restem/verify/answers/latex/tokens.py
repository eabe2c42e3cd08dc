"""Cuts a cleaned answer into tokens for `math_parser`."""

from __future__ import annotations

import dataclasses
import re

from restem.verify.answers.extract import balanced
from restem.verify.answers.latex import notation as math_notation

MAX_TOKENS = 1500


class ParseError(ValueError):
    """This is not an answer in the grammar, or it is too long or too deep for one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """One token; `kind` and `value` together say what it is."""

    kind: str
    """"num" (digits and point), "sym" (a letter), "cmd" (a TeX command, without its backslash),
    "text" (words), "base" (digits|base), "sep" (a word that lists), "op" (one character), "end"."""
    value: str
    """The token's text."""
    spaced: bool = False
    """Whether white space stood before it."""
    tight: bool = False
    """For "num": whether its commas were read as thousands separators."""


_FUNCTIONS = "sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt"
FUNCTIONS = frozenset(_FUNCTIONS.split())
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?")
_BASE = re.compile(
    r"((?:\d[0-9A-Z]*|[A-Z][0-9A-Z]*\d[0-9A-Z]*|[A-Z]{2,})(?:\.[0-9A-Z]+)?)"
    r" ?_ ?(?:(\d)(?!\d)|\{ ?(\d{1,2}) ?\}|(\d\d))"
)
_SCIENTIFIC = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:E([+-]?\d{1,6})|e([+-]\d{1,6}))(?![\w.])")
_LETTERS = re.compile(r"[a-zA-Z]+")
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_LISTING = re.compile(r"[,;. ]*\b(?:and/or|and|or)\b[,;. ]*|[,;]", re.IGNORECASE)
_VOWEL = re.compile(r"[aeiouyAEIOUY]")
_OPENERS = frozenset("([{")


def tokenize(cleaned: str, *, thousands: bool = True) -> list[Token]:
    """Tokens of a cleaned answer.

    Args:
      cleaned: what `math_notation.clean` returned.
      thousands: read `1,234` outside brackets as one number rather than as a list of two.

    Raises:
      ParseError: too many tokens, unbalanced text groups, or a character that no answer has.
    """
    if len(cleaned) > math_notation.MAX_CHARS:
        raise ParseError("too long")
    tokens: list[Token] = []
    position = 0
    depth = 0
    end = len(cleaned)
    while position < end:
        char = cleaned[position]
        spaced = position > 0 and cleaned[position - 1] == " "
        if char == " ":
            position += 1
            continue
        if len(tokens) > MAX_TOKENS:
            raise ParseError("too many tokens")
        if char.isascii() and (char.isdigit() or char.isupper()):
            match = _BASE.match(cleaned, position)
            if match and not (tokens and tokens[-1] == Token("op", "_", tokens[-1].spaced)):
                base = match[2] or match[3] or match[4]
                tokens.append(Token("base", f"{match[1]}|{base}", spaced))
                position = match.end()
                continue
        if char.isascii() and (char.isdigit() or char == "."):
            match = _SCIENTIFIC.match(cleaned, position)
            if match:
                exponent = match[2] or match[3]
                tokens.append(Token("num", f"{match[1]}E{int(exponent)}", spaced))
                position = match.end()
                continue
            match = _THOUSANDS.match(cleaned, position) if thousands and depth == 0 else None
            if match:
                tokens.append(Token("num", match[0].replace(",", ""), spaced, True))
                position = match.end()
                continue
            match = _NUMBER.match(cleaned, position)
            if match is None:
                raise ParseError("a stray period")
            tokens.append(Token("num", match[0], spaced))
            position = match.end()
            continue
        if char == "\\":
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
                position = end - len(body) + len(inner) + 2
                if not inner.strip():
                    continue
                following = cleaned[position : position + 2].lstrip()[:1]
                tokens.extend(_text_tokens(inner, spaced, following in ("(", "{", "^", "\\")))
            elif name in "{}%$|" or name.isalpha():
                if name == "{":
                    depth += 1
                elif name == "}":
                    depth -= 1
                tokens.append(Token("cmd", name, spaced))
            else:
                raise ParseError(f"an unknown command \\{name}")
            continue
        if char.isascii() and char.isalpha():
            run = _LETTERS.match(cleaned, position)[0]
            position += len(run)
            tokens.extend(_letter_tokens(run, spaced))
            continue
        if char in "+-*/=<>()[]{},;:|^_!'%&\"" or char == math_notation.ROW:
            if char in _OPENERS:
                depth += 1
            elif char in ")]}":
                depth -= 1
            if char != '"':
                tokens.append(Token("op", char, spaced))
            position += 1
            continue
        raise ParseError("a character that no answer has")
    tokens.append(Token("end", ""))
    return tokens


def _text_tokens(inner: str, spaced: bool, applied: bool) -> list[Token]:
    """A `\\text{...}` group as words, list separators, numbers or a lone symbol."""
    words = inner.strip()
    words = words.replace("$", " ").strip()
    if _NUMBER.fullmatch(words):
        return [Token("num", words, spaced)]
    if re.fullmatch(r"[.,;:]*", words):
        return [Token("sep", ",")] if "," in words or ";" in words else []
    if words in FUNCTIONS or (applied and words in ("max", "min", "gcd", "lcm")):
        return [Token("cmd", words, spaced)]
    pieces = []
    last = 0
    for match in _LISTING.finditer(words):
        pieces += [words[last : match.start()], None]
        last = match.end()
    pieces.append(words[last:])
    tokens: list[Token] = []
    for piece in pieces:
        if piece is None:
            # ", and" is one separator; so is a comma that ends one text and starts the next.
            if not (tokens and tokens[-1].kind == "sep"):
                tokens.append(Token("sep", ",", spaced))
        elif _NUMBER.fullmatch(piece.strip()):
            tokens.append(Token("num", piece.strip(), spaced))
        elif piece.strip():
            tokens.append(Token("text", piece.strip(), spaced))
    return tokens


def _letter_tokens(run: str, spaced: bool) -> list[Token]:
    """Letters outside `\\text`: a function, a word, or a product of one-letter variables."""
    if len(run) == 1:
        return [Token("sym", run, spaced)]
    lowered = run.lower()
    if run in FUNCTIONS or run in ("pi", "infty", "infinity", "theta"):
        return [Token("cmd", "infty" if run == "infinity" else run, spaced)]
    if lowered in ("and", "or"):
        return [Token("sep", ",", spaced)]
    if lowered in math_notation.SHORT_WORDS or lowered in math_notation.NUMBER_WORDS:
        return [Token("text", run, spaced)]
    for name in ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "sec", "csc", "cot", "sqrt"):
        if run.startswith(name) and len(run) == len(name) + 1:
            return [Token("cmd", name, spaced), Token("sym", run[-1])]
    if (len(run) >= 4 and _VOWEL.search(run)) or (len(run) >= 3 and run.isupper()):
        return [Token("text", run, spaced)]
    if len(run) >= 3 and run[0].isupper() and run[1:].islower():
        return [Token("text", run, spaced)]
    return [Token("sym", letter, spaced and index == 0) for index, letter in enumerate(run)]
