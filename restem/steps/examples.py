"""Tokenisation of training pairs, shard by shard."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from restem.records import Example, TaskCard
from restem.rollout import prompts
from restem.run.shards import StoredExamples
from restem.runtime import distributed
from restem.sampling.stopping import training_ids
from restem.training import TokenExample
from restem.training.corpus import WINDOW, InMemory, Measured, Sizes, measured, total_sizes


def corpus_of(
    card: TaskCard, examples: Sequence[Example] | StoredExamples, vocabulary
) -> tuple[tuple[int, ...], InMemory | TokenCorpus]:
    """Returns the shared prefix and the examples in tokens.

    Examples in files are tokenised when they are needed; all hosts call it.
    """
    if isinstance(examples, StoredExamples):
        corpus = TokenCorpus(card, examples, vocabulary)
        return corpus.prefix, corpus
    prefix, made = token_examples(card, examples, vocabulary)
    return prefix, InMemory(made)


class TokenCorpus:
    """The stored examples of an iteration in tokens, read and tokenised one shard at a time.

    A training set that fits in a window stays in memory.
    """

    def __init__(self, card: TaskCard, examples: StoredExamples, vocabulary):
        """Measures the examples; all hosts call it, and each measures a share of the shards.

        Raises:
          UserError: an example has no input or a weight that is not finite.
        """
        self._card, self._examples, self._vocabulary = card, examples, vocabulary
        self._made: dict[int, tuple[tuple[int, ...], list[TokenExample]]] | None = {}
        self.prefix = prompts.prefix_ids(card, prompts.of_task(card, vocabulary))
        """Tokens with which the prompts of all examples begin."""
        own: dict[int, Measured] = {}
        begins: dict[int, int] = {}
        for i in distributed.share(range(len(self))):
            prefix, made = self._tokens(i)
            if made:
                begins[i] = len(prefix)
            own[i] = measured(made, None)
            distributed.progressed()
        shortest = min(distributed.gather("prefix", min(begins.values(), default=len(self.prefix))))
        self.prefix = self.prefix[:shortest]
        # Questions of a shard with a longer prefix get what the prefix of all lacks.
        for i, begin in begins.items():
            lengths, too_long, empty = own[i]
            longer = {length + begin - shortest: count for length, count in lengths.items()}
            own[i] = collections.Counter(longer), too_long, empty
        self._sizes: dict[int | None, Sizes] = {None: _of_hosts(own, len(self))}

    def __len__(self) -> int:
        return len(self._examples.paths)

    def shard(self, index: int) -> list[TokenExample]:
        """Returns the examples of a shard."""
        prefix, made = self._tokens(index)
        more = prefix[len(self.prefix) :]
        if not more:
            return made
        return [TokenExample((*more, *e.input_ids), e.target_ids, e.weight) for e in made]

    def sizes(self, row_length: int | None) -> Sizes:
        """Returns the sizes for a row length; all hosts call it."""
        if row_length is not None and row_length >= max(self._sizes[None].lengths, default=0):
            row_length = None
        if row_length not in self._sizes:
            own = {}
            for i in distributed.share(range(len(self))):
                own[i] = measured(self.shard(i), row_length)
                distributed.progressed()
            self._sizes[row_length] = _of_hosts(own, len(self))
        return self._sizes[row_length]

    def _tokens(self, index: int) -> tuple[tuple[int, ...], list[TokenExample]]:
        """Returns the prefix that a shard's examples share, and the examples."""
        if self._made is not None and index in self._made:
            return self._made[index]
        examples = self._examples.shard(index)
        prefix, made = token_examples(self._card, examples, self._vocabulary)
        # Arrays of ids take a tenth of the memory of tuples.
        made = [
            TokenExample(
                np.array(e.input_ids, np.int32), np.array(e.target_ids, np.int32), e.weight
            )
            for e in made
        ]
        if self._made is not None:
            self._made[index] = prefix, made
            if sum(len(of_shard) for _, of_shard in self._made.values()) > WINDOW:
                self._made = None
        return prefix, made


def _of_hosts(own: dict[int, Measured], shards: int) -> Sizes:
    """Returns the sizes of a corpus of which each host has measured some shards."""
    sizes = total_sizes(list(own.values()))
    told: dict[str, Any] = {
        "shards": list(own),
        "counts": sizes.counts,
        "lengths": sorted(sizes.lengths.items()),
        "left_out": (sizes.too_long, sizes.empty),
    }
    counts = [0] * shards
    lengths: collections.Counter[int] = collections.Counter()
    left_out = [0, 0]
    for part in distributed.gather("sizes of the examples", told):
        for shard, count in zip(part["shards"], part["counts"], strict=True):
            counts[shard] = count
        lengths.update(dict(part["lengths"]))
        left_out = [a + b for a, b in zip(left_out, part["left_out"], strict=True)]
    return Sizes(tuple(counts), lengths, *left_out)


def token_examples(
    card: TaskCard, examples: Sequence[Example], vocabulary
) -> tuple[tuple[int, ...], list[TokenExample]]:
    """Returns the shared prefix and the examples in tokens.

    The inputs are those of sampling (`prompts.encode`). The targets are the sampled ids, cut to the
    text, and the end-of-sequence id. Selection keeps finished samples only, so every target ends
    with EOS: the model learns to stop where a stop string ended its sample.
    """
    vocabulary = prompts.of_task(card, vocabulary)
    eos_id = prompts.closing_id(card, vocabulary)
    encoded = prompts.encode(card, [e.inputs for e in examples], vocabulary)
    made = []
    for example, question in zip(examples, encoded.questions, strict=True):
        if example.target_ids:
            ids = training_ids(example.target_ids, example.targets, vocabulary).ids
        else:
            ids = prompts.target_ids(card, example.inputs, example.targets, vocabulary)
        made.append(TokenExample(question, (*ids, eos_id), example.weight))
    return encoded.prefix, made
