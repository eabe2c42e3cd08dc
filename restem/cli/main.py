"""The command line: verbs and flags."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags

from restem import __version__
from restem.cli import refusals
from restem.errors import MachineError, UserError
from restem.runtime import host_memory


@dataclasses.dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    help: str
    """Description in one line."""
    example: str
    """A complete example command."""
    takes: str = ""
    """Shared flags that the verb reads: names of `_SHARED`, separated by spaces."""
    options: Callable[[argparse.ArgumentParser], None] = lambda p: None
    """Function that adds the verb's own flags."""
    refuse: Callable[[argparse.Namespace], None] = lambda arguments: None
    """Function that raises `UserError` for flags that do not fit; imports nothing heavy."""
    iteration: str | None = None
    """Iteration that the verb takes by default, if it works on one."""


def _workdir(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--workdir", type=_folder, metavar="DIR", help="folder of the run; may be in a bucket"
    )


def _gin(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE",
        help="may be given several times; found beside the package and in this folder",
    )  # fmt: skip
    p.epilog = f"{p.epilog}; any gin setting is --gin.NAME=VALUE, such as --gin.SEED=1"


def _dry_run(p: argparse.ArgumentParser) -> None:
    p.add_argument("--dry_run", action="store_true", help="show what would be done; stop")


def _sandbox(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--allow_weak_sandbox", action="store_true",
        help="run programs that the model wrote even where this machine cannot isolate them",
    )  # fmt: skip


def _profile(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--profile", action="store_true",
        help="trace some decode and training steps into DIR/profile",
    )  # fmt: skip


def _repair(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--repair", action="store_true",
        help="first remove damaged files that the run makes again, and name them",
    )  # fmt: skip


_SHARED = {
    "workdir": _workdir, "gin": _gin, "dry_run": _dry_run, "sandbox": _sandbox,
    "profile": _profile, "repair": _repair,
}  # fmt: skip


def _score(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="*", metavar="FILE", help="outputs, as JSON lines")
    _add_tasks(p, "task, or group such as bbh_cot, that the outputs are of")
    p.add_argument("--split", default="test", help="split of the problems; default: test")
    p.add_argument("--grades", metavar="FILE.csv", help="add up a filled-in grading sheet instead")
    p.add_argument(
        "--output", type=_folder, help="folder for the scores; default: DIR/evaluations/NAME"
    )


def _generate(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--requests", type=_file, metavar="FILE",
        help="write what another engine is to sample, and stop",
    )  # fmt: skip
    p.add_argument(
        "--completions", action="append", default=[], metavar="FILE",
        help="take the samples of another engine from JSON lines; may be given again",
    )  # fmt: skip


def _evaluate(p: argparse.ArgumentParser) -> None:
    p.add_argument("--policy", help="a policy reference, instead of the run's own")
    _add_tasks(p, "task, or group such as bbh_cot, instead of the run's; with --policy")


def _add_tasks(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument(
        "--task", action="append", default=[], metavar="NAME", help=f"{text}; may be given again"
    )


def _compare(p: argparse.ArgumentParser) -> None:
    p.add_argument("first", metavar="A.parquet", help="answers of an evaluation")
    p.add_argument("second", metavar="B.parquet", help="answers of another to the same problems")
    p.add_argument(
        "--by", action="append", default=[], metavar="TRAIT", help="also count the answers"
        " that are truncated, unformatted, or matched by a regular expression; may be given again",
    )  # fmt: skip


def _report(p: argparse.ArgumentParser) -> None:
    p.add_argument("workdirs", nargs="*", metavar="DIR", help="folders of runs")
    p.add_argument("--output", type=_folder, help="folder of the page; default: DIR/report")
    p.add_argument(
        "--labels", metavar="A,B", help="names of the runs in figures; default: their methods"
        " where these differ, else their folders' names",
    )  # fmt: skip
    p.add_argument(
        "--no_texts", action="store_true", help="leave out problems and samples, for a page"
        " that may be published where the data set may not",
    )  # fmt: skip


def _export(p: argparse.ArgumentParser) -> None:
    p.add_argument("--policy", help="a policy reference, instead of the run's own")
    p.add_argument("--output", type=_folder, required=True, help="local folder to write")
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="dtype of the tensors; default: float32, in which training keeps them",
    )  # fmt: skip
    p.add_argument(
        "--adapter", action="store_true",
        help="write the policy's adapter alone, for the peft package, instead of merged weights",
    )  # fmt: skip


