"""The tests of a program, in the forms that APPS, HumanEval and MBPP publish."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import decimal
import json
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from restem.errors import UserError
from restem.verify.programs.outputs import expected_text, values_are_wrapped
from restem.verify.programs.text import join_prompt, without_trailing_prose


@dataclasses.dataclass(frozen=True)
class StandardInput:
    """Programs that read standard input and write standard output."""

    inputs: tuple[str, ...]
    """Standard input of each test."""
    outputs: tuple[str, ...]
    """What each test expects; never given to the program's process."""


@dataclasses.dataclass(frozen=True)
class Calls:
    """Programs that define a function, or a class Solution with a method, of a given name."""

    fn_name: str
    """Name of the function or method."""
    inputs: tuple[list, ...]
    """Positional arguments of each test."""
    outputs: tuple[Any, ...]
    """What each test expects; never given to the program's process."""
    wrapped: bool
    """Whether every expected value v is written as [v]."""


@dataclasses.dataclass(frozen=True)
class Asserts:
    """Programs judged by test code that calls into them (HumanEval, MBPP)."""

    statements: tuple[str, ...]
    """Tests, run in order in one namespace; each is timed and reported separately."""
    entry_point: str | None
    """Function under test (HumanEval); None if the test code calls by name (MBPP)."""
    program_names: tuple[str, ...]
    """Names that the test code takes from the program."""
    helper_names: tuple[str, ...]
    """Names that the test code takes from what precedes the entry point (HumanEval's prompt)."""
    module_names: tuple[str, ...]
    """Modules of the standard library that the test code uses without importing them."""
    calls_check: bool = False
    """Whether `check(entry_point)` is called at the end of the last statement."""
    prompt: str = ""
    """Beginning of the program; empty if programs are whole."""


Tests = StandardInput | Calls | Asserts


def parse_tests(tests: Mapping | str, *, where: str = "tests") -> Tests:
    """Returns one problem's tests.

    Raises:
      UserError: if the tests are not of a known form; the message begins with `where`.
    """
    if isinstance(tests, (str, bytes)):
        try:
            tests = _parse_json(tests)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: not JSON ({error}); give a problem's tests as JSON"
            ) from None
    if not isinstance(tests, Mapping):
        raise UserError(f"{where}: a JSON object is needed, not {type(tests).__name__}")
    if isinstance(tests.get("input_output"), (str, Mapping)):
        return parse_tests(tests["input_output"], where=where)
    if "inputs" in tests and "outputs" in tests:
        return _parse_apps(tests, where)
    if isinstance(tests.get("test"), str):
        entry_point = tests.get("entry_point")
        if not isinstance(entry_point, str) or not entry_point.isidentifier():
            raise UserError(f"{where}: 'test' needs an 'entry_point', the name of a function")
        return _asserts([tests["test"]], entry_point, str(tests.get("prompt") or ""), where)
    if isinstance(tests.get("test_list"), Sequence) and tests["test_list"]:
        setup = str(tests.get("test_setup_code") or "")
        first, *rest = map(str, tests["test_list"])  # the set-up is no test of its own
        return _asserts([f"{setup}\n{first}" if setup.strip() else first, *rest], None, "", where)
    raise UserError(
        f"{where}: neither APPS's inputs and outputs, nor HumanEval's test and entry_point, nor"
        " MBPP's test_list"
    )


_LONG_INTEGER = re.compile(rf"\d{{{sys.int_info.default_max_str_digits + 1}}}")
_MOST_DIGITS = 1 << 20


def _parse_json(text: str | bytes) -> Any:
    text = text.decode() if isinstance(text, bytes) else text
    if not _LONG_INTEGER.search(text):
        return json.loads(text)

    def integer(digits: str) -> int:
        # Python's own conversion is bounded, because it takes quadratic time.
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"an integer of {len(digits)} digits")
        return int(decimal.Decimal(digits))

    return json.loads(text, parse_int=integer)


