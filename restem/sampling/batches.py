"""Prefill batches: which questions are prefilled together, and where their chunks are.

The keys and values of a prefilled batch are cut into chunks of `chunk` columns. Batches of narrow
and of wide questions then have the same shape, and one program inserts all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from restem.sampling.widths import WidthClasses, round_up

_MAX_WIDTHS = 3
"""Most widths at which questions are prefilled, each by a program of its own."""
_FEW = 8
"""Rows of a batch where there are not more questions."""
_PADDING = 4
"""Most chunks of a batch per chunk of the token budget, so that batches have one shape."""


class Batches:
    """The shapes of prefill, and the choice of questions for each batch."""

    def __init__(
        self,
        tokens: Sequence[int],
        classes: WidthClasses,
        *,
        budget: int,
        lookahead: int,
        chunk: int,
    ):
        """Chooses the shapes.

        Args:
          tokens: prefilled tokens of each question.
          classes: slots by width.
          budget: question tokens prefilled at a time, including padding.
          lookahead: columns of questions among which those of one width are sought.
          chunk: columns of a chunk, a divisor of the widths of the classes.
        """
        self._tokens = tokens
        self._lookahead = lookahead
        self.chunk = chunk
        widths = list(classes.widths)
        # Most questions are much shorter than the first class is wide.
        half = round_up(widths[0] // 2, chunk)
        if len(widths) < _MAX_WIDTHS and half < widths[0]:
            widths.insert(0, half)
        self.widths = tuple(widths)
        most = min(classes.slots, _power_of_two(max(_FEW, len(tokens))))
        self._rows = {
            width: round_up(max(1, min(budget // width, most)), classes.parts) for width in widths
        }
        own = {width: rows * width // chunk for width, rows in self._rows.items()}
        common = _PADDING * max(budget // chunk, own[widths[0]])
        most_chunks = max((n for n in own.values() if n <= common), default=0)
        self._chunks = {width: max(n, most_chunks) for width, n in own.items()}

    def width_of(self, question: int) -> int:
        """Returns the columns at which a question is prefilled."""
        return next(width for width in self.widths if self._tokens[question] <= width)

    def rows(self, width: int) -> int:
        """Returns the number of questions of a batch, including empty rows."""
        return self._rows[width]

    def chunks(self, width: int) -> int:
        """Returns the number of chunks of a batch, including empty ones."""
        return self._chunks[width]

    def choose(self, first: int, unread: Iterable[int]) -> list[int]:
        """Returns the questions of the next batch: `first` and others of its width.

        Questions of one width leave little padding.

        Args:
          first: the question that is needed now.
          unread: questions that are not yet prefilled, in order.
        """
        width = self.width_of(first)
        chosen, ahead = [first], width
        for question in unread:
            if question == first:
                continue
            if len(chosen) == self._rows[width] or ahead >= self._lookahead:
                break
            of_question = self.width_of(question)
            ahead += of_question
            if of_question == width:
                chosen.append(question)
        return chosen

    def first_chunk(self, width: int, row: int) -> int:
        """Returns the first chunk of the question in a row of a batch of this width."""
        return row * (width // self.chunk)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
