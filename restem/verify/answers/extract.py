"""Extraction of the final answer from a solution or a data set's reference solution.

Every mode considers only the *last* announcement of an answer. If it is malformed or cut off, there
is no answer, so a model that boxes a guess early and then runs out of tokens earns nothing. If a
text continues with another problem (`Problem:` at the start of a line) after an announcement, the
rest of it is ignored. All scans are linear in the length of the text.
"""

from __future__ import annotations

import itertools
import re

from restem.errors import UserError

MODES = (
    "minerva", "boxed", "boxes", "minerva_or_boxed", "answer_is", "hashes", "last_number", "any",
)  # fmt: skip

# Minerva's 4-shot prompt (arXiv 2206.14858, appendix D.2) ends each solution with the sentence
# "Final Answer: The final answer is ANSWER. I hope it is correct."
_SENTENCE = re.compile(r"Final\s+Answer:\s*The\s+final\s+answer\s+is")
_SENTENCE_END = re.compile(r"I\s+hope\s+it\s+is\s+correct")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_ANSWER_IS = re.compile(r"the\s+answer\s+is", re.IGNORECASE)
_SENTENCE_STOP = re.compile(r"\.(?=\s|$)|\n")
_NUMBER = re.compile(r"[-\u2212]?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
MAX_BOXES = 60
"""Maximum number of boxes in one list; a text with more has no answer."""
_NEXT_PROBLEM = re.compile(
    r"^[#*\t ]*(?:Problem|Question|Exercise|Q)(?: ?\d{1,4})?[*\t ]*:", re.MULTILINE | re.IGNORECASE
)
"""Heading of a problem, where a model continues with one that it made up."""


def extract(text: str, *, mode: str = "minerva") -> str | None:
    r"""Returns the final answer that a solution announces, or None.

    Args:
      text: a sampled solution, of any length and content.
      mode: what counts as announcing the answer:
        "minerva": the sentence `Final Answer: The final answer is $...$. I hope it is correct.`
        "boxed": the last `\boxed{...}` or `\fbox{...}`, braces balanced, or `\boxed 2`.
        "boxes": all different boxes, as one list.
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
      UserError: if the mode is unknown.
    """
    if mode not in MODES:
        raise UserError(f"unknown extraction {mode!r}; choose one of {', '.join(MODES)}")
    match mode:
        case "minerva":
            found = _sentence(text)
        case "boxed":
            found = _last_box(_up_to_next_problem(text, _BOX))
        case "boxes":
            found = _all_boxes(_up_to_next_problem(text, _BOX))
        case "minerva_or_boxed" | "any":
            if _SENTENCE.search(text):
                found = _sentence(text)
            elif mode == "any" and not _BOX.search(text):
                found = text
            else:
                found = _last_box(_up_to_next_problem(text, _BOX))
        case "answer_is":
            found = _answer_is(text)
        case "hashes":
            _, mark, after = text.rpartition("####")
            found = after.strip().split("\n", 1)[0] if mark else None
        case _:
            numbers = _NUMBER.findall(text)
            found = numbers[-1] if numbers else None
    return _undelimit(found)


def _up_to_next_problem(text: str, announcement: re.Pattern[str]) -> str:
    """Returns the text before the first problem that follows an announcement of an answer.

    After its answer, a model may continue with a problem that it made up, and solve that.
    """
    first = announcement.search(text)
    heading = _NEXT_PROBLEM.search(text, first.end()) if first else None
    return text[: heading.start()] if heading else text


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
    start = _last(_SENTENCE, _up_to_next_problem(text, _SENTENCE_END))
    if start is None:
        return None
    end = _SENTENCE_END.search(text, start)
    if end is None:
        return None
    # The period belongs to the sentence and not to the answer.
    return text[start : end.start()].strip().removesuffix(".")


def _last(pattern: re.Pattern[str], text: str) -> int | None:
    """Returns the end of a pattern's last match."""
    end = None
    for match in pattern.finditer(text):
        end = match.end()
    return end


def _last_box(text: str) -> str | None:
    start = _last(_BOX, text)
    return None if start is None else _box(text[start:])


def _all_boxes(text: str) -> str | None:
    """Returns the contents of all boxes outside other boxes; None if one is malformed."""
    contents: list[str] = []
    at = 0
    for count in itertools.count():
        match = _BOX.search(text, at)
        if match is None:
            break
        if count == MAX_BOXES:
            return None
        content = _box(text[match.end() :])
        if not content or not content.strip():
            return None
        at = match.end() + len(content)
        if content.strip() not in contents:
            contents.append(content.strip())
    return ", ".join(contents) or None


def _box(rest: str) -> str | None:
    """Returns the content of a box, given the text after `\\boxed`."""
    body = rest.lstrip()
    if body.startswith("{"):
        return balanced(body)
    # `\\boxed 2`: TeX takes one token, but authors mean everything up to the end of the formula.
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
    text = _up_to_next_problem(text, _ANSWER_IS)
    start = _last(_ANSWER_IS, text)
    if start is None:
        return None
    rest = text[start:].lstrip(" :")
    stop = _SENTENCE_STOP.search(rest)
    return rest[: stop.start()] if stop else rest
