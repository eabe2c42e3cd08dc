"""What the model is trained to say: the sampled tokens up to the text's end, and then to stop."""

from absl.testing import absltest

from restem.records import Example, TaskCard
from restem.steps.examples import token_examples

EOS = 256


class Pairs:
    """Bytes, and one token for the text "ab", which `encode` prefers; 256 and 257 end a text."""

    eos_ids = frozenset({EOS, EOS + 1})
    pair = 300

    def token_bytes(self, token_id):
        return b"ab" if token_id == self.pair else bytes([token_id]) if token_id < EOS else b""

    def encode(self, text, *, opening=False):
        start = [ord("^")] if opening else []
        ids = [self.pair if piece == b"ab" else piece[0] for piece in _pieces(text.encode())]
        return start + ids

    def prompt_ids(self, text):
        return tuple(self.encode(text, opening=True))


def _pieces(data):
    while data:
        size = 2 if data.startswith(b"ab") else 1
        yield data[:size]
        data = data[size:]


def _example(target_ids, targets, weight=1.0):
    return Example("p", 0, "q:", targets, tuple(target_ids), weight)


class TokenExamplesTest(absltest.TestCase):
    card = TaskCard("t", prefix="shots\n", stop=("\n",))

    def made(self, *examples, card=card):
        return token_examples(card, examples, Pairs())[1]

    def test_ids_are_the_sampled_ones_and_not_those_of_the_text(self):
        (made,) = self.made(_example([*b"ab", *b"c", EOS], "abc"))
        self.assertEqual(made.target_ids, (*b"abc", EOS))

    def test_a_stop_string_is_replaced_by_the_end(self):
        (made,) = self.made(_example([*b"c", *b"\n"], "c"))
        self.assertEqual(made.target_ids, (*b"c", EOS))

    def test_the_end_of_a_turn_becomes_the_end_of_a_text(self):
        (made,) = self.made(_example([*b"c", EOS + 1], "c"))
        self.assertEqual(made.target_ids, (*b"c", EOS))

    def test_text_without_ids_is_tokenised(self):
        (made,) = self.made(_example([], "abc"))
        self.assertEqual(made.target_ids, (Pairs.pair, *b"c", EOS))

    def test_the_question_is_input_without_the_prefix(self):
        (made,) = self.made(_example([*b"c", EOS], "c"))
        self.assertEqual(made.input_ids, tuple(b"q:"))
        prefix, _ = token_examples(self.card, [_example([*b"c", EOS], "c")], Pairs())
        self.assertEqual(prefix, tuple(b"^shots\n"))

    def test_solutions_that_were_not_sampled_follow_the_tokens_of_the_prompt(self):
        # The whole text "...q:ab" has the pair; behind the prompt "...q:a" it cannot.
        card = TaskCard("t", prefix="shots\n")
        example = Example("p", 0, "q:a", "bc", (), 1.0)
        _, (made,) = token_examples(card, [example], Pairs())
        self.assertEqual(made.input_ids, tuple(b"q:a"))
        self.assertEqual(made.target_ids, (*b"bc", EOS))

    def test_weights_are_those_of_the_examples(self):
        made = self.made(_example([*b"c"], "c", 0.25), _example([*b"d"], "d", -0.5))
        self.assertEqual([e.weight for e in made], [0.25, -0.5])


if __name__ == "__main__":
    absltest.main()
