"""The sampler and the trainer on 8 simulated devices; `partitioning_test.py` runs this file."""

import functools
import os
import re
from concurrent import futures
from unittest import mock

from tests.helpers import xla

os.environ["XLA_FLAGS"] = xla.flags("--xla_force_host_platform_device_count=8")
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from restem import models, partitioning
from restem.checkpoints.policy import Policy
from restem.models.lora import Lora
from restem.plan import programs
from restem.records import Problem, TaskCard, Verdict
from restem.rollout import Rollout
from restem.sampling import Engine, Request, Sampling, Tuning, steps
from restem.sampling.batches import Batches
from restem.sampling.shapes import Shapes
from restem.sampling.widths import WidthClasses
from restem.training import Shape, TokenExample, Trainer, optimizers
from tests.helpers import tiny
from tests.helpers.gradients import gradients

# These programs run for milliseconds and compile for seconds: do not optimise them.
jax.config.update("jax_disable_most_optimizations", True)

CONFIG = models.ModelConfig(
    vocab_size=64, num_layers=2, embed_dim=32, num_heads=8, num_kv_heads=4, head_dim=8, mlp_dim=64,
    tied_head=True, max_length=256,
)  # fmt: skip
PREFIX = (3, 14, 15, 9, 26, 5, 35)


class Letters:
    """Id 0 ends a text; every other id is a letter."""

    eos_ids = frozenset({0})
    size = 64

    def token_bytes(self, token_id):
        return b"%c" % (64 + token_id % 64) if token_id else b""


@functools.cache
def _params(config=CONFIG):
    params = models.init_params(config, jax.random.key(0))
    # Sharper logits than random weights give, so that greedy decoding has no near ties.
    return {**params, "embedding": params["embedding"] * 3}


def _mesh(sizes):
    return partitioning.make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])


def _complete(mesh, config=CONFIG, sampling=Sampling(temperature=0.0), *, classes=False):
    """Samples of six questions; `classes` adds one that needs a width class of its own."""
    params = _params(config.replace(dtype="float32", int8_weights=False))
    if mesh is not None:
        params = jax.device_put(params, partitioning.param_shardings(config, mesh))
    rng = np.random.default_rng(0)
    requests = [
        Request(
            tokens=tuple(int(t) for t in rng.integers(1, 64, rng.integers(1, 9))),
            num_samples=3,
            problem_key=i,
        )
        for i in range(6)
    ]
    if classes:
        requests.append(Request(tuple(int(t) for t in rng.integers(1, 64, 200)), 1, problem_key=6))
    engine = Engine(
        config, Letters(), sampling=sampling, max_new_tokens=10,
        slots=16 if classes else 8,  # the fewest of the meshes: the batch does not shrink
        tuning=Tuning(decode_steps=4, prefill_tokens=64, unstacked=False), mesh=mesh,
    )  # fmt: skip
    found = engine.sample(params, PREFIX, requests, key=0)
    completions = {(c.request_index, c.sample_index): c for c in found}
    # The layouts that were expected when programs were prepared are those that came out.
    assert engine.stats.programs <= 10, engine.stats.programs
    return completions


def _sample(mesh, config=CONFIG, **options):
    found = _complete(mesh, config, **options)
    return {name: tuple(c.token_ids) for name, c in found.items()}


@functools.cache
def _sampled_on_one():
    return _sample(None, classes=True)


def _trainer(mesh, config=CONFIG, **changes):
    arguments = dict(
        optimizer=optimizers.adamw(total_steps=10, learning_rate=1e-2), prefix_ids=PREFIX,
        shape=Shape(24, 8), batch_examples=20, head_chunk=16, mesh=mesh,
    )  # fmt: skip
    return Trainer(config, **(arguments | changes))


def _batch(trainer):
    rng = np.random.default_rng(1)
    examples = [
        TokenExample(
            input_ids=rng.integers(1, 64, 5).tolist(),
            target_ids=rng.integers(1, 64, rng.integers(3, 9)).tolist(),
            weight=float(rng.uniform(0.5, 1.5)),
        )
        for _ in range(20)
    ]
    return trainer.pack(examples, seed=0, epoch=0)[0]


@functools.cache
def _gradients_on_one():
    trainer = _trainer(None)
    return jax.device_get(gradients(trainer, _params(), _batch(trainer)))


class LettersVerifier:
    """Rewards by the share of letters."""

    def submit(self, problem, text):
        done = futures.Future()
        done.set_result(Verdict(tiny.letters_reward(problem, text)))
        return done


