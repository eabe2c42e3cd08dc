"""Tasks as SeqIO tasks, which a run reads once, for T5X and SeqIO trainers and evaluators too."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from restem.data import metrics, registry, rows
from restem.data.task_spec import TaskSpec
from restem.errors import UserError
from restem.records import Problem

if TYPE_CHECKING:
    import seqio


def seqio_task(
    task: str | TaskSpec,
    *,
    vocabulary: seqio.Vocabulary | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    notes: dict[str, Any] | None = None,
) -> seqio.Task:
    """Registers a task with SeqIO, replacing an earlier one of the same name, and returns it.

    Args:
      task: name or spec of the task.
      vocabulary: None keeps `inputs` and `targets` as text. With a vocabulary (see
        `restem.data.seqio_vocabulary`) they are token ids, as a SeqIO or T5X trainer or evaluator
        expects: the few-shot prefix and the query, tokenised as one text; the first solution (the
        answer if there is none) and an end-of-sequence id.
      data_dir: as in `sources.materialize`.
      cache_dir: as in `sources.materialize`.
      notes: receives the notes of the source when the data set is read.

    Returns:
      A `seqio.Task` whose metric is the accuracy under the task's own grader.
    """
    seqio, tf = _import_seqio()
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


def read(provider: seqio.Task, split: str) -> list[Problem]:
    """Returns the problems of one split of a SeqIO task whose features are text."""
    dataset = provider.get_dataset(
        sequence_length=None, split=split, shuffle=False, num_epochs=1, try_in_mem_cache=False
    )
    return [
        rows.to_problem(row, split=split, index=index)
        for index, row in enumerate(_text_rows(dataset))
    ]


def _import_seqio() -> tuple[Any, Any]:
    # TensorFlow only reads data here. It must not reserve the accelerator that JAX uses.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import seqio
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"this task is read through SeqIO, which is not installed here ({error}); "
            "pip install 'restem[seqio]', or copy problems/*.parquet from a host that has it"
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
    """Returns a SeqIO source of text features that calls the function of `spec`."""
    seqio, tf = _import_seqio()

    def dataset_fn(split: str, shuffle_files: bool = False, seed: int | None = None) -> Any:
        del shuffle_files, seed  # The order is fixed; Task.get_dataset shuffles on request.
        found = rows.of_function(spec, split, data_dir=data_dir, cache_dir=cache_dir, notes=notes)
        columns = {name: tf.constant([r[name] for r in found], tf.string) for name in rows.FIELDS}
        return tf.data.Dataset.from_tensor_slices(columns)

    return seqio.FunctionDataSource(dataset_fn, splits=spec.splits)


def _text_rows(dataset: Any) -> Iterator[dict[str, str]]:
    """Yields the scalar features of a tf.data.Dataset as text, one example at a time."""
    names = [name for name, spec in dataset.element_spec.items() if spec.shape.rank == 0]
    # In batches: iterating example by example costs ten times as much.
    scalars = dataset.map(lambda features: {name: features[name] for name in names})
    for batch in scalars.batch(512).as_numpy_iterator():
        columns = [batch[name].tolist() for name in names]
        for values in zip(*columns, strict=True):
            yield {
                name: value.decode("utf-8") if isinstance(value, bytes) else str(value)
                for name, value in zip(names, values, strict=True)
            }


def _tokenizer(vocabulary: seqio.Vocabulary, prefix: str) -> Any:
    """Returns a preprocessor from text to ids; prefix and query are tokenised as one text, as they
    are in sampling."""
    _, tf = _import_seqio()
    feature_names = ("inputs", "targets")

    def tokenize(features: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **{f"{name}_pretokenized": features[name] for name in feature_names},
            **{
                name: value for name, value in features.items() if name not in ("inputs", "targets")
            },
            "inputs": vocabulary.encode_tf(tf.strings.join([prefix, features["inputs"]])),
            "targets": tf.concat(
                [vocabulary.encode_tf(features["targets"]), [vocabulary.eos_id]], axis=0
            ),
        }

    return lambda dataset: dataset.map(tokenize, num_parallel_calls=tf.data.AUTOTUNE)
