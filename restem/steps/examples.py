"""Tokenisation of training pairs."""

from __future__ import annotations

from collections.abc import Sequence

from restem.records import Example, TaskCard
from restem.rollout import prompts
from restem.sampling.stopping import training_ids
from restem.training import TokenExample


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
