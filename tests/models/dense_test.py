"""Products that are made for a CPU equal einsums, with their gradients."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem.models import sharding
from restem.models.dense import product_by_head, product_in_float32


def scores_and_means(queries, keys, values):
    """[.., rows, d], [.., d, s] and [.., s, d] -> means of values, by the scores themselves."""
    scores = product_by_head(queries, keys).astype(queries.dtype)
    return (product_by_head(scores, values) ** 2).sum()


class ProductByHeadTest(parameterized.TestCase):
    @parameterized.product(shared=(False, True), dtype=("float32", "bfloat16"), keys=(5, 40))
    def test_gradients_on_a_cpu_are_those_of_einsums(self, shared, dtype, keys):
        """With more keys than dimensions, and with fewer."""
        rng = np.random.default_rng(0)
        draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
        batch = (2,) if shared else (3, 2)  # key heads, and rows of the batch before them
        rows = (3, 4, 6) if shared else (4, 6)
        inputs = draw(*batch, *rows, 8), draw(*batch, 8, keys), draw(*batch, keys, 8)
        found = jax.grad(scores_and_means, (0, 1, 2))(*inputs)
        with mock.patch.object(sharding, "on_one_cpu", return_value=False):
            expected = jax.grad(scores_and_means, (0, 1, 2))(*inputs)
        for of_input, wanted in zip(found, expected, strict=True):
            self.assertEqual(of_input.dtype, jnp.dtype(dtype))
            scale = float(jnp.abs(wanted).max())
            np.testing.assert_allclose(
                np.asarray(of_input, np.float32), np.asarray(wanted, np.float32),
                atol=scale * (1e-6 if dtype == "float32" else 2e-2),
            )  # fmt: skip

    @parameterized.parameters(False, True)
    def test_keys_in_the_order_of_values(self, shared):
        rng = np.random.default_rng(0)
        batch = (2,) if shared else (3, 2)
        queries, keys = rng.normal(size=(*batch, 4, 6, 8)), rng.normal(size=(*batch, 8, 5))
        queries, keys = jnp.asarray(queries, jnp.float32), jnp.asarray(keys, jnp.float32)
        expected = np.einsum("...td,...ds->...ts", queries, keys[..., None, :, :])
        by_time = product_by_head(queries, jnp.swapaxes(keys, -1, -2), transposed=True)
        np.testing.assert_allclose(by_time, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(product_by_head(queries, keys), expected, rtol=1e-4, atol=1e-5)


class ProductInFloat32Test(parameterized.TestCase):
    # Few rows and many, and either factor the narrower one.
    @parameterized.product(
        axis=(0, 1), rows=(5, 100), widths=((8, 24), (24, 8), (8, 8)), dtype=("bfloat16", "float32")
    )
    def test_gradients_are_those_of_a_plain_product(self, axis, rows, widths, dtype):
        rng = np.random.default_rng(0)
        inputs, outputs = widths
        x = jnp.asarray(rng.normal(size=(rows, inputs)), dtype)
        w = jnp.asarray(rng.normal(size=widths if axis == 0 else widths[::-1]), jnp.float32)
        g = jnp.asarray(rng.normal(size=(rows, outputs)), jnp.float32)

        def of(x, w):
            return (product_in_float32(x, w, axis) * g).sum()

        of_x, of_w = jax.grad(of, (0, 1))(x, w)
        x64, g64 = np.asarray(x, np.float64), np.asarray(g.astype(dtype), np.float64)
        w64 = np.asarray(w.astype(dtype), np.float64)
        tolerance = 5e-2 if dtype == "bfloat16" else 1e-4
        expected = g64 @ (w64.T if axis == 0 else w64)
        np.testing.assert_allclose(
            np.asarray(of_x, np.float64), expected, rtol=tolerance, atol=tolerance
        )
        expected = x64.T @ g64 if axis == 0 else g64.T @ x64
        self.assertEqual(of_w.dtype, jnp.float32)
        np.testing.assert_allclose(of_w, expected, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    absltest.main()
