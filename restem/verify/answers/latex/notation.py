r"""Normalization of an answer's LaTeX: no layout, and one name for each symbol.

This is the part of Minerva's normalization (arXiv 2206.14858, appendix D.1) that concerns spelling.
What Minerva *drops* (units, words, the left side of `=`) is kept here for the parser, which can
distinguish `3 \text{ cm}` from `3 \text{ m}`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from restem.verify.answers.extract import balanced

MAX_CHARS = 4000
"""Maximum characters of an answer that is parsed; longer ones are compared as strings."""

ROW = "\ue000"
r"""Stands for TeX's `\\` in cleaned answers, so that no pattern takes half of it for a command."""

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ",
    "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "≈": r"\approx ",
    "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "²": "^2", "³": "^3",
    "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " ", "\u2009": " ",
    "\u200b": "", "\u2061": "", "\ufeff": "", "⟨": r"\langle ", "⟩": r"\rangle ",
    "€": r"\text{ euros}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "∑": r"\sum ", "∏": r"\prod ",
    "⋃": r"\cup ", "⋂": r"\cap ", "≡": r"\equiv ",
}  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE)

_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut"
    r"|[bB]igg?[lrm]?|quad|qquad|thinspace|medspace|thickspace|negthinspace|enspace|hfill"
    r"|nonumber|notag|allowbreak|nobreak|rm|bf|it)(?![a-zA-Z])\.?"
)
_LAYOUT_GROUP = re.compile(
    r"\\(?:phantom|hphantom|vphantom|hspace|vspace|label|tag)\*?\s*\{[^{}]*\}"
)
_PHANTOM = re.compile(r"\\[hv]?phantom\s*[^\s{]")
_SPACING = re.compile(r"\\[,;:!> ]|\\\n|~")
_DOLLAR = re.compile(r"(?<!\\)\$")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_BINOMIAL = re.compile(r"\\[dt]binom(?![a-zA-Z])")
_TEXT = re.compile(
    r"\\(?:text(?:normal|rm|bf|it|sf|tt|sl|up|md)?|mbox|hbox|mathrm|mathsf|mathtt|operatorname)"
    r"\*?\s*(?=\{)"
)
_LETTER = re.compile(
    r"\\(?:mathrm|mathsf|mathtt|mathbf|mathit|boldsymbol|bm|mathnormal|operatorname|text)"
    r"\s+([a-zA-Z])(?![a-zA-Z])"
)
_NOT_EQUAL = re.compile(r"\\not\s*=")
_STYLE = re.compile(r"\\(?:mathbf|mathit|boldsymbol|bm|mathnormal|ensuremath|mathcal)\s*(?=\{)")
# MATH writes thousands as `1{,}000` and `1,\!000`, both of which are commas in a number for sure.
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\{,\\!\}|,\s*\\!|\\,|\\!,|\\ )\s*(?=\d{3}(?!\d))")
_THINLY = re.compile(r"(?<=\d)\\[,!]\s*(?=\d)")
_ALIASES = {
    r"\leq": r"\le", r"\leqslant": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge", r"\neq": r"\ne",
    r"\lt": "<", r"\gt": ">", r"\ast": r"\cdot", r"\bullet": r"\cdot", r"\degree": r"^\circ",
    r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\lbrace": r"\{",
    r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")",
    r"\land": r"\text{and}", r"\wedge": r"\text{and}", r"\lor": r"\text{or}",
    r"\vee": r"\text{or}", r"\bigwedge": r"\text{and}", r"\bigvee": r"\text{or}",
    r"\bigcup": r"\cup", r"\bigcap": r"\cap", r"\varnothing": r"\emptyset", r"\varphi": r"\phi",
    r"\vartheta": r"\theta", r"\varepsilon": r"\epsilon", r"\infin": r"\infty", r"\colon": ":",
    r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\backslash": r"\setminus",
    r"\smallsetminus": r"\setminus", r"\doteq": "=", r"\imath": "i", r"\dollar": r"\$",
}  # fmt: skip
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_SPACE = re.compile(r"\s+")
_GLUE = re.compile(rf" ?([-+*/=<>(){{}}\[\],;:|^_!{ROW}]) ?")
_WORDS_ONLY = re.compile(r"\\(?:[a-zA-Z]+|.)|[{}$]")
_COSMETIC = re.compile(
    r"\\(?:text|underline|emph|textsc|tt|sf|sc|sl|em|bold|bfseries|itshape)(?![a-zA-Z])"
)
_GROUP = re.compile(r"(?<![\w}^_])\s*\{([^{}]*)\}")
_SYMBOLS = re.compile(r"[<>=^_|*\u00ac\u2190-\u22ff]|\\(?:[a-zA-Z]|%)")
"""What changes the meaning of the words beside it."""
_CLOCK_DOTS = re.compile(r"\b([ap])\. ?m\b\.?")
_PUNCTUATION = re.compile(r"[^\w\s:/.+-]|(?<!\d)\.|\.(?!\d)")


def clean(answer: str) -> str:
    r"""Returns the answer with layout removed and synonyms spelled one way.

    This takes time linear in the length and never changes what the answer denotes:
    `\left( \dfrac12,\ 3 \right)` becomes `(\frac12,3)`.
    """
    text = answer.translate(_UNICODE_TABLE)
    text = text.replace("\x00", " ").replace(ROW, " ")
    if "\\" in text:
        text = _without_layout(text)
    else:
        if "{,}" in text:
            text = _THOUSANDS.sub("", text).replace("{,}", ",")
        text = text.replace("$", " ").replace("~", " ")
    text = _SPACE.sub(" ", text).strip()
    return _trim(_unwrap(_trim(text)))


def _without_layout(text: str) -> str:
    """Returns a text with layout commands removed and synonyms spelled one way."""
    # Functions as replacements: templates with a backslash are expanded in Python.
    text = text.replace("\\\\$", "\\$")
    text = text.replace("\\\\", ROW)
    text = _THOUSANDS.sub("", text)
    text = text.replace("{,}", ",")
    text = text.replace(r"\(", "").replace(r"\)", "")
    text = text.replace(r"\[", "").replace(r"\]", "")
    text = _DOLLAR.sub(" ", text)
    # A thin space between digits groups them; anywhere else it is only a space.
    text = _THINLY.sub("", text)
    text = _SPACING.sub(" ", text)
    text = _LAYOUT_GROUP.sub(" ", text)
    if "phantom" in text:
        text = _PHANTOM.sub(" ", text)
    text = _LAYOUT.sub(" ", text)
    text = _FRACTION.sub(lambda _: r"\frac", text)
    if "binom" in text:
        text = _BINOMIAL.sub(lambda _: r"\binom", text)
    text = _TEXT.sub(lambda _: r"\text", text)
    text = _LETTER.sub(lambda match: " " + match[1], text)
    if r"\not" in text:
        text = _NOT_EQUAL.sub(lambda _: r"\ne ", text)
    text = _STYLE.sub("", text)
    return _COMMAND.sub(lambda match: _ALIASES.get(match.group(), match.group()), text)


def _unwrap(text: str) -> str:
    for _ in range(4):
        for start in ("\\boxed{", "\\fbox{", "{"):
            if text.startswith(start) and text.endswith("}"):
                inner = balanced(text[len(start) - 1 :])
                if inner is not None and len(inner) == len(text) - len(start) - 1:
                    text = inner.strip()
                    break
        else:
            return text
    return text


def _trim(text: str) -> str:
    """Returns the text without the punctuation that ends the sentence around an answer."""
    while text and text[-1] in ".,;: " and not text.endswith(("\\.", "\\,", "\\;", "\\:")):
        text = text[:-1]
    return text


def squeeze(cleaned: str) -> str:
    """Returns a cleaned answer without meaningless spaces, for comparison as a string."""
    return _GLUE.sub(lambda match: match[1], cleaned)


def text_key(cleaned: str) -> str:
    """Returns the words of a verbal answer, in lower case with single spaces, for comparison.

    If the answer has commands or operators, they and all brackets stay where they are.
    """
    text = _COSMETIC.sub(" ", cleaned)
    if _SYMBOLS.search(text):
        plain = _GROUP.sub(lambda match: f" {match[1]} ", text)
        return squeeze(_SPACE.sub(" ", plain)).strip().casefold()
    text = _WORDS_ONLY.sub(" ", text)
    text = _CLOCK_DOTS.sub(lambda match: match[1] + "m", text.casefold())
    text = _PUNCTUATION.sub(" ", text)
    words = text.replace("_", " ").split()
    # In `a circle` the article says nothing; in `A, B` it is a letter.
    if len(words) > 1 and words[0] in ("the", "a", "an") and len(words[1]) > 1:
        words = words[1:]
    return " ".join(words)


HEDGES = frozenset(("about", "approximately", "approx", "roughly", "exactly"))
"""Words before a number that do not change it."""

_ONES = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_COMPOUNDS = [f"{ten} {one}".rstrip() for ten in _TENS.split() for one in ("", *_ONES.split())]
NUMBER_WORDS = {
    word: value for value, word in enumerate(["zero", *_ONES.split(), *_TEENS.split(), *_COMPOUNDS])
}
"""Whole numbers below 100 by their names, which have no hyphens here."""
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
PARTS = {word: value for value, word in enumerate(_ORDINALS.split(), start=3)}
PARTS |= {"half": 2, "quarter": 4, "hundredth": 100, "thousandth": 1000}
"""Denominators by their names, in the singular."""


def named_number(words: str) -> Fraction | None:
    """Returns the value of `twenty-one`, `two thirds` or `a half`; None for other words."""
    words = words.casefold().replace("-", " ")
    if words in NUMBER_WORDS:
        return Fraction(NUMBER_WORDS[words])
    top, _, bottom = words.rpartition(" ")
    count = 1 if top in ("a", "an") else NUMBER_WORDS.get(top)
    part = named_part(bottom)
    # `twenty fifth` and `third` name a place in an order.
    if part is None or not count or count > 19 or (count > 1) != (bottom not in PARTS):
        return None
    return Fraction(count, part)


def named_part(word: str) -> int | None:
    """Returns the denominator that a word such as `third` or `tenths` names."""
    word = word.casefold()
    return 2 if word == "halves" else PARTS.get(word) or PARTS.get(word.removesuffix("s"))
