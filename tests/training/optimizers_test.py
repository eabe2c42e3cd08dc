import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from restem import models
from restem.runtime import checks
from restem.training import optimizers


class LearningRatesTest(parameterized.TestCase):
    def rates(self, schedule, warmup_fraction=0.2):
        rate = optimizers.learning_rates(
            learning_rate=2.0, schedule=schedule, warmup_fraction=warmup_fraction, total_steps=10
        )
        return np.asarray([rate(t) for t in range(11)])

    def test_warm_up_then_constant(self):
        np.testing.assert_allclose(self.rates("constant"), [2 / 3, 4 / 3, *[2.0] * 9], rtol=1e-6)

    def test_warm_up_then_linear(self):
        want = [2 / 3, 4 / 3, *(2 - 0.25 * np.arange(9))]
        np.testing.assert_allclose(self.rates("linear"), want, rtol=1e-6)

    def test_warm_up_then_cosine(self):
        want = [2 / 3, 4 / 3, *(1 + np.cos(np.pi * np.arange(9) / 8))]
        np.testing.assert_allclose(self.rates("cosine"), want, atol=1e-6)

    def test_without_warm_up(self):
        np.testing.assert_allclose(self.rates("constant", 0.0), [2.0] * 11)

    def test_unknown_schedule(self):
        with self.assertRaisesRegex(ValueError, "stairs"):
            self.rates("stairs")


class WeightDecayTest(absltest.TestCase):
    def test_matrices_only(self):
        config = models.ModelConfig(
            vocab_size=8, num_layers=2, embed_dim=8, num_heads=2, num_kv_heads=1, head_dim=4,
            mlp_dim=8, qkv_bias=True, qk_norm=True, post_norms=True,
        )  # fmt: skip
        flags = optimizers.decayed(models.param_shapes(config))
        decayed = {
            "/".join(str(k.key) for k in path)
            for path, flag in jax.tree_util.tree_flatten_with_path(flags)[0]
            if flag
        }
        attention = {f"layers/attention/{n}" for n in ("query", "key", "value", "out")}
        mlp = {f"layers/mlp/{n}" for n in ("gate", "up", "down")}
        self.assertEqual(decayed, {"embedding", "head"} | attention | mlp)

    def test_norms_stand_still_without_gradient(self):
        params = {"up": jnp.ones((4, 4)), "mlp_norm": jnp.ones((2, 4))}
        for make in (optimizers.adamw, optimizers.adafactor):
            optimizer = make(total_steps=1, learning_rate=0.1, warmup_fraction=0, weight_decay=0.5)
            grads = jax.tree.map(jnp.zeros_like, params)
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            new = optax.apply_updates(params, updates)
            np.testing.assert_allclose(new["up"], np.full((4, 4), 0.95), rtol=1e-6)
            np.testing.assert_array_equal(new["mlp_norm"], params["mlp_norm"])


