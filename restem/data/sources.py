"""Materialising a task: SeqIO is asked once, and its features become problems.

This is the only place where a run touches SeqIO. Everything after it reads `problems/*.parquet`.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin

from restem.data import folder, registry, splits
from restem.data.registry import TaskSpec
from restem.errors import UserError
from restem.records import Problem, TaskCard

if TYPE_CHECKING:
    import seqio

# The text features of a materialised task. `has_answer` is "" where a problem has none, since an
# answer may itself be empty.
_FEATURES = (
    "problem_id", "inputs", "targets", "answer", "has_answer", "tests", "solutions", "metadata",
)  # fmt: skip


@gin.configurable
def materialize(
    task: str,
    *,
    splits: Sequence[str] = registry.SPLITS,
    data_dir: str | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int = 0,
    cache_dir: str | None = None,
) -> tuple[TaskCard, list[Problem]]:
    """The problems of a task, and its card.

    Args:
      task: registered name, or the scope of a `jsonl_task` that gin binds.
      splits: those wanted; the ones that the task lacks are left out.
      data_dir: data folder; None asks gin's macro DATA_DIR, then $RESTEM_DATA_DIR.
      limits: split to the most problems to take of it, a random subset by `seed`; a smaller limit
        gives a subset of a larger one.
      seed: of that choice.
      cache_dir: where prepared data sets are kept; None is the user's cache folder.

    Returns:
      The card, and the problems in the order of `splits`.

    Raises:
      UserError: no such task or split, absent data, or a bad record.
    """
    spec = registry.get(task)
    limits = dict(limits or {})
    unknown = sorted((set(splits) | set(limits)) - set(registry.SPLITS))
    if unknown:
        raise UserError(f"task {task}: no split {unknown[0]!r}; use {', '.join(registry.SPLITS)}")
    prompt = spec.read_prompt(data_dir)
    notes: dict[str, Any] = {}
    provider = seqio_task(spec, data_dir=data_dir, cache_dir=cache_dir, notes=notes)
    wanted = [split for split in splits if split in provider.splits]
    if not wanted:
        raise UserError(
            f"task {task} has no split {' or '.join(splits)}; it has {', '.join(provider.splits)}"
        )
    problems: list[Problem] = []
    for split in wanted:
        found = _ask(provider, split)
        if split in limits:
            found = _subset(found, limits[split], seed=seed)
        logging.info("task %s: %d %s problems", task, len(found), split)
        problems += found
    _check_unique(problems, task=task)
    if notes:
        logging.info("task %s: %s", task, json.dumps(notes, sort_keys=True))
    card = TaskCard(
        task=spec.name,
        prefix=prompt.prefix,
        stop=spec.stop,
        stop_after=spec.stop_after,
        grader=dict(spec.grader),
        prompt_source=prompt.source,
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        notes=notes,
    )
    return card, problems


def seqio_task(
    task: str | TaskSpec,
    *,
    vocabulary: seqio.Vocabulary | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    notes: dict[str, Any] | None = None,
) -> seqio.Task:
    """Registers a task with SeqIO and gives it, replacing an earlier one of the same name.

    Args:
      task: its name or spec.
      vocabulary: None gives `inputs` and `targets` as text. With one (see
        `restem.data.seqio_vocabulary`) they are token ids, as a SeqIO or T5X trainer or evaluator
        wants: the few-shot prefix and the query, each tokenised by itself; the first solution (the
        answer where there is none) and an end-of-sequence id.
      data_dir: as in `materialize`.
      cache_dir: as in `materialize`.
      notes: filled, when the data set is read, with what the source says about it.

    Returns:
      A `seqio.Task` whose metric is the accuracy by the task's own grader.
    """
    seqio, tf = _import_seqio()
    from restem.data import metrics

    spec = registry.get(task) if isinstance(task, str) else task
    source = spec.source
    if not hasattr(source, "get_dataset"):
        source = _function_source(spec, data_dir, cache_dir, {} if notes is None else notes)
    preprocessors = list(spec.preprocessors)
    if vocabulary is None:
        feature = seqio.Feature(
            seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.string, rank=0
        )
    else:
        feature = seqio.Feature(vocabulary, add_eos=True)
        prefix = spec.read_prompt(data_dir).prefix
        preprocessors += [_tokenizer(vocabulary, prefix)]
    if spec.name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(spec.name)
    metric_fns = spec.metric_fns
    if metric_fns is None:
        metric_fns = (metrics.accuracy(spec.grader),)
    return seqio.TaskRegistry.add(
        spec.name,
        source=source,
        preprocessors=preprocessors,
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=metrics.postprocess,
        metric_fns=list(metric_fns),
    )


def seqio_mixture(group: str, **options: Any) -> seqio.Mixture:
    """Registers a group of tasks (see `registry.group`) with SeqIO as a mixture at equal rates.

    `options` are those of `seqio_task`.
    """
    seqio, _ = _import_seqio()
    members = registry.group(group)
    for name in members:
        seqio_task(name, **options)
    if group in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(group)
    return seqio.MixtureRegistry.add(group, members, default_rate=1.0)


def _import_seqio() -> tuple[Any, Any]:
    # TensorFlow only reads data here. It must not reserve the accelerator that JAX computes on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import seqio
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"materialising a task needs SeqIO and TensorFlow ({error}); pip install seqio "
            "tensorflow-datasets, or copy problems/*.parquet from a host that has them"
        ) from error
    for kind in ("GPU", "TPU"):
        try:
            tf.config.set_visible_devices([], kind)
        except (RuntimeError, ValueError):
            logging.warning("TensorFlow was in use before restem could hide the %ss from it", kind)
    return seqio, tf


def _function_source(
    spec: TaskSpec, data_dir: str | None, cache_dir: str | None, notes: dict[str, Any]
) -> seqio.DataSource:
    """A function of a split as a SeqIO source of text features."""
    seqio, tf = _import_seqio()
    given = {"data_dir": folder.data_dir(data_dir), "cache_dir": cache_dir}
    accepts = inspect.signature(spec.source).parameters
    options = {name: value for name, value in given.items() if name in accepts}

    def dataset_fn(split: str, shuffle_files: bool = False, seed: int | None = None) -> Any:
        del shuffle_files, seed  # Order is fixed; Task.get_dataset shuffles where asked.
        records = spec.source(split, **options)
        if isinstance(records, registry.Records):
            notes.update(records.notes)
            records = records.rows
        rows = [
            _row(record, task=spec.name, split=split, index=index)
            for index, record in enumerate(records)
        ]
        columns = {name: tf.constant([r[name] for r in rows], tf.string) for name in _FEATURES}
        return tf.data.Dataset.from_tensor_slices(columns)

    return seqio.FunctionDataSource(dataset_fn, splits=spec.splits)


def _row(record: Mapping[str, Any], *, task: str, split: str, index: int) -> dict[str, bytes]:
    """One record of a function source as the text features of `_FEATURES`."""
    where = f"task {task}, {split} record {index + 1}"
    folder.require(record, ("inputs",), where=where)
    tests = record.get("tests")
    solutions = record.get("solutions") or ()
    if isinstance(solutions, str):
        raise UserError(f"{where}: 'solutions' must be a sequence of strings, not a string")
    answer = record.get("answer")
    answer = "" if answer is None else str(answer)
    row = {
        "problem_id": str(record.get("problem_id", f"{split}-{index:05d}")),
        "inputs": record["inputs"],
        "targets": record.get("targets") or (solutions[0] if solutions else answer),
        "answer": answer,
        "has_answer": "" if record.get("answer") is None else "yes",
        "tests": tests if isinstance(tests, str) else json.dumps(tests) if tests else "",
        "solutions": json.dumps(list(solutions)),
    }
    try:
        row["metadata"] = json.dumps(dict(record.get("metadata") or {}), sort_keys=True)
        return {name: text.encode("utf-8") for name, text in row.items()}
    except (TypeError, AttributeError, UnicodeEncodeError) as error:
        raise UserError(f"{where}: a field is not text that UTF-8 can hold ({error})") from error


def _ask(provider: seqio.Task, split: str) -> list[Problem]:
    """The problems of one split, as SeqIO gives them."""
    dataset = provider.get_dataset(
        sequence_length=None, split=split, shuffle=False, num_epochs=1, try_in_mem_cache=False
    )
    problems = []
    for index, row in enumerate(_text_rows(dataset)):
        answer = row.get("answer", row["targets"])
        absent = not row.get("has_answer", answer)
        solutions = json.loads(row["solutions"]) if row.get("solutions") else []
        if "solutions" not in row and row["targets"] != answer:
            solutions = [row["targets"]]
        problems.append(
            Problem(
                problem_id=row.get("problem_id") or f"{split}-{index:05d}",
                split=split,
                inputs=row["inputs"],
                answer=None if absent else answer,
                tests=row.get("tests") or None,
                solutions=tuple(solutions),
                metadata=json.loads(row.get("metadata") or "{}"),
            )
        )
    return problems


def _text_rows(dataset: Any) -> Iterator[dict[str, str]]:
    """The scalar features of a tf.data.Dataset as text, an example at a time."""
    names = [name for name, spec in dataset.element_spec.items() if spec.shape.rank == 0]
    # In batches: to iterate example by example costs ten times as much.
    scalars = dataset.map(lambda features: {name: features[name] for name in names})
    for batch in scalars.batch(512).as_numpy_iterator():
        columns = [batch[name].tolist() for name in names]
        for values in zip(*columns, strict=True):
            yield {
                name: value.decode("utf-8") if isinstance(value, bytes) else str(value)
                for name, value in zip(names, values, strict=True)
            }


def _subset(problems: list[Problem], limit: int, *, seed: int) -> list[Problem]:
    return splits.subset(problems, limit, key=lambda p: p.problem_id, seed=seed)


def _check_unique(problems: Iterable[Problem], *, task: str) -> None:
    seen: dict[str, str] = {}
    for problem in problems:
        if problem.problem_id in seen:
            raise UserError(
                f"task {task}: problem_id {problem.problem_id!r} occurs twice "
                f"({seen[problem.problem_id]} and {problem.split}); ids must be unique in a task"
            )
        seen[problem.problem_id] = problem.split


def _tokenizer(vocabulary: seqio.Vocabulary, prefix: str) -> Any:
    """A preprocessor from text to ids; prefix and query are tokenised apart, as the engine does."""
    _, tf = _import_seqio()
    feature_names = ("inputs", "targets")
    prefix_ids = tf.constant(vocabulary.encode(prefix) if prefix else [], tf.int32)

    def tokenize(features: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **{f"{name}_pretokenized": features[name] for name in feature_names},
            **{
                name: value for name, value in features.items() if name not in ("inputs", "targets")
            },
            "inputs": tf.concat([prefix_ids, vocabulary.encode_tf(features["inputs"])], axis=0),
            "targets": tf.concat(
                [vocabulary.encode_tf(features["targets"]), [vocabulary.eos_id]], axis=0
            ),
        }

    return lambda dataset: dataset.map(tokenize, num_parallel_calls=tf.data.AUTOTUNE)
