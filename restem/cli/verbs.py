"""What each verb of the command line does, once the flags are read."""

from __future__ import annotations

import argparse
import contextlib
import logging as python_logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import numpy as np
from absl import logging
from etils import epath

import restem.tasks  # noqa: F401  adds the built-in tasks, so that gin knows their options
from restem import checkpoints, em, partitioning, records
from restem.cli.main import parse_gin
from restem.errors import UserError
from restem.evaluation import contamination
from restem.run import layout, summary
from restem.run.run import Run, gin_bindings, versions
from restem.runtime import compilation, distributed, storage
from restem.runtime.preemption import EXIT_PREEMPTED, PREEMPTION, PreemptedError
from restem.runtime.profiles import PROFILE
from restem.runtime.progress import CONSOLE
from restem.verify import WorkersLostError, close_shared

gin.external_configurable(partitioning.make_mesh, module="restem")
gin.external_configurable(partitioning.local_mesh, module="restem")


def _open(arguments: argparse.Namespace, bindings: Sequence[str], **settings: Any) -> Run:
    """The run that the flags name, with the other hosts, logging and compilation cache set up.

    `settings` are fields of `Run` that flags decide over gin.
    """
    parse_gin(arguments.gin_file, bindings)
    if not arguments.dry_run:
        distributed.initialize()
    if arguments.workdir is None:
        raise UserError("--workdir=DIR is missing: the folder where the run's files go")
    settings = {"workdir": arguments.workdir, **settings}
    if arguments.allow_weak_sandbox:
        settings["allow_weak_sandbox"] = True
    try:
        run = Run(**settings)
    except RuntimeError as e:
        raise UserError(
            "no gin file names a base policy and a task (Run.base, Run.task); start from"
            " --gin_file=restem_demo.gin or --gin_file=restem_math.gin"
        ) from e
    if not arguments.dry_run:
        _start_logging(run)
        if getattr(arguments, "profile", False):
            PROFILE.folder = run.files.path / "profile"
        # Of the folder that was named, also where the files go to one inside it.
        compilation.use_cache(str(layout.Workdir(arguments.workdir).compilation_cache))
    return run


def _start_logging(run: Run) -> None:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_ours)
    if "://" in str(run.files.path):
        return  # nothing can be appended to a file in a bucket
    run.files.path.mkdir(parents=True, exist_ok=True)
    log = run.files.log
    if not distributed.is_first():
        log = log.with_suffix(f".{jax.process_index()}{log.suffix}")
    handler = python_logging.FileHandler(log)
    handler.setFormatter(logging.PythonFormatter())
    handler.addFilter(_is_ours)
    python_logging.getLogger().addHandler(handler)
    if CONSOLE.is_terminal:
        # On a terminal the bars say how far things are; the lines go to the file.
        logging.get_absl_handler().setLevel(python_logging.WARNING)


def _is_ours(record: python_logging.LogRecord) -> bool:
    """Keeps the lines of libraries, which are many, out of the log unless they warn."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return record.levelno >= python_logging.WARNING or record.pathname.startswith(ours)


def _save_operative_config(run: Run) -> None:
    """What gin really gave to everything that ran, to start another run from."""
    storage.write_bytes(run.files.operative_config, gin.operative_config_str().encode())


def _next_iteration(run: Run, arguments: argparse.Namespace, *, finished: str) -> int:
    """The iteration a single step works on: the flag's, or the first where the step is not done."""
    if arguments.iteration is not None:
        return arguments.iteration
    i = 1
    while getattr(run.directory(i), finished).exists():
        i += 1
    return i


def _of_the_loop(name: str, default: Any) -> Any:
    """A setting of the loop, for a step that runs by itself."""
    try:
        return gin.query_parameter(f"em.{name}")
    except ValueError:  # not bound
        return default


