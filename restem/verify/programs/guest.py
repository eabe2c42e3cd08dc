"""What jails do for this room besides running scripts: serve calls, and run test code."""

from __future__ import annotations

import functools
import json
import os
import types

from restem.verify.pool.transport import Channel
from restem.verify.programs import asserts, calls
from restem.verify.sandbox import interpreter
from restem.verify.sandbox.jail import Body

_GIVEN = """
import bisect, collections, copy, functools, heapq, itertools, math
import operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
pow = __import__("builtins").pow
"""


@functools.cache
def given_names() -> dict[str, object]:
    """Returns names that judges of functions (LeetCode, APPS's own) import for a program."""
    names: dict[str, object] = {"__name__": "solution"}
    exec(_GIVEN, names)
    del names["__builtins__"]
    return names


def _serve_calls(order: dict, fds: list[int], code: types.CodeType | None) -> None:
    reader, writer, errors = interpreter.aside(fds)
    interpreter.standard_streams([interpreter.null(), interpreter.null(), errors])
    channel = Channel(reader, writer)
    interpreter.leave_after(lambda: calls.serve_calls(channel, lambda: _module(code)))


def _run_test_code(order: dict, fds: list[int], code: types.CodeType | None) -> None:
    report, test, *channels, errors = interpreter.aside(fds)
    job = json.loads(interpreter.read_all(test))
    os.close(test)
    interpreter.standard_streams([interpreter.null(), interpreter.null(), errors])
    interpreter.leave_after(lambda: asserts.run_asserts(job, report, channels))


def _module(code: types.CodeType | None) -> dict:
    """Returns the names of the program as an imported module: its `__main__` guard is not run."""
    assert code is not None
    module = interpreter.new_module(interpreter.SOLUTION)
    module.__dict__.update(given_names())
    exec(code, module.__dict__)
    return module.__dict__


BODIES: dict[str, Body] = {"calls": _serve_calls, "asserts": _run_test_code}
given_names()  # loaded once, in the zygote
