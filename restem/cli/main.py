"""The command line: verbs and flags."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import sys
from collections.abc import Callable, Sequence

from absl import flags

from restem import __version__
from restem.errors import UserError


@dataclasses.dataclass(frozen=True)
class Verb:
    """A verb of the command line."""

    help: str
    """Description in one line."""
    example: str
    """A complete example command."""
    options: Callable[[argparse.ArgumentParser], None] = lambda p: None
    """Function that adds the verb's own flags."""
    reads_gin: bool = True
    """Whether the verb reads gin files and bindings."""
    takes_iteration: bool = False
    """Whether the verb works on one iteration of a run."""
    is_long: bool = False
    """Whether the verb samples or trains, and so can be profiled and resumed."""


def _score(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="*", metavar="FILE", help="outputs, as JSON lines")
    _add_tasks(p, "task, or group such as bbh_cot, that the outputs are of")
    p.add_argument("--split", default="test", help="split of the problems")
    p.add_argument("--grades", metavar="FILE.csv", help="add up a filled-in grading sheet instead")
    p.add_argument("--output", help="folder for the scores; default: DIR/evaluations/NAME")


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


def _report(p: argparse.ArgumentParser) -> None:
    p.add_argument("workdirs", nargs="*", metavar="DIR", help="folders of runs")
    p.add_argument("--output", help="folder of the page; default: DIR/report")
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
    p.add_argument("--output", required=True, help="folder to write")
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


VERBS = {
    "run": Verb(
        "the whole loop: sample, verify, select, improve, evaluate, again",
        "restem run --gin_file=restem_demo.gin --workdir=runs/demo",
        is_long=True,
    ),
    "generate": Verb(
        "E-step: sample and verify solutions of the training problems",
        "restem generate --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
        takes_iteration=True, is_long=True,
    ),
    "verify": Verb(
        "grade the samples of an iteration again and show what changed",
        "restem verify --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
        takes_iteration=True,
    ),
    "select": Verb(
        "choose and weight the training examples",
        "restem select --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
        takes_iteration=True,
    ),
    "improve": Verb(
        "M-step: fine-tune the policy on the selected examples",
        "restem improve --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
        takes_iteration=True, is_long=True,
    ),
    "evaluate": Verb(
        "pass@1, pass@k and maj@k of a policy on the run's tasks",
        "restem evaluate --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
        _evaluate, takes_iteration=True, is_long=True,
    ),
    "score": Verb(
        "score files of outputs, without a model",
        "restem score outputs.jsonl --task=gsm8k --output=scores",
        _score,
    ),
    "compare": Verb(
        "compare the answers of two evaluations, problem by problem",
        "restem compare iteration_000/evals/math.parquet iteration_002/evals/math.parquet",
        _compare, reads_gin=False,
    ),
    "report": Verb(
        "the figures and tables of one or several runs as a page",
        "restem report runs/demo", _report, reads_gin=False,
    ),
    "plan": Verb(
        "compile the run for a TPU topology that is not at hand: memory, FLOPs, hours",
        "restem plan --gin_file=restem_math.gin --gin_file=models/gemma3_27b.gin"
        " --gin_file=hardware/v5p_64.gin",
        _plan,
    ),
    "export": Verb(
        "write a policy as a Hugging Face folder",
        "restem export --workdir=runs/demo --iteration=2 --output=exported",
        _export, takes_iteration=True,
    ),
    "config": Verb(
        "every setting: name, default, meaning, and the file that binds it",
        "restem config select.cap --gin_file=restem_math.gin", _config,
    ),
    "init": Verb(
        "write the files of a new task, which runs as it is",
        "restem init mine", _init, reads_gin=False,
    ),
    "doctor": Verb(
        "devices, sandbox layers in force, versions", "restem doctor", reads_gin=False
    ),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="restem",
        description="ReST-EM: a language model improves itself on problems whose answers a program"
        " can check. Running the same command again resumes it.",
        epilog="Any gin binding can be set as --gin.NAME=VALUE, such as --gin.SEED=1.",
    )
    top.add_argument("--version", action="version", version=f"restem {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        p = verbs.add_parser(
            name, help=verb.help, description=verb.help, epilog=f"example: {verb.example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )  # fmt: skip
        verb.options(p)
        p.add_argument("--quiet", action="store_true", help="show results and errors only")
        if name not in ("doctor", "init", "compare"):
            p.add_argument("--workdir", help="folder of the run; may be in a bucket")
        if verb.reads_gin:
            p.add_argument(
                "--gin_file", action="append", default=[], metavar="FILE",
                help="may be given several times; found beside the package and in this folder",
            )  # fmt: skip
            p.add_argument("--dry_run", action="store_true", help="show what would be done; stop")
            p.add_argument(
                "--allow_weak_sandbox", action="store_true",
                help="run programs that the model wrote even where this machine cannot isolate"
                " them",
            )  # fmt: skip
        if verb.is_long:
            p.add_argument(
                "--profile", action="store_true",
                help="trace some decode and training steps into DIR/profile",
            )  # fmt: skip
        if verb.takes_iteration:
            p.add_argument("--iteration", type=int, help="which; default: the last, or the next")
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
        argv, bindings = split_gin_bindings(argv)
        arguments = parser().parse_args(argv)
        if arguments.quiet:
            from restem.runtime import progress

            progress.be_quiet()
        from restem.cli import verbs

        return verbs.dispatch(arguments, bindings)
    except UserError as e:
        # gin appends lines that name the configurables in which an error was raised.
        print(f"restem: {str(e).partition(chr(10))[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("restem: interrupted; the same command continues from here", file=sys.stderr)
        return 130


def console() -> None:
    """Runs the `restem` command and exits."""
    code = main()
    if distributed := sys.modules.get("restem.runtime.distributed"):  # not imported for --help
        code = distributed.end(code)
    sys.exit(code)