def run(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    from restem.report import report

    this = _open(arguments, bindings)
    if arguments.dry_run:
        return _dry_run(this)
    this.open()
    _check_contamination(this)
    em.em(run=this)
    result = summary.write(this)

    def write() -> str:
        _save_operative_config(this)
        return report.report(workdirs=[str(this.files.path)])

    page = distributed.on_first("report", write)
    _show(summary.table(result))
    CONSOLE.print(f"Report: {page}", soft_wrap=True)
    return 0


def _check_contamination(this: Run) -> None:
    """Writes, once, which test problems share words with training problems; one host does it."""
    if not distributed.is_first() or this.files.contamination.exists():
        return
    tests = {task: this.problems("test", task) for task in this.evaluations}
    found = contamination.of_tasks(this.problems("train"), tests)
    for task, report in found["tasks"].items():
        logging.info(
            "%s: %d of %d test problems share %d words in a row with a training problem",
            task, report["num_overlapping"], report["num_test"], report["n"],
        )  # fmt: skip
    storage.write_json(this.files.contamination, found)


def _show(table: Any) -> None:
    """Prints a table; in a log, which has no width, without folding its cells."""
    CONSOLE.print(table, width=None if CONSOLE.is_terminal else 160, crop=False)


def _dry_run(this: Run) -> int:
    """Says what a run would do, and what of it is done; loads no model and samples nothing."""
    CONSOLE.print(f"base policy   {this.base}")
    CONSOLE.print(f"task          {this.task}; evaluated on {', '.join(this.evaluations)}")
    CONSOLE.print(f"folder        {this.files.path}")
    CONSOLE.print(f"done          iterations {this.files.finished() or 'none'}")
    for name, value in sorted(gin_bindings().items()):
        CONSOLE.print(f"  {name} = {value}", soft_wrap=True, markup=False, highlight=False)
    CONSOLE.print("dry run: nothing was written")
    return 0


def generate(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    this = _open(arguments, bindings)
    iteration = _next_iteration(this, arguments, finished="generation")
    if arguments.dry_run:
        return _dry_run(this)
    this.open()
    size = _of_the_loop("problems_per_iteration", None)
    em.generate_samples(run=this, iteration=iteration, problems_per_iteration=size)
    samples = this.directory(iteration).read_samples()
    correct = sum(s.correct for s in samples)
    CONSOLE.print(f"{this.directory(iteration).samples}: {len(samples)} samples, {correct} correct")
    return 0


def verify(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Grades samples again, in place, and shows every kind of change; one host does it all."""
    this = _open(arguments, bindings)
    if not distributed.is_first():
        return 0
    sampled = [i for i in this.files.iterations() if this.directory(i).samples.exists()]
    iteration = arguments.iteration or max(sampled, default=1)
    directory = this.directory(iteration)
    shards = sorted(directory.samples.glob("*-of-*.parquet"))
    if not shards:
        raise UserError(f"{directory.samples}: no samples to verify; run `restem generate` first")
    this.open()  # refuses another run's settings, under which rewards would be others
    problems = {p.problem_id: p for p in this.problems("train")}
    verifier = this.verifier()
    grading = gin.get_bindings("generate").get("grading")
    if grading is not None:
        verifier = grading(verifier)
    changes: Counter[str] = Counter()
    rewards: list[float] = []
    shown = 0
    for path in shards:
        samples = records.samples_from_table(storage.read_table(path))
        futures = {
            index: verifier.submit(problems[sample.problem_id], sample.text)
            for index, sample in enumerate(samples)
            if sample.source not in records.UNVERIFIED_SOURCES
        }
        for index, future in futures.items():
            before, verdict = samples[index], future.result()
            samples[index] = records.regraded(before, verdict)
            if before.reward == np.float32(verdict.reward):  # as it is stored
                changes["same"] += 1
                continue
            changes[f"{before.reward:g} -> {verdict.reward:g}"] += 1
            if shown < 20:
                shown += 1
                CONSOLE.print(
                    f"{before.problem_id}/{before.sample_index}: {before.reward:g} -> "
                    f"{verdict.reward:g} ({verdict.method}; extracted {verdict.extracted!r}; gold "
                    f"{problems[before.problem_id].answer!r})",
                    markup=False, soft_wrap=True,
                )  # fmt: skip
        if len(futures) < len(samples):
            changes["not the verifier's"] += len(samples) - len(futures)
        rewards += [sample.reward for sample in samples]
        if not arguments.dry_run:
            storage.write_table(path, records.samples_to_table(samples))
    for change, count in sorted(changes.items()):
        CONSOLE.print(f"{change}: {count} samples")
    if changes.keys() - {"same", "not the verifier's"}:
        where = "nothing was written (dry run)" if arguments.dry_run else "samples are rewritten"
        CONSOLE.print(f"{where}; later steps of iteration {iteration} keep their old results")
    if directory.generation.exists() and not arguments.dry_run:
        report = storage.read_json(directory.generation)
        report["mean_reward"] = sum(rewards) / max(1, len(rewards))
        storage.write_json(directory.generation, report)
    return 0


def select(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    this = _open(arguments, bindings)
    iteration = _next_iteration(this, arguments, finished="selection")
    if arguments.dry_run:
        return _dry_run(this)
    this.open()
    every = _of_the_loop("generate_every", 1)
    generated_at = iteration - (iteration - 1) % every
    em.select_examples(run=this, iteration=iteration, generated_at=generated_at)
    CONSOLE.print_json(data=storage.read_json(this.directory(iteration).selection))
    return 0


def improve(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    this = _open(arguments, bindings)
    iteration = _next_iteration(this, arguments, finished="improvement")
    if arguments.dry_run:
        return _dry_run(this)
    this.open()
    start_from = _of_the_loop("start_from", "base")
    em.improve_policy(run=this, iteration=iteration, start_from=start_from)
    result = storage.read_json(this.directory(iteration).improvement)
    CONSOLE.print(
        f"validation reward {result['best_validation']}: {this.files.policy_reference(iteration)}"
    )
    return 0


def evaluate(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    if arguments.completions:
        return _score_completions(arguments, bindings)
    if arguments.compare:
        return _compare(arguments)
    if arguments.grades:
        return _add_up_grades(arguments)
    if arguments.policy:
        return _evaluate_reference(arguments, bindings)
    if arguments.task:
        raise UserError("--task says what to evaluate --policy=REFERENCE on; a run's own policies"
                        " are evaluated on Run.task and Run.evaluate_on")  # fmt: skip
    this = _open(arguments, bindings)
    if arguments.dry_run:
        return _dry_run(this)
    this.open()
    iteration = arguments.iteration
    if iteration is None:
        iteration = max(this.files.finished(), default=0)
    em.evaluate_policy(run=this, iteration=iteration)
    _show(summary.table(summary.write(this)))
    return 0


def _evaluate_reference(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Evaluates a policy that is not the run's: as iteration 0 of a folder of its own."""
    if arguments.iteration is not None:
        raise UserError("name either --policy=REFERENCE or --iteration=N of the run")
    if arguments.workdir is None:
        raise UserError("--workdir=DIR is missing: files go to DIR/evaluations")
    folder = layout.Workdir(arguments.workdir).evaluation_of(arguments.policy)
    tasks = {"task": arguments.task[0], "evaluate_on": arguments.task[1:]} if arguments.task else {}
    this = _open(
        arguments, bindings, workdir=str(folder), base=arguments.policy, evaluate_train=0, **tasks
    )
    if arguments.dry_run:
        return _dry_run(this)
    this.open_evaluation()
    em.evaluate_policy(run=this, iteration=0)
    _show(summary.table(summary.write(this)))
    CONSOLE.print(
        f"{this.directory(0).path / 'evals'}: files of {arguments.policy}", soft_wrap=True
    )
    return 0


def _score_completions(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Scores files of outputs; no model is loaded, and no run is opened."""
    from restem.evaluation import scoring

    if not arguments.task:
        raise UserError("--task=NAME is missing: the task (or group) that the outputs are of")
    output = arguments.output
    if output is None:
        if arguments.workdir is None:
            raise UserError("--output=FOLDER is missing: where the scores go")
        output = str(layout.Workdir(arguments.workdir).evaluation_of(arguments.completions[0]))
    parse_gin(arguments.gin_file, bindings)
    reports = scoring.score(
        files=arguments.completions, tasks=arguments.task, output=output, split=arguments.split,
        allow_weak_sandbox=arguments.allow_weak_sandbox,
    )  # fmt: skip
    _show(scoring.table(reports))
    CONSOLE.print(f"{output}: a .json and a .parquet of each task", soft_wrap=True)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from restem.evaluation import comparisons

    first, second = arguments.compare
    found = comparisons.compare_files(first, second)
    for line in comparisons.sentences(found, first, second):
        CONSOLE.print(line, soft_wrap=True, markup=False, highlight=False)
    return 0


def _add_up_grades(arguments: argparse.Namespace) -> int:
    from restem.evaluation import grading_sheet

    output = epath.Path(arguments.output) if arguments.output else None
    found = grading_sheet.add_up(epath.Path(arguments.grades), output)
    where = f"; written to {found['stored']}" if found["stored"] else ""
    CONSOLE.print(
        f"{found['task']}: {found['points']:g} of {found['max_points']:g} points"
        f" ({100 * found['score']:.1f}%) for {found['graded']} problems{where}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return 0


def report(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    from restem.report import report as pages

    folders = [*arguments.workdirs, *([arguments.workdir] if arguments.workdir else [])]
    if not folders:
        raise UserError("which run? restem report DIR [DIR ...]")
    labels = arguments.labels.split(",") if arguments.labels else None
    texts = not arguments.no_texts
    page = pages.report(workdirs=folders, output=arguments.output, labels=labels, texts=texts)
    CONSOLE.print(f"Report: {page}", soft_wrap=True)
    return 0


def export(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    from restem.checkpoints.export import export as write

    reference = arguments.policy
    if reference is None:
        if arguments.workdir is None:
            raise UserError("name a policy: --policy=REFERENCE, or --workdir=DIR --iteration=N")
        folder = layout.Workdir(arguments.workdir)
        iteration = arguments.iteration
        if iteration is None:
            iteration = max(folder.finished(), default=0)
        reference = folder.policy_reference(iteration)
    write(checkpoints.load(reference), arguments.output)
    CONSOLE.print(f"{reference} written to {arguments.output}", soft_wrap=True)
    return 0


def plan(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    from restem.plan import planner as planning

    parse_gin(arguments.gin_file, bindings)
    result = planning.plan()
    print(result.to_json() if arguments.json else result.table())
    return 0


def doctor(arguments: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Devices, sandbox layers in force, versions: the first thing to send with a question."""
    from restem.verify.sandbox import layers

    for name, version in versions().items():
        CONSOLE.print(f"{name:18} {version}", highlight=False)
    for device in jax.devices():
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        memory = f", {limit / 2**30:.1f} GiB" if limit else ""
        CONSOLE.print(f"device             {device.device_kind} ({device.platform}){memory}")
    CONSOLE.print("sandbox for programs that models write:")
    for line in layers.describe():
        CONSOLE.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    return 0


VERBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "run": run,
    "generate": generate,
    "verify": verify,
    "select": select,
    "improve": improve,
    "evaluate": evaluate,
    "report": report,
    "plan": plan,
    "export": export,
    "doctor": doctor,
}


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
    except Exception as e:
        late = distributed.as_late_host(e)
        if late is None:
            raise
        print(f"restem: {' '.join(str(late).split())}", file=sys.stderr)
        return late.exit_code
    finally:
        compilation.log_counts()
        close_shared()
