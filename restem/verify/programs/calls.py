"""The program's side of calls into it: loads the program into its own jail and answers requests.

Values are sent as data (`restem.verify.programs.codec`). The caller is the supervisor (APPS's
call-based tests) or test code in a second jail (`restem.verify.programs.asserts`).

A request is `[token, operation, ...]`. A reply is `("ok", token, value)`, for a call
`("ok", token, value, changed arguments)`, or `("raised", token, class name, name of the first
built-in class that it derives from, text)`. A program cannot know a token before its request, so it
cannot reply in advance.
"""

from __future__ import annotations

import builtins
import collections
import secrets
import sys
import types
from collections.abc import Callable
from typing import Any

from restem.verify.pool.transport import Channel
from restem.verify.programs import codec
from restem.verify.sandbox.interpreter import SOLUTION

MUTABLE = (list, dict, set, bytearray, collections.deque)
"""Types of arguments that a call may change in place, with their subclasses."""
_NOT_BOUND = frozenset({*vars(types.ModuleType("")), "__builtins__", "__file__"})
"""Names in a program's namespace that the program did not bind."""
_EXCEPTIONS = frozenset(
    value
    for value in vars(builtins).values()
    if isinstance(value, type) and issubclass(value, BaseException)
)


def token() -> str:
    """Returns a random token for one request and its reply."""
    return secrets.token_hex(8)


def check_reply(reply: Any, token: str, operation: str) -> tuple:
    """Returns the reply if its form and token are right.

    Raises:
      CodecError: if it is not a reply to the request.
    """
    lengths = {"ok": 4 if operation == "call" else 3, "raised": 5}
    if type(reply) is not tuple or not reply or type(reply[0]) is not str:
        raise codec.CodecError("a reply of no known form")
    if len(reply) != lengths.get(reply[0]) or (
        reply[0] == "ok" and operation == "call" and type(reply[3]) is not dict
    ):
        raise codec.CodecError("a reply of no known form")
    if type(reply[1]) is not str or reply[1] != token:
        raise codec.CodecError("a reply to no call")
    return reply


class _Objects:
    """Objects of the program that its callers hold by number."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: Any) -> int:
        """Returns the number of an object, always the same for the same object."""
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)  # kept, so that its id stays its own
        return number

    def get(self, number: int) -> Any:
        return self._objects[number]


def serve_calls(channel: Channel, load: Callable[[], dict]) -> None:
    """Loads the program at the first request and answers until the other side is gone."""
    objects = _Objects()
    names: dict[str, Any] | None = None
    while True:
        try:
            mark, *request = codec.decode(channel.receive(), objects.get)
        except EOFError:
            return
        try:
            if names is None:
                names = load()
            reply: tuple = ("ok", mark, *_perform(request, names, objects))
            data = codec.encode(reply, objects.number if request[0] != "solve" else None)
        except BaseException as error:
            kind = type(error)
            data = codec.encode(("raised", mark, kind.__name__, _built_in(kind), text_of(error)))
        channel.send(data)


def _built_in(kind: type[BaseException]) -> str:
    """Returns the name of the first built-in class of an exception: how test code may catch it."""
    return next(base.__name__ for base in kind.__mro__ if base in _EXCEPTIONS)


def text_of(error: BaseException) -> str:
    """Returns the text of an exception, empty if even that raises."""
    try:
        return str(error)[:300]
    except BaseException:
        return ""


def _perform(request: list, names: dict[str, Any], objects: _Objects) -> tuple:
    operation = request[0]
    if operation == "solve":
        _, name, arguments = request
        return (_solver(names, name)(*arguments),)
    if operation == "name":
        return (_bound(names, request[1]),)
    if operation == "call":
        _, function, arguments, keywords = request
        given = dict(enumerate(arguments)) | keywords
        before = _images(given)
        result = function(*arguments, **keywords)
        after = _images(given)
        changed = {
            place: given[place]
            for place, image in after.items()
            if image is not None and image != before[place]
        }
        return result, changed
    if operation == "get":
        return (getattr(request[1], request[2]),)
    if operation == "set":
        setattr(request[1], request[2], request[3])
        return (None,)
    if operation == "iter":
        return (iter(request[1]),)
    if operation == "next":
        return (next(request[1]),)
    if operation == "len":
        return (len(request[1]),)
    if operation == "item":
        return (request[1][request[2]],)
    raise ValueError(f"unknown operation {operation!r}")


def _images(given: dict[int | str, Any]) -> dict[int | str, bytes | None]:
    """Returns images of the mutable arguments, which show what a call changed in place."""
    images: dict[int | str, bytes | None] = {}
    for place, argument in given.items():
        if isinstance(argument, MUTABLE):
            try:
                images[place] = codec.encode(argument)
            except codec.CodecError:
                images[place] = None
    return images


def _bound(names: dict[str, Any], name: str) -> Any:
    """Returns the object that the program itself bound to `name`."""
    if name in _NOT_BOUND or name not in names:
        raise NameError(f"the program defines no {name}")
    return names[name]


def _solver(names: dict[str, Any], name: str) -> Callable:
    """Returns APPS's function of that name, or the method of a fresh `Solution`.

    The method takes precedence over a name that the program only imported: after
    `from itertools import *`, a problem that asks for `Solution.count` does not get
    `itertools.count`.
    """
    value = names.get(name) if name not in _NOT_BOUND else None
    if callable(value) and not (_imported(value) and hasattr(names.get("Solution"), name)):
        return value
    if callable(names.get("Solution")):
        solution = names["Solution"]()
        if hasattr(solution, name):
            return getattr(solution, name)
    raise NameError(f"the program defines neither {name} nor a class Solution with it")


def _imported(value: Any) -> bool:
    """Returns whether a value is a public object of a module other than the program."""
    home = getattr(value, "__module__", None)
    module = sys.modules.get(home) if isinstance(home, str) and home != SOLUTION else None
    return module is not None and getattr(module, getattr(value, "__name__", ""), None) is value
