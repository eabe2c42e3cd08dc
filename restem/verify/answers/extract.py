"""Finds the final answer in a solution, or in a data set's reference solution.

Every mode looks at the *last* announcement of an answer and at nothing before it. If that one is
malformed or cut off, there is no answer, so a model that boxes a guess early and runs out of room
earns nothing. All scans are linear in the length of the text.
"""

from __future__ import annotations

import re

from restem.errors import UserError

MODES = ("minerva", "boxed", "minerva_or_boxed", "answer_is", "hashes", "last_number", "any")

# Minerva's 4-shot prompt (arXiv 2206.14858, appendix D.2) ends each solution with this sentence.
_SENTENCE = "Final Answer: The final answer is"
_SENTENCE_END = "I hope it is correct"
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_ANSWER_IS = re.compile(r"the answer is", re.IGNORECASE)
_SENTENCE_STOP = re.compile(r"\.(?=\s|$)|\n")
_NUMBER = re.compile(r"-?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|-?\$?\.\d+")


def extract(text: str, *, mode: str = "minerva") -> str | None:
    r"""Returns the final answer that a solution announces, or None.

    Args:
      text: a sampled solution, of any length and content.
      mode: what counts as announcing the answer:
        "minerva": the sentence `Final Answer: The final answer is $...$. I hope it is correct.`
        "boxed": the last `\boxed{...}` or `\fbox{...}`, braces balanced, or `\boxed 2`.
        "minerva_or_boxed": the sentence; without it, the last box.
        "answer_is": `The answer is N.`, as in the chain-of-thought prompts for GSM8K.
        "hashes": what follows the last `####`, as in GSM8K's reference solutions.
        "last_number": the last number in the text; lenient, so never a default.
        "any": as "minerva_or_boxed", but the whole text if it announces nothing; for final
          answers that may or may not come with a solution.

    Returns:
      The answer as written, without outer white space and `$`; None if the last announcement is
      missing, cut off, unbalanced or empty.

    Raises:
      UserError: an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"unknown extraction {mode!r}; choose one of {', '.join(MODES)}")
    if mode == "minerva":
        found = _sentence(text)
    elif mode == "boxed":
        found = _last_box(text)
    elif mode == "minerva_or_boxed":
        found = _sentence(text) if _SENTENCE in text else _last_box(text)
    elif mode == "answer_is":
        found = _answer_is(text)
    elif mode == "hashes":
        _, mark, after = text.rpartition("####")
        found = after.strip().split("\n", 1)[0] if mark else None
    elif mode == "any":
        if _SENTENCE in text:
            found = _sentence(text)
        else:
            found = _last_box(text) if _BOX.search(text) else text
    else:
        found = None
        for match in _NUMBER.finditer(text):
            found = match.group()
    return _undelimit(found)


def extract_gold(solution: str) -> str | None:
    r"""Returns the gold answer of a MATH solution: its last `\boxed{}`, `\fbox{}` or `\boxed 2`.

    It is None if the last box is absent or unbalanced.
    """
    return _undelimit(_last_box(solution))


def _undelimit(answer: str | None) -> str | None:
    if answer is None:
        return None
    answer = answer.strip()
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = answer[len(left) : len(answer) - len(right)]
        if (
            len(answer) >= len(left) + len(right)
            and answer.startswith(left)
            and answer.endswith(right)
            and not inner.endswith("\\")
            and left not in inner.replace("\\$", "")
        ):
            answer = inner.strip()
            break
    return answer or None


def _sentence(text: str) -> str | None:
    start = text.rfind(_SENTENCE)
    if start < 0:
        return None
    start += len(_SENTENCE)
    end = text.find(_SENTENCE_END, start)
    if end < 0:
        return None
    answer = text[start:end].strip()
    # The period belongs to the sentence and not to the answer.
    return answer.removesuffix(".")


def _last_box(text: str) -> str | None:
    start = None
    for match in _BOX.finditer(text):
        start = match.end()
    if start is None:
        return None
    rest = text[start:]
    body = rest.lstrip()
    if body.startswith("{"):
        return balanced(body)
    # `\boxed 2`: TeX would take one token, but authors mean everything up to the formula's end.
    if rest[:1].isspace() or body[:1].isdigit():
        return re.split(r"\$|\n|\\\)|\\\]", body, maxsplit=1)[0].rstrip(" .")
    return None


def balanced(text: str) -> str | None:
    r"""Returns the inside of the brace group that `text` starts with; None if it never closes.

    Escaped braces (`\{`, `\}`) do not count.
    """
    depth = 0
    skip = False
    for position, char in enumerate(text):
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[1:position]
    return None


def _answer_is(text: str) -> str | None:
    start = None
    for match in _ANSWER_IS.finditer(text):
        start = match.end()
    if start is None:
        return None
    rest = text[start:].lstrip(" :")
    stop = _SENTENCE_STOP.search(rest)
    return rest[: stop.start()] if stop else rest
