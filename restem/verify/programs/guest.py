"""The orders that a jail accepts from `programs`: run a script, serve calls, run test code."""

from __future__ import annotations

import json
import os
import types

from restem.verify.pool.transport import Channel
from restem.verify.programs import asserts, calls, prelude
from restem.verify.sandbox import interpreter
from restem.verify.sandbox.jail import Body


def _standard_input(order: dict, fds: list[int], code: types.CodeType | None) -> None:
    assert code is not None
    prelude.supply(code)
    interpreter.script(order, fds, code)


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
    """Returns the program's namespace, imported as a module so that no `__main__` guard runs."""
    assert code is not None
    prelude.supply(code)
    module = interpreter.new_module(interpreter.SOLUTION)
    exec(code, module.__dict__)
    return module.__dict__


BODIES: dict[str, Body] = {
    "standard_input": _standard_input,
    "calls": _serve_calls,
    "asserts": _run_test_code,
}
prelude.table()  # made once, in the zygote
