"""A policy: a model with its parameters and its vocabulary."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from restem import models
from restem.errors import UserError
from restem.models.config import ModelConfig
from restem.models.lora import Lora
from restem.records import stable_key
from restem.runtime import checks
from restem.sampling import Engine, Request, Sampling
from restem.tokenizers.hub_config import HubConfig
from restem.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class AdapterOrigin:
    """Form and base of the adapters that a policy's parameters carry."""

    form: Lora
    """Rank, targets and scale."""
    base: str
    """Reference of the policy whose weights are frozen."""
    base_dtype: str
    """Dtype of these weights as loaded, before they were rounded."""
    base_sha256: str | None
    """`orbax.fingerprint` of these weights; None where the base carries adapters itself, since
    merging rounds differently on other machines."""


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A language model: sampled from in the E-step, trained in the M-step."""

    config: ModelConfig
    """The decoder."""
    params: models.Params
    """Its parameters: a nested dict of arrays, layers stacked; matrices may carry adapters."""
    vocabulary: Vocabulary
    """Text to token ids and back."""
    reference: str
    """Where it was loaded from: "hf:...", "gguf:...", "pypi:...", "orbax:..."."""
    adapter: AdapterOrigin | None = None
    """What the adapters are to; None without any."""
    hub: HubConfig = HubConfig()
    """Chat template, special tokens and defaults of generation of the original."""

    def logits(self, tokens) -> jax.Array:
        """Returns logits of the next token after each of `tokens`.

        Args:
          tokens: [batch, length] int32, each row from position 0; padding, if any, at its end.

        Returns:
          [batch, length, vocab] float32.

        Raises:
          UserError: the rows are so long that the model's rotary frequencies would be others.
        """
        tokens = jnp.asarray(tokens, jnp.int32)
        length, scaling = tokens.shape[1], self.config.rope_scaling
        if scaling is not None and scaling.kind == "longrope" and length > self.config.max_length:
            raise UserError(
                f"{self.reference}: {length} tokens exceed the {self.config.max_length} up to which"
                " restem supports LongRoPE; shorten the rows"
            )
        return _logits(self.params, self.config, tokens)

    def sample(
        self,
        texts: Sequence[str],
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[list[str]]:
        """Returns `n` continuations of each text.

        For many problems behind one few-shot prompt use `restem.rollout` or `sampling.Engine`,
        which compute the prompt once.

        Args:
          texts: prompts, as the model reads them (no chat template is applied).
          n: continuations per text.
          temperature: divides the logits; 0 takes the most likely token.
          top_k: most likely tokens to draw among; 0 is off.
          top_p: probability mass to draw among; 1 is off.
          max_new_tokens: longest continuation in tokens.
          stop: strings that end a continuation and are not part of it.
          seed: equal seeds give equal continuations, whatever the other texts are.

        Returns:
          A list per text of its `n` continuations.

        Raises:
          UserError: `texts` or `stop` is itself a string, a stop string is empty, prompt and
            continuation exceed the model's length, or a prompt has no token.
        """
        if isinstance(texts, str):
            raise UserError(f"texts must be a list of strings, not a string: [{texts!r:.40}]")
        vocabulary = self.vocabulary
        engine = Engine(
            self.config,
            vocabulary,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
            max_new_tokens=max_new_tokens,
            stop=checks.strings(stop, "stop"),
        )
        requests = [
            Request(
                tokens=vocabulary.prompt_ids(text),
                num_samples=n,
                problem_key=zlib.crc32(text.encode()),
            )
            for text in texts
        ]
        found = [[""] * n for _ in texts]
        for completion in engine.sample(self.params, (), requests, key=stable_key(seed, "sample")):
            found[completion.request_index][completion.sample_index] = completion.text
        return found

    def replace(self, **changes) -> Policy:
        return dataclasses.replace(self, **changes)


@functools.partial(jax.jit, static_argnames="config")
def _logits(params, config, tokens):
    """params of `config`, tokens [batch, length] -> [batch, length, vocab] float32."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.forward(params, config, tokens, positions).hidden
    return models.logits(params, config, hidden)
