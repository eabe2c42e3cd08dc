"""Stops are found in bytes, and training ids say exactly the text."""

import random

from absl.testing import absltest, parameterized

from restem.sampling.stopping import Stops, StopScanner, training_ids


class Pieces:
    """A vocabulary of given pieces; id 0 ends a text. Encodes by the longest match."""

    eos_ids = frozenset({0})

    def __init__(self, *pieces):
        self.pieces = [b"", *pieces]

    def token_bytes(self, token_id):
        return self.pieces[token_id]

    def encode(self, text):
        data, ids = text.encode(), []
        while data:
            best = max(
                (i for i, p in enumerate(self.pieces) if p and data.startswith(p)),
                key=lambda i: len(self.pieces[i]),
            )
            ids.append(best)
            data = data[len(self.pieces[best]) :]
        return ids


def follow(pieces, *, stop=(), stop_after=()):
    """Pushes pieces until one completes a stop: (pieces pushed, text).

    One by one, all at once and in twos, which must say the same.
    """
    found = set()
    for step in (1, 2, max(1, len(pieces))):
        scanner = StopScanner(Stops.of(stop, stop_after))
        count = 0
        while count < len(pieces):
            some = pieces[count : count + step]
            taken = scanner.push(*some)
            count += len(some) if taken is None else taken
            if taken is not None:
                break
        assert scanner.data == b"".join(pieces[:count])
        found.add((count, scanner.text))
    (only,) = found
    return only


def naive(data, stop, stop_after):
    """The text of `data` by trying every byte at which it might end."""
    for end in range(1, len(data) + 1):
        matches = [s for s in (*stop, *stop_after) if data[:end].endswith(s.encode())]
        if matches:
            longest = max(matches, key=len)
            cut = end if longest in stop_after else end - len(longest.encode())
            return data[:cut], end
    return data, None


class StopsTest(parameterized.TestCase):
    @parameterized.parameters(
        # A stop string over several tokens, and in the middle of one.
        ([b"42", b".", b"\n", b"\nProb", b"lem:"], ("\n\nProblem",), (), 5, "42."),
        ([b"42.\n\nProblem:", b"x"], ("\n\nProblem",), (), 1, "42."),
        # What looks like a stop at first, twice.
        ([b"\n", b"\n", b"\nP"], ("\n\nP",), (), 3, "\n"),
        # stop_after keeps the string, not what the token says beyond it.
        ([b"It is cor", b"rect. Now"], (), ("correct.",), 2, "It is correct."),
        # The first to complete, though it begins later.
        ([b"abcd", b"efg"], ("abcdef", "cd"), (), 1, "ab"),
        # Several complete at once: the longest.
        ([b"xab"], ("b", "ab"), (), 1, "x"),
        ([b"one", b"two"], ("missing",), (), 2, "onetwo"),
        # A stop string and a text of characters of several bytes, split anywhere.
        ([b"\xe2\x88", b"\x80x", b"\xe2", b"\x88\x83"], ("∃",), (), 4, "∀x"),
        ([b"\xf0\x9f", b"\x98\x80!", b"?"], (), ("😀",), 2, "😀"),
    )
    def test_where_a_text_ends(self, pieces, stop, stop_after, count, text):
        self.assertEqual(follow(pieces, stop=stop, stop_after=stop_after), (count, text))

    def test_the_same_as_trying_every_byte(self):
        rng = random.Random(0)
        for _ in range(2000):
            data = bytes(rng.choice(b"ab") for _ in range(rng.randint(1, 14)))
            words = {"".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(3)}
            stop, after = set(list(words)[:2]), set(list(words)[2:])
            pieces, rest = [], data
            while rest:
                n = rng.randint(1, 4)
                pieces.append(rest[:n])
                rest = rest[n:]
            count, text = follow(pieces, stop=sorted(stop), stop_after=sorted(after))
            expected, end = naive(data, stop, after)
            self.assertEqual(text.encode(), expected)
            if end is not None:
                self.assertLess(len(b"".join(pieces[: count - 1])), end)
                self.assertGreaterEqual(len(b"".join(pieces[:count])), end)

    def test_half_a_character_at_the_end(self):
        self.assertEqual(follow([b"a", b"\xe2\x88"]), (2, "a\N{REPLACEMENT CHARACTER}"))

    @parameterized.parameters({"stop": "\n"}, {"stop": ("",)}, {"stop_after": "x"})
    def test_refuses_what_is_no_sequence_of_strings(self, stop=(), stop_after=()):
        with self.assertRaisesRegex(ValueError, "stop"):
            Stops.of(stop, stop_after)

    def test_a_stop_string_completes_only_in_tokens_that_can_complete_one(self):
        rng = random.Random(1)
        for _ in range(2000):
            text = lambda low, high: "".join(rng.choices("ab", k=rng.randint(low, high)))
            stops = Stops.of([text(1, 4)], [text(1, 3)])
            before, token = text(0, 5).encode(), text(0, 4).encode()
            if stops.find(before, 0) is None and stops.find(before + token, len(before)):
                self.assertTrue(stops.can_complete_in(token), (stops, before, token))
        self.assertFalse(Stops.of(["\n\nQ"], []).can_complete_in(b"\n"))
        self.assertFalse(Stops.of(["\n\nQ"], []).can_complete_in(b"AQ"))
        self.assertTrue(Stops.of(["\n\nQ"], []).can_complete_in(b"Q5"))


