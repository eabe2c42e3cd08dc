"""Every family computes what transformers computes, by prefill and step by step with the cache.

The golden values come from transformers (tests/golden/make_small_models.py); where torch and
transformers are installed, the comparison is made live as well. PaLM, which transformers does not
have, is compared with a plain NumPy reference of ours.
"""

import functools
import importlib.util
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from restem import checkpoints, models
from restem.models import kv_cache
from tests.helpers import compilation, small_models

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "small_models.npz"
# Maximum absolute difference over the largest absolute logit.
TOLERANCE = 2e-4
DECODED_ALIKE = (
    "llama_new_form", "gemma3_new_form", "llama_yarn", "qwen2_yarn", "smollm3", "phi3",
)  # fmt: skip
"""Models that differ from others in nothing that decoding does by itself."""


def setUpModule():
    compilation.begin()


def tearDownModule():
    compilation.end()


def difference(ours, reference) -> float:
    return float(np.abs(np.asarray(ours) - reference).max() / np.abs(reference).max())


@functools.cache
def load(name: str) -> checkpoints.Policy:
    with tempfile.TemporaryDirectory() as folder:
        return checkpoints.load(f"hf:{small_models.write_folder(name, pathlib.Path(folder))}")


def step_by_step(
    policy: checkpoints.Policy, tokens: np.ndarray, prefill: int, *, optimize: bool = False
) -> np.ndarray:
    """Logits when `prefill` tokens are read at once and the others one by one from the cache."""
    config = policy.config

    # Compiling, not running, is what takes time on small models.
    @functools.partial(
        jax.jit,
        donate_argnums=1,
        compiler_options=None if optimize else {"xla_backend_optimization_level": 0},
    )
    def read(params, cache, block, position):
        positions = position + jnp.broadcast_to(jnp.arange(block.shape[1]), block.shape)
        done = models.forward(params, config, block, positions, caches=[cache])
        cache = kv_cache.write(cache, done.block, position)
        return cache, models.logits(params, config, done.hidden)

    cache = kv_cache.empty(config, tokens.shape[0], tokens.shape[1])
    cache, first = read(policy.params, cache, tokens[:, :prefill], 0)
    found = [first]
    for i in range(prefill, tokens.shape[1]):
        cache, one = read(policy.params, cache, tokens[:, i : i + 1], i)
        found.append(one)
    return np.concatenate(found, axis=1)


class ParityTest(parameterized.TestCase):
    @parameterized.parameters(*small_models.CONFIGS)
    def test_prefill_equals_golden(self, name):
        golden = np.load(GOLDEN)[name]
        logits = load(name).logits(small_models.tokens(name))
        self.assertLess(difference(logits, golden), TOLERANCE)

    @parameterized.parameters(*(n for n in small_models.CONFIGS if n not in DECODED_ALIKE))
    def test_decoding_equals_golden(self, name):
        golden = np.load(GOLDEN)[name]
        logits = step_by_step(load(name), small_models.tokens(name), prefill=1)
        self.assertLess(difference(logits, golden), TOLERANCE)

    @parameterized.parameters("llama", "gemma3")
    def test_decoding_behind_a_prefill_equals_golden(self, name):
        golden = np.load(GOLDEN)[name]
        logits = step_by_step(load(name), small_models.tokens(name), prefill=13)
        self.assertLess(difference(logits, golden), TOLERANCE)

    def test_golden_distinguishes_what_configs_say(self):
        """A switch that is ignored must show: each moves the logits far beyond the tolerance."""
        for name, changes in (
            ("llama_tied_llama3_rope", {"rope_scaling": None}),
            ("llama_linear_rope", {"rope_scaling": None}),
            ("mistral_windows", {"window": 6}),
            ("qwen2_windows", {"local_layers": (True, True, True)}),
            ("llama_yarn", {"rope_scaling": None}),
            ("smollm3", {"unrotated_layers": ()}),
            ("phi4_mini", {"rope_scaling": None, "rotary_dim": None}),
            ("gemma2", {"attention_softcap": None}),
            ("gemma2", {"query_scale": None}),
            ("gemma3", {"rope_local_theta": None}),
            ("gemma3", {"rope_scaling": None}),
            ("gemma3", {"local_layers": (False,) * 6 + (True,)}),
        ):
            with self.subTest(f"{name} {changes}"):
                policy = load(name)
                policy = policy.replace(config=policy.config.replace(**changes))
                logits = policy.logits(small_models.tokens(name))
                self.assertGreater(difference(logits, np.load(GOLDEN)[name]), 10 * TOLERANCE)

    @parameterized.parameters(
        "llama_tied_llama3_rope",
        "mistral_windows",
        "qwen2_windows",
        "qwen3",
        "smollm3_yarn",
        "olmo2",
        "phi3",
        "phi4_mini",
        "gemma",
        "gemma2",
        "gemma3",
    )
    def test_live(self, name):
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed (pip install 'restem[parity]')")
        from tests.golden.make_small_models import reference_logits

        tokens = np.random.default_rng(1).integers(0, small_models.VOCAB, (3, 17))
        with tempfile.TemporaryDirectory() as folder:
            small_models.write_folder(name, pathlib.Path(folder))
            reference = reference_logits(folder, tokens)
        self.assertLess(difference(load(name).logits(tokens), reference), TOLERANCE)


