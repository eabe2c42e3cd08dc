"""The weights of targets in the loss, and every target counted once whatever the chunks."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import models
from restem.training import losses
from tests.helpers import compilation

CONFIG = models.ModelConfig(
    vocab_size=13, num_layers=1, embed_dim=8, num_heads=1, num_kv_heads=1, head_dim=8, mlp_dim=8,
    max_length=32,
)  # fmt: skip


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


class CoefficientsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("token", [0, 2 / 4, 0, 1 / 4, 1 / 4]),
        ("example", [0, 2 / 3, 0, 1 / 3, 1 / 3]),
        ("example_mean", [0, 2 / 3, 0, 0.5 / 3, 0.5 / 3]),
        ("none", [0, 2 / 2, 0, 1 / 2, 1 / 2]),
    )
    def test_table_of_the_docstring(self, normalisation, expected):
        lengths = jnp.asarray([0, 1, 0, 2, 2], jnp.int32)
        # What is no target counts nothing, whatever its weight.
        for question in (0.0, 9.0):
            weights = jnp.asarray([question, 2, question, 1, 1], jnp.float32)
            found = losses.coefficients(weights, lengths, jnp.int32(2), normalisation)
            np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_negative_weights_do_not_cancel_in_the_norm(self):
        lengths = jnp.ones(2, jnp.int32)
        weights = jnp.asarray([1.0, -1.0], jnp.float32)
        for normalisation in ("token", "example", "example_mean"):
            found = losses.coefficients(weights, lengths, jnp.int32(2), normalisation)
            np.testing.assert_allclose(found, [0.5, -0.5])

    def test_no_weight_is_no_loss(self):
        zeros = jnp.zeros(3, jnp.float32)
        found = losses.coefficients(zeros, jnp.ones(3, jnp.int32), jnp.int32(3), "token")
        np.testing.assert_array_equal(found, zeros)


class WeightedNllTest(parameterized.TestCase):
    @parameterized.parameters(
        (1.0, 4, (1, 1)),
        (1.0, 10, (1, 1)),
        (1.0, 3, (2, 1)),
        (0.5, 4, (1, 1)),
        (0.5, 3, (2, 1)),
        (0.5, 1, (1, 5)),
        (0.0, 4, (1, 1)),
    )
    def test_equals_the_sum_over_targets(self, share, chunk, parts):
        """A share of 1 leaves no position to fill the last chunk with."""
        rng = np.random.default_rng(0)
        params = models.init_params(CONFIG, jax.random.key(0))
        hidden = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
        targets = jnp.asarray(rng.integers(0, 13, (2, 5)), jnp.int32)
        is_target = jnp.asarray(rng.random((2, 5)) < share)
        weights = jnp.where(is_target, jnp.asarray(rng.normal(size=(2, 5)), jnp.float32), 0.0)

        def chunked(head, hidden):
            sums = losses.weighted_nll(
                {**params, "head": head}, CONFIG, hidden, targets, weights, is_target,
                chunk=chunk, parts=parts,
            )  # fmt: skip
            return 3 * sums.loss, sums

        def nll(head, hidden):
            logits = models.logits({**params, "head": head}, CONFIG, hidden)
            log_p = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]

        def whole(head, hidden):
            return 3 * (weights * nll(head, hidden)).sum()

        at = (params["head"], hidden)
        (loss, sums), gradients = jax.value_and_grad(chunked, (0, 1), has_aux=True)(*at)
        expected, expected_gradients = jax.value_and_grad(whole, (0, 1))(*at)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sums.nll, (nll(*at) * is_target).sum(), rtol=1e-5)
        self.assertEqual(sums.tokens, is_target.sum())
        for found, wanted in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    absltest.main()
