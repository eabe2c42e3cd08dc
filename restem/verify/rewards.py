"""The user's reward functions, in the worker that calls them.

A grader of kind "function" has these options:

    function     "package.module:name" of `f(problem, text) -> float | Verdict`
    batch        samples per call; above 1 the function takes lists and returns a list
    warm_up      name in the same module, called once in each worker before its clock runs
    start_limit_s  seconds that importing the module and warming up may take
    devices      value of CUDA_VISIBLE_DEVICES for the workers; "" hides every accelerator

Rewards are finite numbers of at least 0. A sample for which the function raises, or returns
anything else, has method "error" and reward 0.
"""

from __future__ import annotations

import importlib
import math
import operator
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from restem.errors import UserError
from restem.records import Problem, Verdict, verdict_fields

OPTIONS = frozenset({"function", "batch", "warm_up", "start_limit_s", "devices"})
START_LIMIT_S = 600.0
"""Default of `start_limit_s`: a worker may have to load a model."""


def check(options: Mapping[str, Any]) -> None:
    """Raises UserError for invalid options; imports nothing."""
    name = options.get("function")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.]+:\w+", name):
        raise UserError(f"the grader's function is {name!r}; write it as package.module:function")
    batch = options.get("batch", 1)
    if type(batch) is not int or batch < 1:
        raise UserError(f"the grader's batch is {batch!r}; give a whole number of at least 1")
    limit = options.get("start_limit_s", START_LIMIT_S)
    if type(limit) not in (int, float) or not 0 < limit < math.inf:
        raise UserError(f"the grader's start_limit_s is {limit!r}; give a positive number")
    warm_up = options.get("warm_up", "")
    if not isinstance(warm_up, str) or (warm_up and not warm_up.isidentifier()):
        raise UserError(
            f"the grader's warm_up is {warm_up!r}; name a function in the module of {name!r}"
        )
    devices = options.get("devices", "")
    if not isinstance(devices, str):
        raise UserError(f"the grader's devices are {devices!r}; give a text such as '0'")


class Reward:
    """A user's function, in the process that calls it."""

    def __init__(
        self,
        function: str,
        *,
        batch: int = 1,
        warm_up: str = "",
        start_limit_s: float = START_LIMIT_S,
        devices: str = "",
    ):
        """Imports the function; the arguments are the options of the grader.

        Raises:
          UserError: if the module or a name in it cannot be imported.
        """
        del start_limit_s, devices  # the parent's concern
        self._name = function
        self._batched = batch > 1
        self._function = _load(function)
        self._warm_up = _load(f"{function.partition(':')[0]}:{warm_up}") if warm_up else None

    def warm_up(self) -> None:
        """Calls the user's warm-up, if there is one.

        Raises:
          UserError: it raises.
        """
        if self._warm_up is None:
            return
        try:
            self._warm_up()
        except Exception as error:
            traceback.print_exc()
            raise UserError(
                f"the warm-up of the reward function {self._name!r} raised {_said(error)}"
            ) from None

    def grade(self, problem: Problem, text: str) -> Verdict:
        """Returns the verdict on one sample."""
        (reply,) = self.replies([problem], [text])
        return Verdict(**reply["verdict"])

    def replies(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Returns each sample's verdict as fields, with a traceback if the function raised."""
        if self._batched:
            return self._replies(self._function, list(problems), list(texts))
        found = []
        for problem, text in zip(problems, texts, strict=True):
            found += self._replies(lambda p, t: [self._function(p[0], t[0])], [problem], [text])
        return found

    def _replies(
        self, call: Callable[[Any, Any], Any], problems: list[Problem], texts: list[str]
    ) -> list[dict[str, Any]]:
        count = len(texts)
        try:
            results = call(problems, texts)
            # If it is a generator, this runs the user's code.
            found = list(results) if isinstance(results, Iterable) else []
        except MemoryError:
            return [{"verdict": verdict_fields(self._failed("is out of memory"))}] * count
        except Exception as error:
            verdict = verdict_fields(self._failed(f"raised {_said(error)}"))
            return [{"verdict": verdict, "traceback": traceback.format_exc()}] * count
        if len(found) != count:
            wanted = f"returned {_shown(results)}; a batch of {count} needs {count} rewards"
            return [{"verdict": verdict_fields(self._failed(wanted))}] * count
        return [{"verdict": verdict_fields(self._verdict(result))} for result in found]

    def _verdict(self, result: Any) -> Verdict:
        reward = _number(result.reward if isinstance(result, Verdict) else result)
        if not (math.isfinite(reward) and reward >= 0):
            return self._failed(
                f"returned {_shown(result)}; a reward is a finite number of at least 0"
            )
        if not isinstance(result, Verdict):
            return Verdict(reward, self._name)
        try:
            return Verdict(**{**_plain_fields(result), "reward": reward})
        except Exception as error:
            return self._failed(f"returned {_shown(result)}: {error}")

    def _failed(self, what: str) -> Verdict:
        detail = f"{self._name} {what}"[:500].replace("\n", " ")
        return Verdict(0.0, method="error", detail=detail)


def _load(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        if not isinstance(error, (ImportError, AttributeError)):
            traceback.print_exc()
        raise UserError(f"cannot import the reward function {name!r}: {_said(error)}") from None


def _said(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    try:
        message = str(error)
    except Exception:
        message = "no message"
    return f"{type(error).__name__}: {message} ({frame.filename}:{frame.lineno})"


def _shown(result: Any) -> str:
    try:
        return f"{result!r:.200}"
    except Exception:
        return f"an object of type {type(result).__name__}"


def _plain_fields(verdict: Verdict) -> dict[str, Any]:
    """Returns a verdict's fields as types that cross to the parent; NumPy's scalars are converted.

    Raises:
      TypeError: if a field has another type than its annotation.
    """
    fields = verdict_fields(verdict)
    for name in ("method", "detail", "sandbox"):
        if not isinstance(fields[name], str):
            raise TypeError(f"{name} is not a string")
    for name in ("extracted", "normalized"):
        if not isinstance(fields[name], str | None):
            raise TypeError(f"{name} is neither a string nor None")
    for name, plain in (("passed", operator.index), ("total", operator.index), ("seconds", float)):
        if fields[name] is not None:
            fields[name] = plain(fields[name])
    fields["correct"] = bool(fields["correct"])
    return fields


def _number(result: Any) -> float:
    """Returns a reward as a float; NaN if it is not a number, even if it is a string of digits."""
    if isinstance(result, str | bytes | bytearray):
        return math.nan
    try:
        # This accepts scalars of NumPy and JAX too, without importing either.
        return float(result)
    except Exception:
        return math.nan