class TrainingIdsTest(parameterized.TestCase):
    def ids(self, pieces, text, vocabulary=None):
        vocabulary = vocabulary or Pieces(*pieces)
        at = {p: i for i, p in reversed(list(enumerate(vocabulary.pieces)))}
        found = training_ids([at[p] for p in pieces], text, vocabulary)
        said = b"".join(vocabulary.pieces[i] for i in found.ids)
        return [vocabulary.pieces[i] for i in found.ids], found.sampled, said

    def test_text_that_ends_with_a_token(self):
        pieces, sampled, _ = self.ids([b"4", b"2", b"\n\n", b"Pro"], "42")
        self.assertEqual((pieces, sampled), ([b"4", b"2"], 2))

    def test_text_that_ends_within_a_token(self):
        vocabulary = Pieces(b"42", b".\n", b"\nProblem", b".")
        pieces, sampled, _ = self.ids([b"42", b".\n", b"\nProblem"], "42.", vocabulary)
        self.assertEqual((pieces, sampled), ([b"42", b"."], 1))

    def test_eos_is_left_out(self):
        vocabulary = Pieces(b"42")
        found = training_ids([1, 0], "42", vocabulary)
        self.assertEqual(found.ids, (1,))
        self.assertTrue(found.is_sampled)

    def test_a_character_of_two_tokens_is_encoded_whole(self):
        # The cut lies within the second token, which ends a character that the first began.
        vocabulary = Pieces(b"\xe2\x88", b"\x80\n\n", "∀".encode())
        pieces, sampled, _ = self.ids([b"\xe2\x88", b"\x80\n\n"], "∀", vocabulary)
        self.assertEqual((pieces, sampled), (["∀".encode()], 0))

    def test_half_a_character_keeps_the_sampled_tokens(self):
        vocabulary = Pieces(b"a", b"\xe2\x88")
        found = training_ids([1, 2], "a\N{REPLACEMENT CHARACTER}", vocabulary)
        self.assertEqual(found.ids, (1, 2))

    def test_always_says_the_text(self):
        rng = random.Random(1)
        singles = [bytes([b]) for b in range(256)]
        text = "x∀\n\ny😀é. "
        for _ in range(300):
            data, pieces = text.encode(), []
            while data:
                n = rng.randint(1, 5)
                pieces.append(data[:n])
                data = data[n:]
            vocabulary = Pieces(*singles, *set(pieces))
            cut = text[: rng.randint(0, len(text))]
            _, sampled, said = self.ids(pieces, cut, vocabulary)
            self.assertEqual(said, cut.encode())
            self.assertLessEqual(sampled, len(pieces))

    def test_refuses_another_text(self):
        with self.assertRaisesRegex(ValueError, "do not begin with"):
            training_ids([1], "x", Pieces(b"y"))


if __name__ == "__main__":
    absltest.main()