PALM = models.ModelConfig(
    vocab_size=61,
    num_layers=2,
    embed_dim=24,
    num_heads=3,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=40,
    family="palm",
    norm="layer",
    parallel_layers=True,
    tied_head=True,
    scale_embedding=True,
)


def palm_logits(params, config, tokens: np.ndarray) -> np.ndarray:
    """Section 2 of PaLM (arXiv 2204.02311), one token and one head at a time.

    y = x + MLP(LayerNorm(x)) + Attention(LayerNorm(x)); SwiGLU; one key and value head; rotary
    positions; no biases; input and output embeddings shared.
    """
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    half = config.head_dim // 2

    def norm(x, scale):
        centred = x - x.mean()
        return scale * centred / np.sqrt((centred**2).mean() + config.norm_eps)

    def rotate(x, position):
        turned = np.empty_like(x)
        for i in range(half):
            angle = position * config.rope_theta ** (-2 * i / config.head_dim)
            a, b = x[i], x[i + half]
            turned[i] = a * np.cos(angle) - b * np.sin(angle)
            turned[i + half] = b * np.cos(angle) + a * np.sin(angle)
        return turned

    rows = []
    for row in tokens:
        xs = [params["embedding"][token] * np.sqrt(config.embed_dim) for token in row]
        for layer in range(config.num_layers):
            p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["layers"])
            ys = [norm(x, p["attention_norm"]) for x in xs]
            keys = [rotate(y @ p["attention"]["key"][:, 0], i) for i, y in enumerate(ys)]
            values = [y @ p["attention"]["value"][:, 0] for y in ys]
            for i, y in enumerate(ys):
                attended = 0.0
                for head in range(config.num_heads):
                    query = rotate(y @ p["attention"]["query"][:, head], i)
                    scores = np.array([query @ k for k in keys[: i + 1]])
                    weights = np.exp(scores * config.head_dim**-0.5)
                    mixed = sum(
                        w * v for w, v in zip(weights / weights.sum(), values, strict=False)
                    )
                    attended = attended + mixed @ p["attention"]["out"][head]
                gate = y @ p["mlp"]["gate"]
                hidden = gate / (1 + np.exp(-gate)) * (y @ p["mlp"]["up"])
                xs[i] = xs[i] + attended + hidden @ p["mlp"]["down"]
        rows.append([norm(x, params["final_norm"]) @ params["embedding"].T for x in xs])
    return np.asarray(rows)


class PalmTest(absltest.TestCase):
    def test_equals_numpy_reference(self):
        params = jax.jit(models.init_params, static_argnums=0)(PALM, jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), 3)
        # Norms start at one, where a forgotten scale would not show.
        layers = params["layers"]
        layers["attention_norm"] += 0.3 * jax.random.normal(keys[0], (2, PALM.embed_dim))
        params["final_norm"] += 0.3 * jax.random.normal(keys[1], (PALM.embed_dim,))
        params["layers"] = {
            **layers,
            "attention": jax.tree.map(lambda p: 2 * p, layers["attention"]),
        }
        policy = checkpoints.Policy(PALM, params, vocabulary=None, reference="random")
        tokens = np.asarray(jax.random.randint(keys[2], (2, 11), 0, PALM.vocab_size))
        reference = palm_logits(params, PALM, tokens)
        self.assertLess(difference(policy.logits(tokens), reference), TOLERANCE)
        self.assertLess(difference(step_by_step(policy, tokens, 4), reference), TOLERANCE)


if __name__ == "__main__":
    absltest.main()
