"""Values cross as data of exact built-in types, or not at all."""

# ruff: noqa: E501  (tables)

import collections
import copy
import datetime
import decimal
import enum
import fractions
import json
import math
import random
import types

import numpy as np
from absl.testing import absltest, parameterized

from restem.verify.programs import codec


def round_trip(value):
    return codec.decode(codec.encode(value))


class Color(enum.IntEnum):
    RED = 1


Pair = collections.namedtuple("Pair", "x y")


class CodecTest(parameterized.TestCase):
    @parameterized.parameters(
        (None,), (True,), (0,), (2**53,), (-(10**40),), (0.1,), (-0.0,), (math.inf,), ("",), ("é\ud800\0",),
        (b"\0\xff",), (bytearray(b"ab"),), ([],), ((),), ((1, [2, (3,)]),), ({1, "a"},), (frozenset({(1, 2)}),),
        ({1: {"a": (None,)}, (1, 2): [0.5]},), (range(1, 10, 3),), (1 + 2j,), (decimal.Decimal("1.10"),),
        (fractions.Fraction(-1, 3),), (datetime.date(2020, 1, 2),), (datetime.datetime(2020, 1, 2, 3),),
        (datetime.timedelta(days=1, microseconds=2),), (collections.deque([1]),), (int,), (str,),
        (collections.Counter("aab"),), (collections.OrderedDict(b=1, a=2),),
    )  # fmt: skip
    def test_round_trip_is_exact(self, value):
        found = round_trip(value)
        self.assertIs(type(found), type(value))
        self.assertEqual(found, value)
        self.assertEqual(repr(found), repr(value))

    def test_random_values(self):
        rng = random.Random(0)

        def value(depth):
            kind = rng.randrange(9 if depth else 5)
            if kind < 5:
                return (rng.getrandbits(70), rng.gauss(0, 1e9), str(rng.random()), None, False)[
                    kind
                ]
            items = [value(depth - 1) for _ in range(rng.randrange(4))]
            keys = [str(rng.random()) for _ in items]
            return (items, tuple(items), dict(zip(keys, items, strict=True)), set(keys))[kind - 5]

        for _ in range(500):
            original = value(4)
            self.assertEqual(round_trip(original), original)

    def test_subclasses_become_what_they_are_made_of(self):
        class Liar(int):
            __eq__ = lambda self, other: True
            __hash__ = int.__hash__
            __int__ = __index__ = lambda self: 42

        class Rope(str):
            __str__ = lambda self: "lie"

        class Sheet(list):
            __iter__ = lambda self: iter([1, 2, 3])

        for original, plain in (
            (Liar(7), 7), (Rope("x"), "x"), (Sheet([5]), [5]), (Color.RED, 1), (Pair(1, 2), (1, 2)),
            (collections.defaultdict(int, a=1), {"a": 1}),
        ):  # fmt: skip
            found = round_trip(original)
            self.assertIs(type(found), type(plain))
            self.assertEqual(plain, found)

    @parameterized.parameters(
        (np.int64(-(2**60)), -(2**60)), (np.uint8(7), 7), (np.bool_(True), True), (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1), (np.complex64(1 + 2j), 1 + 2j), (np.str_("a"), "a"),
        ([np.int64(1), (np.True_,)], [1, (True,)]), ({np.int64(1): {np.int8(2)}}, {1: {2}}),
    )  # fmt: skip
    def test_scalars_of_numpy_become_numbers(self, original, plain):
        self.assertEqual(repr(round_trip(original)), repr(plain))

    def test_order_of_an_ordered_dictionary(self):
        value = collections.OrderedDict(a=1, b=2)
        value.move_to_end("a")
        self.assertEqual(list(round_trip(value).items()), [("b", 2), ("a", 1)])

    def test_named_tuples_are_data_and_a_handle(self):
        pair, objects = Pair(1, [2]), []

        def number(value):
            objects.append(value)
            return len(objects) - 1

        data = codec.encode([pair], number)
        self.assertIs(objects[0], pair)
        source = types.SimpleNamespace(x=1, sort=len)
        (found,) = codec.decode(data, lambda _: source)
        self.assertIs(type(found), codec.Record)
        self.assertEqual((found, repr(found), found.x), ((1, [2]), "(1, [2])", 1))
        self.assertIs(type(copy.deepcopy(found)), tuple)
        self.assertEqual(copy.deepcopy(found), (1, [2]))
        with self.assertRaises(AttributeError):
            found.__array__  # noqa: B018
        # It returns as the object, or as a plain tuple where that is not known.
        back = codec.encode(found, lambda value: 7 if value is source else 8)
        self.assertEqual(json.loads(back), {"h": 7})

        def refuse(value):
            raise codec.CodecError("not of this program")

        for handle in (None, refuse):
            self.assertIs(type(codec.decode(codec.encode(found, handle))), tuple)
        with self.assertRaises(codec.CodecError):
            codec.decode(data)

    def test_arrays_and_long_doubles_are_no_data(self):
        for value in (np.zeros(2), np.longdouble(1)):
            with self.assertRaisesRegex(codec.CodecError, "is not data"):
                codec.encode(value)

    def test_objects_are_handles_or_errors(self):
        thing = object()
        with self.assertRaises(codec.CodecError):
            codec.encode([thing])
        held = []
        data = codec.encode([thing], lambda value: held.append(value) or 3)
        self.assertEqual(held, [thing])
        self.assertEqual(codec.decode(data, lambda number: ("handle", number)), [("handle", 3)])
        with self.assertRaises(codec.CodecError):
            codec.decode(data)

    def test_loops_and_depth_are_errors(self):
        loop = []
        loop.append(loop)
        deep = []
        for _ in range(100_000):
            deep = [deep]
        for value in (loop, deep):
            with self.assertRaises(codec.CodecError):
                codec.encode(value)

    @parameterized.parameters(
        b"", b"{", b"NaN", b"1.5", b'{"q": 1}', b'{"zz": []}', b"{}", b'{"t": [], "s": []}', b'{"i": "x"}',
        b'{"f": "x"}', b'{"s": [[1]]}', b'{"d": [[1]]}', b'{"d": [[[1], 2]]}', b'{"b": "0"}', b'{"h": 1}',
        b'{"T": "eval"}', b'{"F": ["0x1", "0x0"]}', b'{"r": [1, 2, 0]}', b'{"D": "x"}', b"\xff", b"[" * 100_000,
        b'{"L": [1e400]}', b'{"A": 5}', b'{"r": ["a"]}', b'{"x": ["1"]}', b'{"c": [[{"s": []}, 1]]}',
    )  # fmt: skip
    def test_bytes_that_are_no_value(self, data):
        with self.assertRaises(codec.CodecError):
            codec.decode(data)

    @parameterized.parameters(
        f'{{"D": "{"1" * 20_000}"}}', f'{{"F": ["0x{"1" * 20_000}", "0x3"]}}', "1" * 5000,
        f'{{"F": ["0x3", "0x{"1" * 20_000}"]}}',
    )  # fmt: skip
    def test_numbers_that_take_long_to_make_are_refused(self, text):
        with self.assertRaises(codec.CodecError):
            codec.decode(text.encode())

    def test_long_integers_cross(self):
        value = [1 << 8_000_000, -(3**20_000)]
        self.assertEqual(round_trip(value), value)

    def test_wire_form_of_plain_data_is_json(self):
        value = [1, "a", None, True, [2]]
        self.assertEqual(json.loads(codec.encode(value)), value)


if __name__ == "__main__":
    absltest.main()
