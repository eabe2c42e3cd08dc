"""A restem vocabulary as a `seqio.Vocabulary`, for SeqIO features and T5X models."""

from __future__ import annotations

from collections.abc import Sequence

import seqio
import tensorflow as tf

from restem.tokenizers.vocabulary import Vocabulary


class SeqioVocabulary(seqio.Vocabulary):
    """Wraps a restem `Vocabulary`; ids are those of the model, none shifted or added.

    SeqIO always pads with 0, whatever the vocabulary's `pad_id`, and decodes up to the first
    `eos_id`. If a model has several end-of-text ids, `eos_id` is the smallest by default.
    """

    def __init__(self, vocabulary: Vocabulary, *, eos_id: int | None = None):
        super().__init__(extra_ids=0)
        if eos_id is not None and eos_id not in vocabulary.eos_ids:
            raise ValueError(f"eos_id {eos_id} is not one of {sorted(vocabulary.eos_ids)}")
        self._vocabulary = vocabulary
        self._eos_id = min(vocabulary.eos_ids) if eos_id is None else eos_id

    @property
    def bos_id(self) -> int | None:
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int:
        return self._eos_id

    @property
    def pad_id(self) -> int:
        return self._vocabulary.pad_id

    @property
    def unk_id(self) -> int | None:
        # None: every text can be encoded, and an id past the vocabulary must raise an error.
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self._vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self._vocabulary.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._vocabulary.decode([int(i) for i in ids])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        """Returns the ids [length], int32, of a scalar string."""

        def encode(text: tf.Tensor) -> tf.Tensor:
            return tf.constant(self._encode(text.numpy().decode("utf-8")), tf.int32)

        ids = tf.py_function(encode, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the strings [...] of ids [..., length]."""

        def decode(values: tf.Tensor) -> tf.Tensor:
            rows = values.numpy().reshape(-1, values.shape[-1])
            texts = [self._decode(row) for row in rows]
            return tf.reshape(tf.constant(texts, tf.string), values.shape[:-1])

        texts = tf.py_function(decode, [ids], tf.string)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SeqioVocabulary)
            and self._eos_id == other._eos_id
            and self._vocabulary.fingerprint == other._vocabulary.fingerprint
        )

    def __hash__(self) -> int:
        return hash((self._vocabulary.fingerprint, self._eos_id))