class StepsTest(parameterized.TestCase):
    @parameterized.parameters(((2, 1, 4), False), ((2, 2, 2), True))
    def test_greedy_samples_equal_those_of_one_device(self, sizes, ring_time_minor):
        """Also with the ring's keys and the parameters as TPUs have them."""
        self.enter_context(mock.patch.object(Shapes, "ring_time_minor", ring_time_minor))
        self.enter_context(mock.patch.object(Shapes, "flat_heads", not ring_time_minor))
        samples = _sample(_mesh(sizes), classes=True)
        self.assertLen(samples, 19)
        self.assertEqual(samples, _sampled_on_one())

    @parameterized.parameters((1, 2, 4), (4, 1, 2))
    def test_a_vocabulary_that_is_not_whole_groups_per_part(self, *sizes):
        config = CONFIG.replace(vocab_size=1000)  # 250 or 500 tokens per part, groups have 128
        for sampling in (Sampling(0.8, top_k=5), Sampling(1.0, top_p=0.9), Sampling(1.0)):
            samples = _sample(_mesh(sizes), config, sampling=sampling)
            self.assertEqual(samples, _sample(None, config, sampling=sampling))

    def test_bfloat16_samples_are_those_of_one_device_up_to_rounding(self):
        config = CONFIG.replace(dtype="bfloat16")
        found, expected = _complete(_mesh((2, 1, 4)), config), _complete(None, config)
        same = [name for name in expected if found[name].token_ids == expected[name].token_ids]
        self.assertGreater(len(same), 0.8 * len(expected))
        for name in same:
            # Ten tokens, each with a relative error of 2^-8 in its logits.
            self.assertAlmostEqual(found[name].logprob, expected[name].logprob, delta=0.3)

    def test_int8_weights_lie_as_the_weights_do(self):
        config = CONFIG.replace(int8_weights=True)
        mesh = _mesh((1, 2, 4))
        where = partitioning.param_shardings(CONFIG, mesh)
        rounded = steps.prepare_params(jax.device_put(_params(), where), config)
        for name in ("gate", "up", "down"):
            values = rounded["layers"]["mlp"][name].values
            expected = where["layers"]["mlp"][name]
            self.assertTrue(values.sharding.is_equivalent_to(expected, values.ndim), name)
        flat = models.flatten_heads(rounded)["layers"]["attention"]
        query = flat["query"].matrix
        self.assertEqual(query.values.sharding.spec, P(None, "tensor", "fsdp"))
        self.assertEqual(query.scale.sharding.spec, P(None, "tensor"))
        self.assertEqual(_sample(mesh, config), _sample(None, config))

    @parameterized.parameters(
        ((2, 2, 2), {}),
        ((1, 4, 2), {"shape": Shape(24, 3, length_parts=4)}),
        ((2, 4, 1), {"shape": Shape(24, 2, length_parts=4), "blocked": True}),
        ((2, 2, 2), {"shape": Shape(24, 2, length_parts=4), "head_chunk": 4}),
    )
    def test_loss_and_gradient_equal_those_of_one_device(self, sizes, changes):
        """Whether each part has rows of its own or several parts share rows."""
        mesh = _mesh(sizes)
        config = CONFIG.replace(query_block=8) if changes.pop("blocked", False) else CONFIG
        trainer = _trainer(mesh, config, **changes)
        params = jax.device_put(_params(), partitioning.param_shardings(CONFIG, mesh))
        found, metrics = gradients(trainer, params, _batch(trainer))
        expected, expected_metrics = _gradients_on_one()
        np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-5)
        self.assertEqual(metrics["target_tokens"], expected_metrics["target_tokens"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3),
            jax.device_get(found),
            expected,
        )

    @parameterized.parameters(
        (dict(dtype="bfloat16", vocab_size=66), None, 2e-2),
        ({}, Lora(rank=2, base_dtype="int8"), 1e-4),
    )
    def test_training_in_other_forms_equals_that_on_one_device(self, changes, form, tolerance):
        """Activations in bfloat16, a vocabulary of 2 x 33 tokens, an adapter to int8 weights."""
        config, found = CONFIG.replace(tied_head=False, **changes), {}
        for name, mesh in (("many", _mesh((1, 4, 2))), ("one", None)):
            trainer = _trainer(mesh, config, adapter=form)
            params = models.init_params(config, jax.random.key(0))
            if mesh is not None:
                params = partitioning.place_params(params, config, mesh)
            frozen = trainer.frozen(params)
            trained = trainer.init(params, seed=1).params if form else params
            grads, metrics = gradients(trainer, trained, _batch(trainer), frozen)
            found[name] = jax.device_get(grads), float(metrics["loss"])
        (many, loss), (one, expected) = found["many"], found["one"]
        np.testing.assert_allclose(loss, expected, rtol=tolerance)
        for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(b).max(), 1e-3))

    def test_validation_decodes_on_the_mesh_of_the_sampler(self):
        config = tiny.config()
        params = models.init_params(config, jax.random.key(0))
        policy = Policy(config, params, tiny.vocabulary(), "orbax:/base")
        card = TaskCard("letters", prefix="hi\n", max_new_tokens=5)
        problems = [Problem(f"p{i}", "validation", f"say {i}:") for i in range(5)]
        alone = Rollout(policy=policy, card=card, verifier=LettersVerifier(), key=1, slots=8)
        training, sampler = _mesh((1, 8, 1)), _mesh((2, 1, 4))
        rollout = alone.replace(mesh=training, validation_mesh=sampler).placed()
        seen = []
        visits = Engine.visits

        def spied(engine, params, *args, **kwargs):
            seen.append((engine.options.mesh, params["layers"]["mlp"]["up"]))
            return visits(engine, params, *args, **kwargs)

        with mock.patch.object(Engine, "visits", spied):
            reward = rollout.greedy_reward(problems)
            self.assertEqual(reward, alone.greedy_reward(problems))
        self.assertGreater(reward, 0)
        (mesh, up), _ = seen
        self.assertEqual(mesh, sampler)
        self.assertEqual(up.sharding.spec, P(None, None, "tensor"))
        kept = rollout.policy.params["layers"]["mlp"]["up"]
        self.assertEqual(kept.sharding.spec, P(None, "fsdp", None))
        rounded = rollout.replace(policy=policy.replace(config=config.replace(dtype="bfloat16")))
        self.assertEqual(rounded.rounded().policy.params["embedding"].dtype, "bfloat16")

    def test_a_train_step_keeps_parameters_and_moments_where_they_are(self):
        mesh = _mesh((1, 4, 2))
        trainer = _trainer(mesh)
        params = jax.device_put(_params(), partitioning.param_shardings(CONFIG, mesh))
        state = trainer.init(params)
        before = jax.tree.map(lambda x: x.sharding, state)
        new, metrics = trainer.train_step(state, _batch(trainer))
        np.testing.assert_allclose(metrics["loss"], _gradients_on_one()[1]["loss"], rtol=1e-5)
        jax.tree.map(
            lambda leaf, where: self.assertTrue(
                leaf.sharding.is_equivalent_to(where, leaf.ndim), f"{leaf.sharding} {where}"
            ),
            new,
            before,
        )
        moments = optax.tree_utils.tree_get(new.opt_state, "mu")
        for tree in (new.params, moments):
            up = tree["layers"]["mlp"]["up"]
            self.assertEqual(up.size, 8 * up.addressable_shards[0].data.size)

    def test_an_adapter_is_trained_as_on_one_device_and_lies_as_its_matrices_do(self):
        form = Lora(rank=2)
        mesh, found = _mesh((2, 2, 2)), {}
        for name, where in (("many", mesh), ("one", None)):
            trainer = _trainer(where, adapter=form, optimizer=optax.sgd(0.1))
            params = _params()
            if where is not None:
                params = partitioning.place_params(params, CONFIG, where)
            frozen = trainer.frozen(params)
            state = trainer.init(params, seed=1)
            for _ in range(2):  # b is zero before the first step, and a has no gradient
                state, metrics = trainer.train_step(state, _batch(trainer), frozen)
            found[name] = (jax.device_get(state.params), float(metrics["loss"]))
            if where is not None:
                pair = state.params["layers"]["mlp"]["up"]
                self.assertEqual(pair["a"].sharding.spec, P(None, "fsdp", None))
                self.assertEqual(pair["b"].sharding.spec, P(None, None, "tensor"))
        np.testing.assert_allclose(found["many"][1], found["one"][1], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found["many"][0],
            found["one"][0],
        )  # fmt: skip

    @parameterized.parameters(4, 8)
    def test_decode_gathers_neither_weights_nor_caches(self, tensor):
        """The sampler's own program: under tensor parallelism only rows' activations cross."""
        mesh = partitioning.make_mesh(tensor=tensor)
        engine = Engine(
            CONFIG, Letters(), sampling=Sampling(temperature=0.7, top_k=5), max_new_tokens=48,
            tuning=Tuning(decode_steps=2, unstacked=False), mesh=mesh,
        )  # fmt: skip
        slots = 4
        classes = WidthClasses((16,), (slots,))
        batches = Batches([9], classes, budget=128, lookahead=128, chunk=16)
        sampler = programs.Sampler(
            engine.options, classes, batches, prefix=64, ring=48, dtype="float32"
        )
        program = sampler.program("decode")
        with partitioning.use(mesh):
            hlo = program.trace().lower().compile().as_text()
        self.assertIn("all-reduce", hlo)
        # The slots' logits are the widest activation, padded to groups of 128. The smallest weight
        # that could be gathered has [embed, kv_heads, head] elements, the prefix more.
        widest = slots * 128
        self.assertLess(widest, CONFIG.embed_dim * CONFIG.num_kv_heads * CONFIG.head_dim)
        for line in hlo.splitlines():
            if re.search(r"\b(all-gather|all-to-all|collective-permute)(-start)?\(", line):
                for dims in re.findall(r"f32\[([\d,]+)\]", line.split("(")[0]):
                    size = int(np.prod([int(d) for d in dims.split(",")]))
                    self.assertLessEqual(size, widest, line)


if __name__ == "__main__":
    absltest.main()
