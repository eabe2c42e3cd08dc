"""The verbs of the command line, one function per verb."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from tempfile import gettempdir
from typing import Any

import jax
from absl import logging
from etils import epath

from restem import checkpoints, em
from restem.checkpoints.export import check_target, in_host_memory
from restem.checkpoints.export import export as write_policy
from restem.cli import dry_run, reference
from restem.cli.gin_files import parse_gin
from restem.cli.session import log_traceback, open_run, save_operative_config
from restem.errors import MachineError, UserError
from restem.evaluation import breakdown, comparisons, contamination, grading_sheet, scoring
from restem.plan import planner
from restem.plan.settings import PlanSettings
from restem.report import report as pages
from restem.rollout import Rollout
from restem.run import bindings as bindings_lib
from restem.run import ignored, layout, lease, model_card, reader, summary, trackers
from restem.run.run import Run, versions
from restem.run.settings import from_gin
from restem.runtime import compilation, distributed, machine_errors, storage
from restem.runtime.cache import cache_folder
from restem.runtime.preemption import EXIT_PREEMPTED, PREEMPTION, PreemptedError
from restem.runtime.progress import CONSOLE, say
from restem.runtime.rates import product_rate
from restem.steps import space
from restem.steps.generate import write_requests
from restem.steps.regrade import regrade
from restem.steps.settings import Settings
from restem.tasks import new_task
from restem.verify import WorkersLostError, close_shared
from restem.verify.sandbox import layers

SHOWN_CHANGES = 20
"""Maximum number of samples that `verify` lists."""


def run(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    this, settings = open_run(arguments, bindings)
    if arguments.dry_run:
        return dry_run.show(this, settings)
    this.open(settings)
    _check_contamination(this)
    result = em.em(run=this, settings=settings)

    def write() -> str:
        save_operative_config(this)
        return pages.report(workdirs=[str(this.files.path)])

    page = distributed.run_on_primary("report", write)
    _show(summary.table(result))
    say(f"Report: {page}")
    return 0


def generate(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    this, settings = open_run(arguments, bindings)
    iteration = _next_iteration(this, arguments, finished="generation", settings=settings)
    if arguments.dry_run:
        return dry_run.show(this, settings, f"generate (iteration {iteration})")
    if arguments.completions and this.directory(iteration).generation.exists():
        raise UserError(
            f"{this.directory(iteration).samples}: iteration {iteration} has samples already, so"
            " --completions is refused; name another --iteration or --workdir"
        )
    this.open(settings, loads_policy=not (arguments.requests or arguments.completions))
    if arguments.requests:
        return _write_requests(this, settings, iteration, arguments.requests)
    em.generate_samples(
        run=this, settings=settings, iteration=iteration, completions=arguments.completions
    )
    counts = storage.read_json(this.directory(iteration).generation)
    say(
        f"{this.directory(iteration).samples}: {counts['samples']} samples,"
        f" {counts['correct']} correct"
    )
    return 0


def _write_requests(this: Run, settings: Settings, iteration: int, path: str) -> int:
    """Writes what another engine is to sample in the E-step of an iteration."""
    header = this.sampler_header(iteration - 1)
    asked = Rollout(header, this.card(iteration=iteration - 1), this.verifier(), key=0)
    count = distributed.run_on_primary(
        "requests",
        lambda: write_requests(
            epath.Path(path),
            rollout=asked,
            problems=em.asked_problems(this, settings, iteration),
            settings=settings.generate,
        ),
    )
    say(
        f"{path}: {count} requests for samples of {header.reference}; then run this command with"
        " --completions=FILE instead of --requests"
    )
    return 0


def verify(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Grades samples again, in place, and shows every kind of change; the primary host does it."""
    this, settings = open_run(arguments, bindings)
    distributed.run_on_primary("regrading", lambda: _regrade(this, settings, arguments))
    return 0