def _plan(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="print JSON for scripts")


def _config(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", nargs="?", metavar="NAME", help='such as "select" or "select.cap"')
    p.add_argument("--markdown", action="store_true", help="print docs/configuration.md")


def _init(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", metavar="NAME", help="name of the task and of its folder")


_RUN = "workdir gin dry_run repair sandbox profile"

VERBS = {
    "run": Verb(
        "the whole loop: sample, verify, select, improve, evaluate, again",
        "restem run --gin_file=restem_demo.gin --workdir=runs/demo",
        _RUN, refuse=refusals.of_run,
    ),
    "generate": Verb(
        "E-step: sample and verify solutions of the training problems",
        "restem generate --gin_file=restem_demo.gin --workdir=runs/demo --iteration=1",
        _RUN, _generate, refusals.generate, iteration="the first without samples",
    ),
    "verify": Verb(
        "grade the samples of an iteration again and show what changed",
        "restem verify --gin_file=restem_demo.gin --workdir=runs/demo --iteration=1",
        "workdir gin dry_run repair sandbox", refuse=refusals.of_run,
        iteration="the last with samples",
    ),
    "select": Verb(
        "choose and weight the training examples",
        "restem select --gin_file=restem_demo.gin --workdir=runs/demo --iteration=1",
        "workdir gin dry_run repair", refuse=refusals.of_run,
        iteration="the first without a selection",
    ),
    "improve": Verb(
        "M-step: fine-tune the policy on the selected examples",
        "restem improve --gin_file=restem_demo.gin --workdir=runs/demo --iteration=1",
        _RUN, refuse=refusals.of_run, iteration="the first without a policy",
    ),
    "evaluate": Verb(
        "pass@1, pass@k and maj@k of a policy on the run's tasks",
        "restem evaluate --gin_file=restem_demo.gin --workdir=runs/demo --iteration=1",
        _RUN, _evaluate, refusals.evaluate,
        iteration="the last with a policy, or 0, the base policy",
    ),
    "score": Verb(
        "score files of outputs, without a model",
        "restem score outputs.jsonl --task=gsm8k --output=scores",
        "workdir gin sandbox", _score, refusals.score,
    ),
    "compare": Verb(
        "compare the answers of two evaluations, problem by problem",
        "restem compare iteration_000/evals/math.parquet iteration_002/evals/math.parquet",
        options=_compare, refuse=refusals.compare,
    ),
    "report": Verb(
        "the figures and tables of one or several runs as a page",
        "restem report runs/demo", "workdir gin", _report, refusals.report,
    ),
    "plan": Verb(
        "compile the run for a TPU topology that is not at hand: memory, FLOPs, hours",
        "restem plan --gin_file=restem_math.gin --gin_file=models/gemma3_27b.gin"
        " --gin_file=hardware/v5p_64.gin",
        "gin dry_run", _plan,
    ),
    "export": Verb(
        "write a policy as a Hugging Face folder",
        "restem export --workdir=runs/demo --iteration=2 --output=exported",
        "workdir", _export, refusals.export,
        iteration="the last with a policy, or 0, the base policy",
    ),
    "config": Verb(
        "every setting: name, default, meaning, and the file that binds it",
        "restem config select.cap --gin_file=restem_math.gin", "gin", _config,
    ),
    "init": Verb(
        "write the files of a new task, which runs as it is", "restem init mine", options=_init,
    ),
    "doctor": Verb(
        "devices, free disk space, sandbox layers in force, versions", "restem doctor",
        "workdir gin",
    ),
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{' '.join(message.split())}; see {self.prog} --help")


def _whole(least: int) -> Callable[[str], int]:
    """Returns the type of a flag whose value is a whole number of at least `least`."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least {least}")
        return int(text)

    return number


_BUCKETS = ("gs://", "s3://", "az://")
"""Beginnings of paths in buckets."""


def _folder(text: str) -> str:
    """Returns the value of a flag that names a folder."""
    return _place(text, "folder")


def _file(text: str) -> str:
    """Returns the value of a flag that names a file."""
    return _place(text, "file")


def _place(text: str, kind: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} names no {kind}")
    if "://" in text and not text.startswith(_BUCKETS):
        raise argparse.ArgumentTypeError(f"{text!r} names no {kind}; a bucket is {_BUCKETS[0]}NAME")
    return text


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="restem",
        description="ReST-EM: a language model improves itself on problems whose answers a program"
        " can check. Running the same command again resumes it.",
        epilog="`restem VERB --help` lists the flags of a verb.",
    )
    top.add_argument("--version", action="version", version=f"restem {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        epilog = f"example: {verb.example}"
        p = verbs.add_parser(name, help=verb.help, description=verb.help, epilog=epilog)
        verb.options(p)
        for shared in verb.takes.split():
            _SHARED[shared](p)
        if verb.iteration is not None:
            least = 0 if "or 0" in verb.iteration else 1
            p.add_argument(
                "--iteration", type=_whole(least), metavar="N", help=f"default: {verb.iteration}"
            )
        p.add_argument("--quiet", action="store_true", help="show results and errors only")
    return top


def split_gin_bindings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits `--gin.NAME=VALUE` off argv: (the other arguments, bindings "NAME = VALUE")."""
    others, bindings = [], []
    for argument in argv:
        if not argument.startswith("--gin."):
            others.append(argument)
            continue
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            raise UserError(f"{argument}: a gin binding is --gin.NAME=VALUE")
        bindings.append(f"{name} = {_gin_value(value)}")
    return others, bindings


def _gin_value(text: str) -> str:
    """Returns a gin value from a shell; text that is no literal or reference becomes a string."""
    if text.startswith(("@", "%")):
        return text
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return repr(text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, 2 for bad input, or as in `runtime.distributed`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    flags.FLAGS.mark_as_parsed()  # absl's logging reads absl flags, which restem does not use
    try:
        if odd := [argument for argument in argv if "\0" in argument]:
            raise UserError(f"{odd[0]!r}: an argument holds a null character")
        argv, bindings = split_gin_bindings(argv)
        arguments = parser().parse_args(argv)
        verb = VERBS[arguments.verb]
        refusals.shared(arguments, bindings, reads_gin="gin" in verb.takes.split())
        verb.refuse(arguments)
        if arguments.quiet:
            from restem.runtime import progress

            progress.be_quiet()
        from restem.cli import verbs

        return verbs.dispatch(arguments, bindings)
    except (UserError, MachineError) as e:
        # gin appends lines that name the configurables in which an error was raised.
        print(f"restem: {str(e).partition(chr(10))[0]}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("restem: interrupted; the same command continues from here", file=sys.stderr)
        return 130


def console() -> None:
    """Runs the `restem` command and exits."""
    # Imports and tracing make objects that stay. With Python's default of 700 new ones between
    # collections, each of which also runs JAX's, a warm start spends 0.8 s on 900 of them
    # (benchmarks/end_to_end.md).
    gc.set_threshold(20_000, 10, 10)
    host_memory.keep_freed()
    code = main()
    if distributed := sys.modules.get("restem.runtime.distributed"):  # not imported for --help
        code = distributed.end(code)
    if code == MachineError.exit_code:
        # What libraries do at the end of a process would fail on the same full disk, with
        # tracebacks of its own.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
