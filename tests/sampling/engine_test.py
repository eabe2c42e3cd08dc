"""The engine gives what plain decoding gives, whatever shares its batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models
from restem.sampling import Engine, Request, Sampling

CONFIG = models.ModelConfig(
    vocab_size=61, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48,
    tied_head=True,
)  # fmt: skip
LOCAL = CONFIG.replace(
    num_kv_heads=1, window=7, local_layers=(True, False), attention_softcap=5.0, qk_norm=True
)


class Letters:
    """Ids 0..60; 0 ends a text, id i says one letter, some say two or none."""

    eos_ids = frozenset({0})
    size = 61

    def token_bytes(self, token_id):
        if token_id == 0:
            return b""
        if token_id >= 55:
            return b"%c%c" % (65 + token_id - 55, 66 + token_id - 55)
        return b"%c" % (64 + token_id)


def params_of(config, seed=0):
    params = models.init_params(config, jax.random.key(seed))
    # Sharper logits than random weights give, so that greedy decoding has no near ties.
    return {**params, "embedding": params["embedding"] * 3}


def requests_of(seed, number, samples, longest=9, **kwargs):
    rng = np.random.default_rng(seed)
    return [
        Request(
            tokens=tuple(int(t) for t in rng.integers(1, 61, rng.integers(1, longest))),
            num_samples=samples,
            problem_key=1000 + i,
            **kwargs,
        )
        for i in range(number)
    ]


def prefix_of(length):
    return [int(t) for t in np.random.default_rng(7).integers(1, 61, length)]


def sample(config, params, prefix, requests, *, key=0, **kwargs):
    options = {"sampling": Sampling(temperature=0.0), "max_new_tokens": 12} | kwargs
    engine = Engine(config, Letters(), **options)
    found = list(engine.sample(params, prefix, requests, key=key))
    return {(c.request_index, c.sample_index): c for c in found}


@functools.partial(jax.jit, static_argnums=0)
def _full_logits(config, params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.forward(params, config, tokens, positions).hidden
    return models.logits(params, config, hidden)


def full_logits(config, params, tokens, length=64):
    """Logits [tokens, vocab] by one pass without a cache; padding goes to the end."""
    padded = np.zeros((1, length), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(_full_logits(config, params, padded))[0, : len(tokens)]


class EngineTest(parameterized.TestCase):
    @parameterized.product(config=[CONFIG, LOCAL], unstacked=[True, False])
    def test_greedy_equals_decoding_without_a_cache(self, config, unstacked):
        params = params_of(config)
        prefix, requests = prefix_of(21), requests_of(1, 3, 1)
        found = sample(config, params, prefix, requests, unstacked=unstacked, slots=2)
        for i, request in enumerate(requests):
            got = found[i, 0]
            tokens = [*prefix, *request.tokens]
            expected = []
            while len(expected) < 12 and 0 not in expected:
                expected.append(int(full_logits(config, params, tokens + expected)[-1].argmax()))
            self.assertEqual(list(got.token_ids), expected)


if __name__ == "__main__":
    absltest.main()
