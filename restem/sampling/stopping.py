"""Where a sample ends: stop strings found in bytes, and the ids that training uses.

Tokens do not respect strings: a stop string may begin inside one token and end inside another, and
one character of UTF-8 may be spread over several. So stops are searched in the bytes of the tokens,
as they come:

    stop = ("\\n\\nProblem",)      tokens  "4" "2" "." "\\n" "\\nProb" "lem:"
                                 bytes   4 2 . \\n \\n P r o b l e m :
                                 the stop string completes in the last token: the row ends there;
                                 text = "42.", which is exactly the first 3 tokens
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Protocol


class TokenBytes(Protocol):
    """What is needed of a vocabulary."""

    eos_ids: frozenset[int]

    def token_bytes(self, token_id: int) -> bytes: ...

    def encode(self, text: str) -> list[int]: ...


@dataclasses.dataclass(frozen=True)
class Stops:
    """The strings that end a sample.

    The sample ends at the first byte at which any string completes; of several that complete at
    the same byte the longest counts.
    """

    before: tuple[bytes, ...]
    """The text is cut before these."""
    after: tuple[bytes, ...]
    """The text is cut right after these."""

    @classmethod
    def of(cls, stop: Sequence[str], stop_after: Sequence[str]) -> Stops:
        for name, strings in (("stop", stop), ("stop_after", stop_after)):
            if isinstance(strings, str) or not all(strings):
                raise ValueError(f"{name}={strings!r} is not a sequence of non-empty strings")
        return cls(tuple(s.encode() for s in stop), tuple(s.encode() for s in stop_after))

    @property
    def longest(self) -> int:
        """Bytes of the longest string; 0 if there are none."""
        return max(map(len, self.before + self.after), default=0)

    def find(self, data: bytes | bytearray, start: int) -> tuple[int, int] | None:
        """Where the text ends in `data`, if a string completes at byte `start` or later.

        Args:
          data: all bytes sampled so far.
          start: bytes before this were searched already.

        Returns:
          The byte at which the string has completed, and the length of the text in bytes; or None.
        """
        found: tuple[int, int, int] | None = None
        for strings, is_after in ((self.before, False), (self.after, True)):
            for string in strings:
                at = data.find(string, max(0, start - len(string) + 1))
                if at < 0:
                    continue
                end = at + len(string)
                rank = (end, -len(string), end if is_after else at)
                found = rank if found is None else min(found, rank)
        return None if found is None else (found[0], found[2])


@dataclasses.dataclass
class StopScanner:
    """Follows one row and says when it has stopped."""

    stops: Stops
    data: bytearray = dataclasses.field(default_factory=bytearray)
    """The bytes of all tokens so far."""
    text_bytes: int | None = None
    """Length of the text once a stop string was found."""

    def push(self, *tokens: bytes) -> int | None:
        """Adds tokens; says how many of them were taken, if a stop string completed in the last.

        What comes after the token in which a stop string completes is not taken.
        """
        start = len(self.data)
        self.data += b"".join(tokens)
        found = self.stops.find(self.data, start) if self.stops.longest else None
        if found is None:
            return None
        completed, self.text_bytes = found
        ends = itertools.accumulate(map(len, tokens), initial=start)
        count, end = next((n, end) for n, end in enumerate(ends) if n and end >= completed)
        del self.data[end:]
        return count

    @property
    def text(self) -> str:
        """The text, without what was cut; bytes that are no UTF-8 become U+FFFD."""
        end = len(self.data) if self.text_bytes is None else self.text_bytes
        return self.data[:end].decode("utf-8", errors="replace")


@dataclasses.dataclass(frozen=True)
class TrainingIds:
    """The ids on which a sample is trained."""

    ids: tuple[int, ...]
    """They decode to exactly the bytes of the text; no EOS, which the trainer adds to whatever
    finished ("eos" and "stop")."""
    sampled: int
    """How many of them, from the left, are the sampled ids themselves."""

    @property
    def is_sampled(self) -> bool:
        """Whether no id had to be encoded again."""
        return self.sampled == len(self.ids)


def training_ids(token_ids: Sequence[int], text: str, vocabulary: TokenBytes) -> TrainingIds:
    """Ids that decode to exactly `text`, the sampled ones as far as they go.

    A row that a stop string ended holds tokens beyond its text, and its last token may lie half
    inside: with stop="\\n\\n" and the tokens "42" ".\\n" "\\nProblem" the text is "42.", so the ids
    are "42" and, encoded apart, ".". Where a character is split, the encoded tail takes in the
    whole character.

    Args:
      token_ids: as sampled, EOS included or not.
      text: of the same sample.
      vocabulary: of the policy that sampled.

    Raises:
      ValueError: `text` is not what the tokens begin with.
    """
    pieces = [b"" if t in vocabulary.eos_ids else vocabulary.token_bytes(t) for t in token_ids]
    data = b"".join(pieces)
    end = _text_bytes(data, text)
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    # All tokens that end within the text, but none without bytes at its end.
    whole = max(n for n, e in enumerate(ends) if e <= end)
    while whole and not pieces[whole - 1]:
        whole -= 1
    for kept in range(whole, -1, -1):
        if ends[kept] == end:
            return TrainingIds(tuple(token_ids[:kept]), kept)
        try:
            tail = vocabulary.encode(data[ends[kept] : end].decode())
        except UnicodeDecodeError:
            continue
        if b"".join(map(vocabulary.token_bytes, tail)) == data[ends[kept] : end]:
            return TrainingIds((*token_ids[:kept], *tail), kept)
    raise ValueError(f"no ids of this vocabulary decode to {text!r}")


def text_token_count(token_bytes: Sequence[bytes], text_bytes: int) -> int:
    """How many leading tokens lie wholly within the first `text_bytes` bytes."""
    total = 0
    for count, piece in enumerate(token_bytes):
        total += len(piece)
        if total > text_bytes:
            return count
    return len(token_bytes)


def _text_bytes(data: bytes, text: str) -> int:
    """How many bytes of `data` make up `text`."""
    encoded = text.encode()
    if data.startswith(encoded):
        return len(encoded)
    # Half a character was decoded to U+FFFD, which is longer than what it stands for.
    for end in range(len(data), -1, -1):
        if data[:end].decode("utf-8", errors="replace") == text:
            return end
    raise ValueError(f"the tokens do not begin with the text {text!r}")
