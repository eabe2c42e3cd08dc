"""How many programs are compiled, for questions as long as those of MATH."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem.sampling import Request, Sampling
from restem.sampling.programs import Programs
from tests.helpers import compilation
from tests.sampling.engine_test import CONFIG, engine_of, params_of, prefix_of

LONG = CONFIG.replace(max_length=4096)  # of two layers: a program for each would be counted


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


def like_math(seed, number, samples, longest):
    """Requests whose questions have MATH's mean (88), median (64) and 99th percentile (430)."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(64), 0.8, number)).clip(5, longest).astype(int)
    lengths[rng.integers(number)] = longest
    return [Request((1,) * int(n), samples, problem_key=i) for i, n in enumerate(lengths)]


def zeros(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.zeros((*leaf.shape, 2), jnp.uint32))
    return jnp.zeros(leaf.shape, leaf.dtype)


class Counted(Programs):
    """Programs that are lowered, and return zeros; a sample ends at each step with chance 1/8."""

    def _compile(self, signature, function, args, donate, static):
        shapes = jax.eval_shape(functools.partial(function, **static), *args)
        rng = np.random.default_rng(0)

        def call(*args):
            found = jax.tree.map(zeros, shapes)
            if "eos_ids" in static:
                ring, rows, tokens, logprobs = found
                tokens = jnp.asarray(rng.random(tokens.shape) > 1 / 8, jnp.int32)  # id 0 is EOS
                return ring, rows, tokens, logprobs
            return found

        with mock.patch.object(jax, "jit") as jit:
            jit.return_value.lower.return_value.compile = lambda: call
            return super()._compile(signature, function, args, donate, static)


class ProgramsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("as_on_a_cpu", {}),
        ("as_elsewhere", {"decode_steps": 8, "unstacked": False, "start_small": False}),
    )
    def test_few_programs_per_step_and_per_run(self, options):
        counts = []
        programs = mock.patch("restem.sampling.engine.Programs", Counted)
        with programs, mock.patch.dict("restem.sampling.programs._PROGRAMS", clear=True):
            for sampling, requests in (
                (Sampling(temperature=0.0), like_math(0, 500, 1, 1100)),
                (Sampling(top_k=40), like_math(1, 700, 1, 2046)),
                (Sampling(temperature=0.0), like_math(0, 500, 1, 1100)),
            ):
                engine = engine_of(
                    LONG, sampling=sampling, max_new_tokens=512, slots=128, **options
                )
                if options:
                    engine.options.bucket = 128
                found = engine.sample(params_of(LONG), prefix_of(9), requests, key=0)
                self.assertLen(list(found), sum(r.num_samples for r in requests))
                counts.append(engine.stats.programs)
        evaluation, e_step, again = counts
        self.assertLessEqual(max(counts), 10)
        self.assertLessEqual(evaluation + e_step + again, 16)


if __name__ == "__main__":
    absltest.main()