class UpdatesTest(parameterized.TestCase):
    def test_adamw_is_that_of_the_paper(self):
        rng = np.random.default_rng(0)
        p = rng.normal(size=(3, 5)).astype(np.float32)
        optimizer = optimizers.adamw(
            total_steps=4,
            learning_rate=0.01,
            warmup_fraction=0,
            clip=0.5,
            weight_decay=0.1,
            b2=0.95,
        )  # fmt: skip
        params = {"up": jnp.asarray(p)}
        state = optimizer.init(params)
        m = v = 0.0
        for t in range(1, 5):
            g = rng.normal(size=p.shape).astype(np.float32)
            updates, state = optimizer.update({"up": jnp.asarray(g)}, state, params)
            params = optax.apply_updates(params, updates)
            g = g * min(1.0, 0.5 / np.sqrt((g**2).sum()))
            m = 0.9 * m + 0.1 * g
            v = 0.95 * v + 0.05 * g**2
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
            p = p - 0.01 * (step + 0.1 * p)
            np.testing.assert_allclose(params["up"], p, rtol=1e-5, atol=1e-6)

    def test_adafactor_state_is_small_and_descends(self):
        params = {"up": jnp.full((2, 64, 48), 0.5)}
        optimizer = optimizers.adafactor(total_steps=50, learning_rate=0.02)
        state = optimizer.init(params)
        self.assertLess(sum(x.size for x in jax.tree.leaves(state)), 2 * (64 + 48) + 10)

        @jax.jit
        def step(params, state):
            grads = jax.grad(lambda p: jnp.square(p["up"]).mean())(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(50):
            params, state = step(params, state)
        self.assertLess(float(jnp.abs(params["up"]).max()), 0.05)


class BoundsTest(absltest.TestCase):
    def test_without_epsilon_a_weight_without_gradient_would_become_nan(self):
        allowed = checks.hints(optimizers.adamw)["eps"]
        self.assertEqual(checks.fault(0.0, allowed), "a finite number, greater than 0")
        self.assertIsNone(checks.fault(1e-30, allowed))


class PrecisionTest(parameterized.TestCase):
    def test_rounding_is_unbiased_and_to_neighbours(self):
        x = np.asarray([1.0 + 1 / 512, -3.3, 1e-3, 123.456, 0.0, -0.5], np.float32)
        n = 40_000
        draws = optimizers.round_stochastically(
            jax.random.key(0), jnp.broadcast_to(x, (n, len(x)))
        ).astype(jnp.float32)
        draws = np.asarray(draws, np.float64)
        low, high = draws.min(axis=0), draws.max(axis=0)
        gap = high - low
        # Two neighbours around x, and x itself where bfloat16 has it.
        self.assertTrue(((low <= x) & (x <= high)).all())
        self.assertTrue((gap[:4] > 0).all() and (gap[4:] == 0).all())
        self.assertTrue((gap <= np.abs(x) / 128 + 1e-30).all())
        self.assertTrue(((draws == low) | (draws == high)).all())
        # The mean of n draws is within 5 standard errors; one draw deviates by at most gap / 2.
        self.assertTrue((np.abs(draws.mean(axis=0) - x) <= 5 * gap / 2 / np.sqrt(n)).all())

    def test_infinities_stay(self):
        x = jnp.asarray([np.inf, -np.inf, np.nan], jnp.float32)
        out = np.asarray(optimizers.round_stochastically(jax.random.key(0), x), np.float32)
        np.testing.assert_array_equal(out, x)

    @parameterized.parameters("params", "master", "stochastic", None)
    def test_steps_too_small_for_bfloat16(self, precision):
        # 100 steps of 1e-4 from 1.0, whose bfloat16 neighbour below is 0.996.
        params = {"up": jnp.ones((64, 64), jnp.bfloat16)}
        optimizer = optimizers.with_precision(optax.sgd(1e-4), precision)
        state = optimizer.init(params)

        @jax.jit
        def step(params, state):
            grads = jax.tree.map(jnp.ones_like, params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(100):
            params, state = step(params, state)
        self.assertEqual(params["up"].dtype, jnp.bfloat16)
        mean = float(params["up"].astype(jnp.float32).mean())
        want = {"params": (1.0, 0.0), "master": (0.98828125, 0.0), "stochastic": (0.99, 5e-4)}
        want[None] = want["stochastic"]
        self.assertAlmostEqual(mean, want[precision][0], delta=want[precision][1])

    @parameterized.product(
        name=("adamw", "adafactor"),
        precision=("params", "master", "stochastic", None),
        dtype=(jnp.bfloat16, jnp.float32),
    )
    def test_the_state_keeps_its_dtypes(self, name, precision, dtype):
        """So that a step is compiled once, reuses the state's memory, and is resumed exactly."""
        params = {"up": jnp.ones((64, 64), dtype), "mlp_norm": jnp.ones((64,), dtype)}
        grads = jax.tree.map(lambda p: jnp.ones(p.shape, jnp.float32), params)
        for changes in ({}, {"moment_dtype": "bfloat16"}) if name == "adamw" else ({},):
            optimizer = getattr(optimizers, name)(
                total_steps=3, precision=precision, weight_decay=0.1, **changes
            )
            state = optimizer.init(params)
            dtypes = lambda state: [leaf.dtype for leaf in jax.tree.leaves(state)]
            self.assertEqual(dtypes(optimizer.update(grads, state, params)[1]), dtypes(state))
            self.assertEqual(jnp.bfloat16 in dtypes(state), bool(changes))

    def test_every_training_is_rounded_by_other_bits(self):
        params = {"up": jnp.ones((64, 64), jnp.bfloat16)}
        optimizer = optimizers.with_precision(optax.sgd(1e-3), "stochastic")
        grads = jax.tree.map(jnp.ones_like, params)
        moved = [
            np.asarray(optimizer.update(grads, state, params)[0]["up"]) != 0
            for state in (optimizers.reseeded(optimizer.init(params), seed) for seed in (1, 1, 2))
        ]
        self.assertTrue((moved[0] == moved[1]).all())
        self.assertGreater((moved[0] != moved[2]).mean(), 0.2)
        plain = optax.adamw(1e-3).init(params)
        self.assertEqual(jax.tree.structure(optimizers.reseeded(plain, 1)),
                         jax.tree.structure(plain))  # fmt: skip

    def test_every_leaf_and_step_is_rounded_by_other_bits(self):
        params = {name: jnp.ones((64, 64), jnp.bfloat16) for name in ("up", "down")}
        optimizer = optimizers.with_precision(optax.sgd(1e-3), "stochastic")
        grads = jax.tree.map(jnp.ones_like, params)
        state, rounded = optimizer.init(params), []
        for _ in range(2):  # both steps start from the same parameters
            updates, state = optimizer.update(grads, state, params)
            rounded += [np.asarray(updates["up"]), np.asarray(updates["down"])]
        for i, one in enumerate(rounded):
            self.assertBetween((one != 0).mean(), 0.2, 0.31)  # 1e-3 of a gap of 1/256
            for other in rounded[:i]:
                self.assertGreater((one != other).mean(), 0.2)

    @parameterized.parameters("adamw", "adafactor")
    def test_the_default_rounds_what_would_be_lost_and_nothing_else(self, name):
        """So that training of float32 parameters continues from states saved before."""
        make = functools.partial(getattr(optimizers, name), total_steps=3)
        for dtype, same in ((jnp.float32, "params"), (jnp.bfloat16, "stochastic")):
            params = {"up": jnp.ones((4, 4), dtype), "mlp_norm": jnp.ones((4,), dtype)}
            states = [make(**given).init(params) for given in ({}, {"precision": same})]
            self.assertEqual(*map(jax.tree.structure, states))

    def test_unknown_precision(self):
        with self.assertRaisesRegex(ValueError, "half"):
            optimizers.with_precision(optax.sgd(1.0), "half")


if __name__ == "__main__":
    absltest.main()
