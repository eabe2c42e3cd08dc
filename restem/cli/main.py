"""The command line: one verb a step, flags and gin, nothing else."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence

from absl import flags

from restem.errors import UserError

EXAMPLES = {
    "run": "restem run --gin_file=restem_demo.gin --workdir=runs/demo",
    "generate": "restem generate --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
    "verify": "restem verify --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
    "select": "restem select --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
    "improve": "restem improve --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
    "evaluate": "restem evaluate --gin_file=restem_math.gin --workdir=runs/math --iteration=1",
    "report": "restem report runs/demo",
    "plan": "restem plan --gin_file=restem_math.gin --gin_file=hardware/v5p_64.gin",
    "init": "restem init mine",
    "export": "restem export --workdir=runs/demo --iteration=2 --output=exported",
    "doctor": "restem doctor",
}

HELP = {
    "run": "the whole loop: sample, verify, select, improve, evaluate, again",
    "generate": "E-step: sample and verify solutions of the training problems",
    "verify": "grade the samples of an iteration again and show what changed",
    "select": "choose and weight the training examples",
    "improve": "M-step: fine-tune the policy on the selected examples",
    "evaluate": "pass@1, pass@k and maj@k of a policy on the run's tasks",
    "report": "the figures and tables of one or several runs as a page",
    "plan": "compile the run for a TPU topology that is not here: memory, FLOPs, hours",
    "init": "write a task to edit, which runs as it is",
    "export": "write a policy as a Hugging Face folder",
    "doctor": "devices, sandbox layers in force, versions",
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="restem",
        description="ReST-EM: a language model improves itself on problems whose answers a program"
        " can check. Running the same command again resumes it.",
        epilog="Any gin binding can be set as --gin.NAME=VALUE, such as --gin.SEED=1.",
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in HELP.items():
        p = verbs.add_parser(
            verb, help=text, description=text, epilog=f"example: {EXAMPLES[verb]}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )  # fmt: skip
        if verb == "doctor":
            continue
        if verb == "init":
            p.add_argument("name", metavar="NAME", help="name of the task, and of its new folder")
            continue
        if verb == "report":
            p.add_argument("workdirs", nargs="*", metavar="DIR", help="folders of runs")
            p.add_argument("--output", help="folder of the page; default: DIR/report")
            p.add_argument(
                "--labels", metavar="A,B", help="what figures call the runs; default: their methods"
                " where these differ, else their folders' names",
            )  # fmt: skip
            p.add_argument(
                "--no_texts", action="store_true", help="leave out problems and samples, for a page"
                " that may be published where the data set may not",
            )  # fmt: skip
        p.add_argument("--workdir", help="folder of the run; may be in a bucket")
        if verb == "report":
            continue
        p.add_argument(
            "--gin_file", action="append", default=[], metavar="FILE",
            help="may be given several times; found beside the package and in this folder",
        )  # fmt: skip
        p.add_argument("--dry_run", action="store_true", help="say what would be done, and stop")
        p.add_argument(
            "--allow_weak_sandbox", action="store_true",
            help="run programs that the model wrote even where this machine cannot isolate them",
        )  # fmt: skip
        if verb in ("run", "generate", "improve", "evaluate"):
            p.add_argument(
                "--profile", action="store_true",
                help="trace some decode and training steps into DIR/profile",
            )  # fmt: skip
        if verb in ("generate", "verify", "select", "improve", "evaluate", "export"):
            p.add_argument("--iteration", type=int, help="which; default: the last, or the next")
        if verb == "evaluate":
            p.add_argument("--policy", help="a policy reference, instead of the run's own")
            p.add_argument(
                "--task", action="append", default=[], metavar="NAME",
                help="a task, or a group such as bbh_cot, instead of the run's; may be given again",
            )  # fmt: skip
            p.add_argument(
                "--completions", nargs="+", metavar="FILE",
                help="score outputs that stand in files (JSON lines), without a model",
            )  # fmt: skip
            p.add_argument("--split", default="test", help="of the problems of --completions")
            p.add_argument(
                "--compare", nargs=2, metavar=("A.parquet", "B.parquet"),
                help="compare the answers of two evaluations, problem by problem",
            )  # fmt: skip
            p.add_argument("--grades", metavar="FILE.csv", help="add up a filled-in grading sheet")
            p.add_argument("--output", help="folder for --completions, or of --grades' evaluation")
        if verb == "export":
            p.add_argument("--policy", help="a policy reference, instead of the run's own")
            p.add_argument("--output", required=True, help="folder to write")
        if verb == "plan":
            p.add_argument("--json", action="store_true", help="print JSON for scripts")
    return top


def split_gin_bindings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` out of argv: (the other arguments, bindings "NAME = VALUE")."""
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
    """A gin value as typed in a shell: what is neither a literal nor a reference is a string."""
    if text.startswith(("@", "%")):
        return text
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return repr(text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0; 2 for bad input; see also `runtime.distributed`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    flags.FLAGS.mark_as_parsed()  # absl's logging asks its flags, which nothing else here uses
    try:
        argv, bindings = split_gin_bindings(argv)
        arguments = parser().parse_args(argv)
        from restem.cli import verbs

        return verbs.dispatch(arguments, bindings)
    except UserError as e:
        # gin adds lines that say in which configurables an error was raised.
        print(f"restem: {str(e).partition(chr(10))[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("restem: interrupted; the same command continues from here", file=sys.stderr)
        return 130


def console() -> None:
    """The `restem` command."""
    code = main()
    if distributed := sys.modules.get("restem.runtime.distributed"):  # not imported for --help
        code = distributed.end(code)
    sys.exit(code)
