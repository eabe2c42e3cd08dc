"""The program's side of calls into it: it is loaded into a jail of its own and answers requests.

Values cross as data (`restem.verify.programs.codec`). The caller is the supervisor (APPS's
call-based tests) or test code in a second jail (`restem.verify.programs.asserts`).
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from restem.verify.pool.transport import Channel
from restem.verify.programs import codec

MUTABLE = (list, dict, set, bytearray)
"""Types of arguments that a call may change in place."""


class _Objects:
    """Objects of the program that its callers hold by number."""

    def __init__(self) -> None:
        self._objects: list[Any] = []

    def number(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def get(self, number: int) -> Any:
        return self._objects[number]


def serve_calls(channel: Channel, load: Callable[[], dict]) -> None:
    """Loads the program and answers requests until the other side is gone.

    A request is `[operation, ...]`, a reply `["ok", value, changed arguments]`, or
    `["raised", exception name, text]`.
    """
    objects = _Objects()
    names: dict[str, Any] | None = None
    while True:
        try:
            request = codec.decode(channel.receive(), objects.get)
        except EOFError:
            return
        try:
            if names is None:
                names = load()
            reply: tuple = ("ok", *_perform(request, names, objects))
            data = codec.encode(reply, objects.number if request[0] != "solve" else None)
        except BaseException as error:
            data = codec.encode(("raised", type(error).__name__, text_of(error)))
        channel.send(data)


def text_of(error: BaseException) -> str:
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
        return (names[request[1]] if request[1] in names else getattr(builtins, request[1]),)
    if operation == "call":
        _, function, arguments, keywords = request
        before = _images(arguments, objects)
        result = function(*arguments, **keywords)
        after = _images(arguments, objects)
        changed = {
            n: arguments[n]
            for n, image in after.items()
            if image is not None and image != before[n]
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


def _images(arguments: list, objects: _Objects) -> dict[int, bytes | None]:
    """Returns images of the mutable arguments, to see which of them a call changed in place."""
    images: dict[int, bytes | None] = {}
    for n, argument in enumerate(arguments):
        if type(argument) in MUTABLE:
            try:
                images[n] = codec.encode(argument)
            except codec.CodecError:
                images[n] = None
    return images


def _solver(names: dict[str, Any], name: str) -> Callable:
    """Returns APPS's function of that name, or the method of a fresh `Solution`."""
    if name in names and callable(names[name]):
        return names[name]
    if "Solution" in names:
        return getattr(names["Solution"](), name)
    raise NameError(f"the program defines neither {name} nor a class Solution")
