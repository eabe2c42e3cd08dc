"""Ends of samples: stop strings found in bytes, and the token ids that training uses.

Token boundaries are not string boundaries: a stop string may begin inside one token and end inside
another, and one UTF-8 character may be split over several tokens. Stop strings are therefore
searched for in the bytes of the tokens, as they are sampled:

    stop = ("\\n\\nProblem",)      tokens  "4" "2" "." "\\n" "\\nProb" "lem:"
                                 bytes   4 2 . \\n \\n P r o b l e m :
                                 the stop string completes in the last token: the sample ends
                                 there, and its text is "42.", exactly the first 3 tokens
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class TokenBytes(Protocol):
    """The part of a vocabulary that sampling needs."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text."""

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes that a token contributes to a text."""


@runtime_checkable
class Encoder(TokenBytes, Protocol):
    """A vocabulary that also encodes text."""

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without BOS and EOS."""


@dataclasses.dataclass(frozen=True)
class Stops:
    """The strings that end a sample.

    The sample ends at the first byte at which any string completes; of several strings that
    complete at the same byte, the longest counts.
    """

    before: tuple[bytes, ...]
    """Strings before which the text is cut."""
    after: tuple[bytes, ...]
    """Strings right after which the text is cut."""

    @classmethod
    def of(cls, stop: Sequence[str], stop_after: Sequence[str]) -> Stops:
        """Returns the stops for strings before which, and after which, the text is cut.

        Raises:
          ValueError: an argument is itself a string, or contains an empty one.
        """
        for name, strings in (("stop", stop), ("stop_after", stop_after)):
            if isinstance(strings, str) or not all(strings):
                raise ValueError(f"{name}={strings!r} is not a sequence of non-empty strings")
        return cls(tuple(s.encode() for s in stop), tuple(s.encode() for s in stop_after))

    @property
    def longest(self) -> int:
        """Length of the longest string in bytes; 0 if there are none."""
        return max(map(len, self.before + self.after), default=0)

    def can_complete_in(self, token: bytes) -> bool:
        """Returns whether a string can complete in a token: if it is in it, or begins before it.

        With "\\n\\nQ", it can complete in "\\n\\nQ: ", in "\\nQ" after a token that ends in
        "\\n", and in "Q5"; not in "\\n" or "AQ".
        """
        return any(
            string in token
            or any(token[:n] == string[-n:] for n in range(1, min(len(token), len(string)) + 1))
            for string in self.before + self.after
        )

    def find(self, data: bytes | bytearray, start: int) -> tuple[int, int] | None:
        """Finds the first stop string that completes at byte `start` or later.

        Args:
          data: all bytes sampled so far.
          start: number of bytes that were searched before.

        Returns:
          The byte after the stop string and the length of the text in bytes, or None.
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
    """Collects the bytes of one sample and detects its stop string."""

    stops: Stops
    data: bytearray = dataclasses.field(default_factory=bytearray)
    """Bytes of all tokens so far."""
    text_bytes: int | None = None
    """Length of the text in bytes once a stop string was found."""

    def push(self, *tokens: bytes) -> int | None:
        """Appends tokens up to the one in which a stop string completes.

        Returns:
          How many tokens were appended if a stop string completed in the last of them; else None,
          and all of them were appended.
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
        """Text up to the cut; bytes that are not UTF-8 become U+FFFD."""
        end = len(self.data) if self.text_bytes is None else self.text_bytes
        return self.data[:end].decode("utf-8", errors="replace")


@dataclasses.dataclass(frozen=True)
class TrainingIds:
    """The ids on which a sample is trained."""

    ids: tuple[int, ...]
    """Ids that decode to exactly the bytes of the text, without EOS, which the trainer adds to
    samples that finished ("eos" and "stop")."""
    sampled: int
    """Number of leading ids that are the sampled ids themselves."""

    @property
    def is_sampled(self) -> bool:
        """Whether all ids are the sampled ones."""
        return self.sampled == len(self.ids)


def training_ids(token_ids: Sequence[int], text: str, vocabulary: Encoder) -> TrainingIds:
    """Returns ids that decode to exactly `text`, keeping as many sampled ids as possible.

    A sample that a stop string ended has tokens beyond its text, and the text may end inside a
    token: with stop="\\n\\n" and the tokens "42" ".\\n" "\\nProblem" the text is "42.", so the ids
    are that of "42" and, encoded separately, that of ".". Where the text ends inside a character's
    tokens, the encoded tail includes the whole character.

    Args:
      token_ids: ids as sampled, with or without EOS.
      text: text of the same sample.
      vocabulary: vocabulary of the policy that sampled.

    Raises:
      ValueError: the tokens do not begin with `text`.
    """
    pieces = [b"" if t in vocabulary.eos_ids else vocabulary.token_bytes(t) for t in token_ids]
    data = b"".join(pieces)
    end = _text_bytes(data, text)
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    # All tokens that end within the text, except trailing ones without bytes.
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


def _text_bytes(data: bytes, text: str) -> int:
    """Returns the number of leading bytes of `data` that decode to `text`."""
    encoded = text.encode()
    if data.startswith(encoded):
        return len(encoded)
    # Part of a character was decoded to U+FFFD, which has more bytes than that part.
    for end in range(len(data), -1, -1):
        if data[:end].decode("utf-8", errors="replace") == text:
            return end
    raise ValueError(f"the tokens do not begin with the text {text!r}")