def _parse_apps(tests: Mapping, where: str) -> StandardInput | Calls:
    inputs, outputs = tests["inputs"], tests["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs:
        raise UserError(f"{where}: 'inputs' and 'outputs' must be lists with at least one test")
    if len(inputs) != len(outputs):
        raise UserError(f"{where}: {len(inputs)} inputs but {len(outputs)} outputs")
    fn_name = tests.get("fn_name")
    if not fn_name:
        texts = [tuple(map(expected_text, part)) for part in (inputs, outputs)]
        return StandardInput(*texts)
    if not all(isinstance(arguments, list) for arguments in inputs):
        raise UserError(f"{where}: the inputs of {fn_name} must be lists of arguments")
    return Calls(
        fn_name=str(fn_name),
        inputs=tuple([_integer_keys(argument) for argument in row] for row in inputs),
        outputs=tuple(outputs),
        wrapped=values_are_wrapped(outputs),
    )


def _integer_keys(argument: Any) -> Any:
    """Undoes JSON's conversion of keys: if all keys are decimal integers, they become integers."""
    if isinstance(argument, dict) and argument:
        try:
            keys = [int(key) for key in argument]
        except ValueError:
            return argument
        if [str(key) for key in keys] == list(argument):
            return dict(zip(keys, argument.values(), strict=True))
    return argument


def _asserts(statements: list[str], entry_point: str | None, prompt: str, where: str) -> Asserts:
    code = "\n".join(statements).replace("\r\n", "\n")
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: the test code does not parse ({error})") from None
    free, bound = _free_names(tree)
    unknown = sorted(name for name in free if not hasattr(builtins, name))
    # `math.pi` takes a module; `bisect(x)` calls a function of the program by that name.
    calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
    called = {f.id for f in calls if isinstance(f, ast.Name)}
    known = sys.stdlib_module_names | set(typing.__all__)
    modules = tuple(name for name in unknown if name in known - called)
    names = [n for n in unknown if n not in modules and n not in (entry_point, "candidate")]
    if entry_point is not None:
        if "check" not in bound and not free & {entry_point, "candidate"}:
            raise UserError(
                f"{where}: the test code neither defines check nor uses {entry_point};"
                " it would pass every program"
            )
        return Asserts(
            statements=tuple(s.replace("\r\n", "\n") for s in statements),
            entry_point=entry_point,
            program_names=(entry_point,),
            helper_names=tuple(names),
            module_names=modules,
            calls_check="check" in bound,
            prompt=prompt,
        )
    if not names:
        # The function under test may have the name of a built-in one (MBPP 126 asks for `sum`). It
        # is the outermost call of the assertions; any other built-in name stays Python's own.
        names = sorted(_outermost_calls(tree))
    return Asserts(
        statements=tuple(s.replace("\r\n", "\n") for s in statements),
        entry_point=None,
        program_names=tuple(names),
        helper_names=(),
        module_names=modules,
    )


def _free_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Returns the names that the code loads but does not bind, and the names that it binds."""
    loaded: set[str] = set()
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return loaded - bound, bound


def _outermost_calls(tree: ast.Module) -> set[str]:
    found = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assert):
            test = statement.test
            left = test.left if isinstance(test, ast.Compare) else test
            if isinstance(left, ast.Call) and isinstance(left.func, ast.Name):
                found.add(left.func.id)
    return found


def program_names(tests: Tests) -> tuple[str, ...]:
    """Returns the names that the tests take from the program."""
    match tests:
        case Asserts():
            return tests.program_names
        case Calls():
            return (tests.fn_name,)
    return ()


def program_of(tests: Tests, text: str) -> str:
    """Returns the whole program of an extracted text, with the prompt, without trailing prose."""
    if isinstance(tests, Asserts) and tests.prompt and tests.entry_point:
        text = join_prompt(tests.prompt, text, tests.entry_point)
    return without_trailing_prose(text)
