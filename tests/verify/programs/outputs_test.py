"""When outputs and returned values count as the expected ones."""

import fractions

from absl.testing import absltest, parameterized

from restem.verify.programs import outputs


class OutputTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("same", "1\n2\n", "1\n2\n"),
        ("no_final_newline", "1\n2\n", "1\n2"),
        ("trailing_spaces", "1 2 \n3", "1 2\n3  "),
        ("trailing_lines", "1", "1\n\n\n"),
        ("carriage_returns", "1\r\n2\r\n", "1\n2\n"),
        ("spacing_between_tokens", "1  2", "1 2"),
        ("line_breaks_between_tokens", "1 2\n3", "1\n2 3"),
        ("decimal_digits", "0.333333333", "0.3333333334"),
        ("decimal_zeros", "2.50", "2.5"),
        ("integer_for_decimal", "2.0", "2"),
        ("exponent", "1e-05", "0.00001"),
        ("decimal_at_the_tolerance", "3.1415926", "3.1415936"),
        ("large_decimal", "123456789012.5", "123456789012.50001"),
        ("empty", "", "\n"),
        ("unicode", "añ", "añ"),
    )
    def test_matches(self, expected, output):
        self.assertTrue(outputs.output_matches(expected, output))

    @parameterized.named_parameters(
        ("another_number", "1", "2"),
        ("order_of_lines", "1\n2", "2\n1"),
        ("order_of_tokens", "1 2", "2 1"),
        ("missing_line", "1\n2", "1"),
        ("extra_line", "1", "1\n2"),
        ("nothing", "1", ""),
        ("something_for_nothing", "", "0"),
        ("joined_tokens", "1 2", "12"),
        ("case", "YES", "Yes"),
        ("integer_beyond_2_to_53", "9007199254740993", "9007199254740992"),
        ("decimal_for_integer", "2", "2.0"),
        ("leading_zeros", "0101", "101"),
        ("leading_zeros_missing", "7", "007"),
        ("sign", "5", "+5"),
        ("decimal_out_of_tolerance", "0.333333", "0.333335"),
        ("decimal_of_a_million", "1000000.5", "1000000.6"),
        ("nan_is_no_number", "0.5", "nan"),
        ("nan_equals_no_nan", "nan", "NaN"),
        ("infinity_is_no_number", "1.5", "inf"),
        ("hexadecimal", "16.0", "0x10"),
        ("underscore", "10.0", "1_0"),
        ("huge_exponent", "1.0", "1e999999999"),
        ("other_digits", "1.0", "١.٠"),
    )
    def test_does_not_match(self, expected, output):
        self.assertFalse(outputs.output_matches(expected, output))

    def test_hostile_numbers_end_at_once(self):
        for token in ("1." + "0" * 10**6, "1e9999", "-" * 10**5, "9" * 10**6 + ".0"):
            self.assertFalse(outputs.output_matches("0.5 " * 3, f"{token} {token} {token}"))


class ValueTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("tuple", [1, [2, 3]], (1, (2, 3))),
        ("keys", {"1": 2, "true": 3, "null": 4, "1.5": 5}, {1: 2, "true": 3, None: 4, 1.5: 5}),
        ("boolean_key", {"true": 3}, {True: 3}),
        ("float", 0.3, 0.1 + 0.2),
        ("nan", float("nan"), float("nan")),
        ("integer_as_float", 2, 2.0),
        ("truth", True, 1),
        ("deep", {"a": [{"b": [1.0]}]}, {"a": ({"b": (1.0000001,)},)}),
    )
    def test_matches(self, expected, found):
        self.assertTrue(outputs.value_matches(expected, found))

    @parameterized.named_parameters(
        ("longer", [1], [1, 2]),
        ("set", [1, 2], {1, 2}),
        ("text", 1, "1"),
        ("text_list", "ab", ["a", "b"]),
        ("near_integer", 3, 3.0000001),
        ("large_integer", 2**53, 2**53 + 1),
        ("key", {"1": 2}, {2: 2}),
        ("clashing_keys", {"1": 2, "2": 3}, {1: 2, "1": 2}),
        ("object", 1, object()),
        ("huge_for_float", 1.5, 10**400),
    )
    def test_does_not_match(self, expected, found):
        self.assertFalse(outputs.value_matches(expected, found))

    def test_wrapping(self):
        self.assertTrue(outputs.values_are_wrapped([[1], [[2]]]))
        self.assertFalse(outputs.values_are_wrapped([[1], [2, 3]]))
        self.assertTrue(outputs.returned_value_matches([[1]], [1], wrapped=True))
        self.assertFalse(outputs.returned_value_matches([1], 1, wrapped=False))
        self.assertTrue(outputs.returned_value_matches([1], [1], wrapped=True))


class TextTest(absltest.TestCase):
    def test_expected_text(self):
        self.assertEqual(outputs.expected_text("a\n"), "a\n")
        self.assertEqual(outputs.expected_text(["a", "b"]), "a\nb")
        self.assertEqual(outputs.expected_text([["a", "b"], "c"]), "a\nb\nc")
        self.assertEqual(outputs.expected_text(5), "5")

    def test_short_is_one_line(self):
        for value in ("a\nb" * 100, "\ud800", ["x"] * 100, 10**5000, "\x1b[2J"):
            text = outputs.short(value)
            self.assertLessEqual(len(text), 60)
            self.assertNotIn("\n", text)
            text.encode("ascii")


class ShortTest(parameterized.TestCase):
    @parameterized.parameters(
        (None,), (True,), (17,), (1.5,), ("a 'text'",), ([],), ((),), ({},), ([1, "a", None],),
        ((1,),), ((1, 2),), ({"a": [1, (2, 3)]},), ({1},), ([[[]]],), (2**64,), (-0.0,),
    )  # fmt: skip
    def test_small_values_are_spelled_as_python_spells_them(self, value):
        expected = value if isinstance(value, str) else repr(value)
        self.assertEqual(outputs.short(value), expected)

    def test_large_values_take_one_short_line(self):
        for value in (
            1 << 8_000_000, [1 << 8_000_000], list(range(10**6)), ["x" * 10**7] * 100, "x" * 10**7,
            {n: n for n in range(10**5)}, set(range(10**6)), [[[[[0] * 90]] * 9] * 9],
            fractions.Fraction(3**90_000, 2),
        ):  # fmt: skip
            found = outputs.short(value)
            self.assertLessEqual(len(found), 60)
            self.assertNotIn("\n", found)


if __name__ == "__main__":
    absltest.main()
