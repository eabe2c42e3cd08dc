"""A policy: a model with its parameters and its vocabulary."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from restem import models
from restem.models.config import ModelConfig
from restem.tokenizers.vocabularies import Vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """What samples and what is trained."""

    config: ModelConfig
    """The decoder."""
    params: models.Params
    """Its parameters: a nested dict of arrays, layers stacked."""
    vocabulary: Vocabulary
    """Text to token ids and back."""
    reference: str
    """Where it came from: "hf:...", "gguf:...", "pypi:...", "orbax:..."."""

    def logits(self, tokens) -> jax.Array:
        """Logits of the next token after each of `tokens`.

        Args:
          tokens: [batch, length] int32, each row from position 0; padding, if any, at its end.

        Returns:
          [batch, length, vocab] float32.
        """
        return _logits(self.params, self.config, jnp.asarray(tokens, jnp.int32))

    def replace(self, **changes) -> Policy:
        return dataclasses.replace(self, **changes)


@functools.partial(jax.jit, static_argnames="config")
def _logits(params, config, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.forward(params, config, tokens, positions).hidden
    return models.logits(params, config, hidden)
