"""A data-only encoding of Python values that a program and its judges exchange.

Unlike pickle, it cannot name classes or run code. A value is decoded to exactly the built-in type
that its tag names, so an object with a crafted `__eq__`, a subclass of `int` or a patched method
never leaves the process that made it. NumPy's scalars are sent as the Python numbers that equal
them, because programs return them in the place of numbers. Anything else (an instance of one of
the program's classes, a function, a generator) stays in its process and is sent as a numbered
handle. A named tuple is sent as both, its items and a handle.

The wire form is JSON in ASCII. None, bool, str, lists and integers below 2^53 are encoded as
themselves; every other type is an object with one key, its tag: `{"t": [1, 2]}` is the tuple
(1, 2). Floats are encoded in hexadecimal, so they are preserved exactly.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import fractions
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

MAX_VALUE = 64 << 20
"""Maximum bytes of one encoded value."""
_EXACT = 1 << 53
_MOST_DIGITS = 1 << 14
"""Maximum decimal digits of a decimal number, or hexadecimal digits of a fraction's parts, because
reducing a fraction and rounding a decimal take more than linear time. Integers have only the bound
of a value."""
_TYPES = (int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset, type(None))
"""Built-in types that are sent by name, because tests pass them to programs as filters."""


class Record(tuple):
    """A named tuple of the program: a tuple of data, which returns to the program as the object.

    It compares as its items do. Test code may read the fields by name.
    """

    _object: Any

    def __new__(cls, items: Iterable[Any], source: Any) -> Record:
        record = super().__new__(cls, items)
        record._object = source
        return record

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._object, name)

    def __reduce__(self) -> tuple:
        return tuple, (tuple(self),)


class Items(list):
    """The items of an iterator of test code, which arrive as a fresh iterator."""


class CodecError(ValueError):
    """The bytes are not a value of this encoding, or the value cannot be encoded."""


def encode(value: Any, handle: Callable[[Any], Any] | None = None) -> bytes:
    """Returns a value's wire form; `handle` numbers objects that are not data, or replaces them.

    Raises:
      CodecError: if the value is nested too deeply, too large, or not data while `handle` is None.
    """
    try:
        data = json.dumps(_pack(value, handle)).encode("ascii")
    except RecursionError:
        raise CodecError("the value is nested too deeply or contains itself") from None
    if len(data) > MAX_VALUE:
        raise CodecError(f"a value of {len(data)} bytes is over the limit of {MAX_VALUE}")
    return data


def decode(data: bytes, handle: Callable[[int], Any] | None = None) -> Any:
    """Returns the value of a wire form, of exact built-in types; `handle` resolves numbers.

    Raises:
      CodecError: if the bytes are not a value.
    """
    try:
        return _unpack(json.loads(data.decode("ascii"), parse_constant=_refuse), handle)
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None
    except CodecError:
        raise
    except Exception as error:  # whatever a constructor says of what a program made up
        raise CodecError(f"not a value: {error}") from None


def _short_digits(text: Any) -> Any:
    if isinstance(text, str) and len(text) > _MOST_DIGITS:
        raise CodecError(f"a number of more than {_MOST_DIGITS} digits")
    return text


def _fraction(parts: list) -> fractions.Fraction:
    numerator, denominator = (int(_short_digits(part), 16) for part in parts)
    return fractions.Fraction(numerator, denominator)


def _refuse(text: str) -> Any:
    raise CodecError(f"{text} is no value")


def _pack(value: Any, handle: Callable[[Any], Any] | None) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_EXACT < value < _EXACT else {"i": hex(value)}
    if kind is float:
        return {"f": value.hex()}
    if kind is list:
        return [_pack(item, handle) for item in value]
    if kind is Items:
        return {"I": [_pack(item, handle) for item in value]}
    if kind is tuple:
        return {"t": [_pack(item, handle) for item in value]}
    if kind is dict:
        return {"d": [[_pack(k, handle), _pack(v, handle)] for k, v in value.items()]}
    if kind is bytes:
        return {"b": value.hex()}
    if kind is range:
        return {"r": [_pack(n, handle) for n in (value.start, value.stop, value.step)]}
    if kind is complex:
        return {"x": [value.real.hex(), value.imag.hex()]}
    if kind is bytearray:
        return {"y": value.hex()}
    if kind is decimal.Decimal:
        return {"D": str(value)}
    if kind is fractions.Fraction:
        return {"F": [hex(value.numerator), hex(value.denominator)]}
    for exact, tag in ((datetime.date, "A"), (datetime.datetime, "M")):
        if kind is exact and getattr(value, "tzinfo", None) is None:
            return {tag: value.isoformat()}
    if kind is datetime.timedelta:
        return {"L": [value.days, value.seconds, value.microseconds]}
    if kind is type and value in _TYPES:
        return {"T": value.__name__}
    return _pack_subclass(value, handle)


def _pack_subclass(value: Any, handle: Callable[[Any], Any] | None) -> Any:
    """Encodes sets, NumPy's scalars, and subclasses of built-in types, read by the built-in type's
    methods."""
    kind = type(value)
    base: Any
    for base, tag in ((set, "s"), (frozenset, "z")):
        if issubclass(kind, base):
            return {tag: [_pack(item, handle) for item in base.__iter__(value)]}
    if issubclass(kind, dict):
        tag = {collections.OrderedDict: "o", collections.Counter: "c"}.get(kind, "d")
        # An ordered dictionary keeps an order of its own, which `move_to_end` changes.
        ordered = issubclass(kind, collections.OrderedDict)
        items = (collections.OrderedDict if ordered else dict).items(value)
        return {tag: [[_pack(k, handle), _pack(v, handle)] for k, v in items]}
    if kind is collections.deque:
        return {"q": [_pack(item, handle) for item in value]}
    if issubclass(kind, tuple) and handle is not None:
        with contextlib.suppress(CodecError):  # test code's own, and another program's, are data
            if kind is Record:
                return {"h": handle(value._object)}
            if hasattr(kind, "_fields"):
                number = handle(value)
                return {"n": [number, *(_pack(item, handle) for item in tuple.__iter__(value))]}
    for base, read in (
        (int, lambda v: int.__add__(v, 0)),
        (str, lambda v: str.__str__(v)[:]),
        (float, lambda v: float.__add__(v, 0.0)),
        (list, lambda v: list(list.__iter__(v))),
        (tuple, lambda v: tuple(tuple.__iter__(v))),
        (bytes, lambda v: bytes.__getitem__(v, slice(None))),
    ):
        if issubclass(kind, base):
            plain = read(value)
            if type(plain) is not base:
                plain = base.__new__(base, plain)
            return _pack(plain, handle)
    scalars: Any = getattr(sys.modules.get("numpy"), "generic", ())
    if isinstance(value, scalars):
        plain = value.item()
        if type(plain) is not kind:  # a long double has no built-in type
            return _pack(plain, handle)
    if handle is None:
        raise CodecError(f"{kind.__name__} is not data")
    number = handle(value)
    return {"h": number} if type(number) is int else _pack(number, handle)


def _pairs(items: list, handle: Callable[[int], Any] | None) -> list:
    return [(_unpack(key, handle), _unpack(item, handle)) for key, item in items]


def _mapping(kind: type[dict]) -> Callable[[list], Any]:
    """Returns a function that builds a mapping key by key.

    Keys with equal hashes take quadratic time, and Python handles signals only between two steps.
    """

    store = kind.__setitem__

    def build(pairs: list) -> Any:
        found = kind()
        for key, value in pairs:
            store(found, key, value)
        return found

    return build


def _set(items: list) -> set:
    found: set = set()
    for item in items:
        found.add(item)
    return found


def _unpack(node: Any, handle: Callable[[int], Any] | None) -> Any:
    if type(node) is list:
        return [_unpack(item, handle) for item in node]
    if type(node) is not dict:
        if type(node) is float:
            raise CodecError("a bare float")
        return node
    ((tag, inner),) = node.items()
    if tag == "d":
        return _dict(_pairs(inner, handle))
    if tag in _SETS:
        return _SETS[tag](_set([_unpack(item, handle) for item in inner]))
    if tag in _SEQUENCES:
        return _SEQUENCES[tag]([_unpack(item, handle) for item in inner])
    if tag in _MAPPINGS:
        return _MAPPINGS[tag](_pairs(inner, handle))
    if tag in _SCALARS:
        return _SCALARS[tag](inner)
    if tag == "r":
        return range(*[_unpack(n, handle) for n in inner])
    if tag == "h" and handle is not None:
        return handle(int(inner))
    if tag == "n" and handle is not None:
        return Record([_unpack(item, handle) for item in inner[1:]], handle(int(inner[0])))
    raise CodecError(f"unknown tag {tag[:20]!r}")


_SETS: dict[str, Callable[[set], Any]] = {"s": lambda found: found, "z": frozenset}
_SEQUENCES: dict[str, Callable[[Any], Any]] = {
    "t": tuple,
    "q": collections.deque,
    "I": iter,
}
_dict = _mapping(dict)
_MAPPINGS: dict[str, Callable[[Any], Any]] = {
    "o": _mapping(collections.OrderedDict),
    "c": _mapping(collections.Counter),
}
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "i": lambda text: int(text, 16),
    "f": float.fromhex,
    "b": bytes.fromhex,
    "y": bytearray.fromhex,
    "x": lambda parts: complex(float.fromhex(parts[0]), float.fromhex(parts[1])),
    "D": lambda text: decimal.Decimal(_short_digits(text)),
    "F": _fraction,
    "A": datetime.date.fromisoformat,
    "M": datetime.datetime.fromisoformat,
    "T": lambda name: {kind.__name__: kind for kind in _TYPES}[name],
    "L": lambda parts: datetime.timedelta(*parts),
}