def _regrade(this: Run, settings: Settings, arguments: argparse.Namespace) -> None:
    sampled = [i for i in this.files.iterations() if this.directory(i).samples.exists()]
    iteration = arguments.iteration or max(sampled, default=1)
    if not sampled:
        samples = this.directory(iteration).samples
        raise UserError(f"{samples}: no samples to verify; run `restem generate` first")
    # Another run's settings are refused, because rewards would differ under them.
    if arguments.dry_run:
        this.look_into(settings)  # also while a job works in the folder
    else:
        this.open(settings)
    grading = settings.generate.grading or (lambda verifier: verifier)
    changes = regrade(
        this.directory(iteration),
        this.problems("train"),
        grading(this.verifier()),
        read_by=[
            this.directory(i)
            for i in this.files.iterations()
            if i and em.generated_at(i, settings) == iteration
        ],
        is_dry=arguments.dry_run,
    )
    for line in changes.lines[:SHOWN_CHANGES]:
        say(line)
    for change, count in sorted(changes.kinds.items()):
        say(f"{change}: {count} samples")
    if changes.any:
        where = "nothing was written (dry run)" if arguments.dry_run else "samples are rewritten"
        say(f"{where}; later steps of iteration {iteration} keep their old results")


def select(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    this, settings = open_run(arguments, bindings)
    iteration = _next_iteration(this, arguments, finished="selection", settings=settings)
    if arguments.dry_run:
        return dry_run.show(this, settings, f"select (iteration {iteration})")
    this.open(settings)
    em.select_examples(run=this, settings=settings, iteration=iteration)
    CONSOLE.print_json(data=storage.read_json(this.directory(iteration).selection))
    return 0


def improve(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    this, settings = open_run(arguments, bindings)
    iteration = _next_iteration(this, arguments, finished="improvement", settings=settings)
    if arguments.dry_run:
        return dry_run.show(this, settings, f"improve (iteration {iteration})")
    this.open(settings)
    em.improve_policy(run=this, settings=settings, iteration=iteration)
    result = storage.read_json(this.directory(iteration).improvement)
    reference = reader.policy_reference(this.files, iteration)
    say(f"validation reward {result['best_validation']}: {reference}")
    return 0


def evaluate(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    if arguments.policy:
        return _evaluate_reference(arguments, bindings)
    this, settings = open_run(arguments, bindings)
    iteration = arguments.iteration
    if iteration is None:
        iteration = max(reader.finished(this.files), default=0)
    if iteration:
        reader.policy_reference(this.files, iteration)  # that there is one
    if arguments.dry_run:
        return dry_run.show(this, settings, f"evaluate (iteration {iteration})")
    this.open(settings)
    em.evaluate_policy(run=this, settings=settings, iteration=iteration)
    _show(summary.table(summary.write(this.files)))
    return 0


def _evaluate_reference(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Evaluates a policy from outside the run, as iteration 0 of its own folder."""
    folder = layout.Workdir(arguments.workdir).evaluation_of(arguments.policy)
    tasks = {}
    if arguments.task:
        tasks = {"task": arguments.task[0], "evaluate_on": tuple(arguments.task[1:])}
    this, settings = open_run(
        arguments, bindings, workdir=str(folder), base=arguments.policy, evaluate_train=0, **tasks
    )
    if arguments.dry_run:
        return dry_run.show(this, settings)
    this.open_evaluation(settings)
    em.evaluate_policy(run=this, settings=settings, iteration=0)
    _show(summary.table(summary.write(this.files)))
    say(f"{this.directory(0).path / 'evals'}: files of {arguments.policy}")
    return 0


def _next_iteration(
    this: Run, arguments: argparse.Namespace, *, finished: str, settings: Settings
) -> int:
    """Returns the iteration of a single step: the flag's, or the first with the step to do.

    Raises:
      UserError: the flag asks for an E-step in an iteration that trains on earlier samples.
    """
    every = settings.loop.generate_every if finished == "generation" else 1
    i = arguments.iteration
    if i is None:
        i = 1
        while getattr(this.directory(i), finished).exists():
            i += every
    if (i - 1) % every:
        raise UserError(
            f"--iteration={i}: with em.generate_every = {every}, it trains on the samples of"
            f" iteration {em.generated_at(i, settings)}; there is nothing to generate"
        )
    return i


def _check_contamination(this: Run) -> None:
    """Writes, once, which test problems share text with training problems."""
    path = this.files.contamination
    if distributed.run_on_primary("is contamination checked", path.exists):
        return
    tests = {task: this.problems("test", task) for task in this.evaluations}
    found = contamination.of_tasks(this.problems("train"), tests)
    found["dropped"] = this.dropped

    def write() -> None:
        for task, report in found["tasks"].items():
            logging.info(
                "%s: %d of %d test problems share %d words in a row with a training problem",
                task, report["num_overlapping"], report["num_test"], report["n"],
            )  # fmt: skip
        storage.write_json(path, found)

    distributed.run_on_primary("overlap of problems", write)


def _show(table: Any) -> None:
    """Prints a table; without a terminal, cells are not wrapped."""
    CONSOLE.print(table, width=None if CONSOLE.is_terminal else 160, crop=False)


def score(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Scores files of outputs or a grading sheet, without loading a model or opening a run."""
    if arguments.grades:
        return _add_up_grades(arguments)
    output = arguments.output
    if output is None:
        output = str(layout.Workdir(arguments.workdir).evaluation_of(arguments.files[0]))
    parse_gin(arguments.gin_file, bindings)
    bindings_lib.check()
    ignored.check()
    reports = scoring.score(
        files=arguments.files, tasks=arguments.task, output=output, split=arguments.split,
        allow_weak_sandbox=arguments.allow_weak_sandbox,
    )  # fmt: skip
    _show(scoring.table(reports))
    say(f"{output}: a .json and a .parquet of each task")
    return 0


def _add_up_grades(arguments: argparse.Namespace) -> int:
    output = epath.Path(arguments.output) if arguments.output else None
    found = grading_sheet.add_up(epath.Path(arguments.grades), output)
    where = f"; written to {found['stored']}" if found["stored"] else ""
    say(
        f"{found['task']}: {found['points']:g} of {found['max_points']:g} points"
        f" ({100 * found['score']:.1f}%) for {found['graded']} problems{where}"
    )
    return 0


def compare(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    first, second = arguments.first, arguments.second
    tables = breakdown.lines(first, second, arguments.by)  # refuses a bad --by before it compares
    found = comparisons.compare_files(first, second)
    for line in [*comparisons.sentences(found, first, second), *tables]:
        say(line)
    return 0


def report(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    parse_gin(arguments.gin_file, bindings)
    bindings_lib.check()
    folders = [*arguments.workdirs, *([arguments.workdir] if arguments.workdir else [])]
    of_flags: dict[str, Any] = {}  # these override gin, so only those that are given
    if arguments.output is not None:
        of_flags["output"] = arguments.output
    if arguments.labels:
        of_flags["labels"] = arguments.labels.split(",")
    if arguments.no_texts:
        of_flags["texts"] = False
    page = pages.report(workdirs=folders, **of_flags)
    say(f"Report: {page}")
    return 0


def export(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    reference, card, note = arguments.policy, None, ""
    if reference is None:
        folder = layout.Workdir(arguments.workdir)
        iteration = arguments.iteration
        if iteration is None:
            iteration = max(reader.finished(folder), default=0)
        stored = reader.read_run(folder.path)
        reference, card = stored.policy_reference(iteration), model_card.card(stored, iteration)
        trained_in = model_card.trained_in(stored, iteration)
        if trained_in != iteration:
            source = f"iteration {trained_in}" if trained_in else "the base policy"
            note = f"; training never improved on it, so iteration {iteration} is {source}"
    checkpoints.load_header(reference)  # a policy that is not there leaves no folder behind
    check_target(arguments.output)
    with in_host_memory() as place:  # one device may be too small for float32
        policy = checkpoints.load(reference, shardings=place)
        write_policy(
            policy, arguments.output, dtype=arguments.dtype, adapter=arguments.adapter, card=card
        )
    say(f"{reference} written to {arguments.output}{note}")
    return 0


def plan(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    parse_gin(arguments.gin_file, bindings)
    settings, of_run = from_gin(PlanSettings), Settings.from_gin()
    if arguments.dry_run:
        for line in planner.outline(settings, of_run):
            say(line)
        return 0
    result = planner.plan(settings, of_run)
    print(result.to_json() if arguments.json else result.table())
    return 0


def config(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Prints settings, with the values that gin files and flags bind."""
    parse_gin(arguments.gin_file, bindings)
    if arguments.markdown:
        print(reference.markdown(), end="")
        return 0
    for line in reference.lines(arguments.name):
        print(line)
    return 0


def init(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Writes the files of a new task."""
    name = arguments.name
    for path in new_task.write(name):
        say(str(path))
    say(f"restem run --gin_file={name}/{name}.gin --workdir=runs/{name}")
    return 0


def doctor(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Prints devices, disks, active sandbox layers and versions, for inclusion in bug reports."""
    parse_gin(arguments.gin_file, bindings)
    settings = Settings.from_gin()
    for name, version in versions().items():
        say(f"{name:18} {version}")
    for device in jax.devices():
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        memory = f", {limit / 2**30:.1f} GiB" if limit else ""
        say(f"device             {device.device_kind} ({device.platform}){memory}")
    single, half = (product_rate(dtype) for dtype in ("float32", "bfloat16"))
    advice = '; Run.compute_dtype="bfloat16" may train faster' if half > 1.5 * single else ""
    say(f"products, GFLOP/s  {single / 1e9:,.0f} float32, {half / 1e9:,.0f} bfloat16{advice}")
    for line in _disks(layout.Workdir(arguments.workdir or "."), settings):
        say(line)
    say("sandbox for programs that models write:")
    for line in layers.describe():
        say(f"  {line}")
    return 0


def _disks(files: layout.Workdir, settings: Settings) -> Iterator[str]:
    """Yields the free space of the folders that a run writes to, and what its checkpoints need."""
    folders = {"workdir": files, "cache": layout.Workdir(cache_folder())}
    for name, folder in {**folders, "temporary files": layout.Workdir(gettempdir())}.items():
        there = space.free(folder)
        if there is not None:
            yield f"free disk space    {space.size(there)} for {name} ({folder.path.resolve()})"
    wanted, there = space.need(settings, files), space.free(files)
    if wanted is not None:
        need = f"{space.size(wanted.total)} for {wanted.iterations} iterations"
        verdict = "" if there is None or there >= wanted.total else "; this is more than is free"
        yield f"checkpoints        up to {need} of {settings.run.base}{verdict}"


VERBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    verb.__name__: verb
    for verb in (
        run, generate, verify, select, improve, evaluate, score, compare, report, plan, export,
        config, init, doctor,
    )
}  # fmt: skip


def dispatch(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Runs a verb and ends every process that it started; returns the exit code."""
    resumable = arguments.verb in ("run", "generate", "improve", "evaluate")
    try:
        with PREEMPTION if resumable else contextlib.nullcontext():
            return VERBS[arguments.verb](arguments, bindings)
    except PreemptedError:
        return EXIT_PREEMPTED
    except WorkersLostError as e:
        print(f"restem: {e}", file=sys.stderr)
        return e.exit_code
    except UserError:
        raise
    except Exception as e:
        fault = distributed.as_late_host(e) or machine_errors.explain(
            e, getattr(arguments, "workdir", None)
        )
        if fault is None:
            raise
        log_traceback(e)
        if isinstance(fault, (UserError, MachineError)):
            raise fault from e
        print(f"restem: {' '.join(str(fault).split())}", file=sys.stderr)
        return fault.exit_code
    finally:
        trackers.stop()
        lease.release_all()
        compilation.log_counts()
        close_shared()
