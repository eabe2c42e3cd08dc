"""The rotary embedding (Su et al. 2021): a token's position turns its queries and keys."""

from __future__ import annotations

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from restem.models.config import ModelConfig, RopeScaling


@flax.struct.dataclass
class Rotary:
    """The rotary embedding of a block's tokens."""

    angles: Float[Array, "batch length half_rotary_dim"]
    """Angles in radians; 0 rotates nothing."""
    factor: Float[Array, ""] | float = 1.0
    """Factor of rotated dimensions (YaRN, LongRoPE)."""


def rotary_factor(config: ModelConfig) -> float:
    """Returns the factor of rotated queries and keys that the config's scaling calls for."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    if scaling.kind == "yarn":
        return 0.1 * math.log(scaling.factor) + 1
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_length))


def inverse_frequencies(
    config: ModelConfig, *, local: bool = False
) -> Float[Array, " half_rotary_dim"]:
    """Returns rotary frequencies in radians per position; `local` for sliding-window layers."""
    theta = config.rope_theta
    scaling = config.rope_scaling
    if local and config.rope_local_theta is not None:
        # Gemma 3 scales the frequencies of its global layers only.
        theta, scaling = config.rope_local_theta, None
    dim = config.head_dim if config.rotary_dim is None else config.rotary_dim
    exponent = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    frequencies = 1.0 / theta**exponent
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "longrope":
        return frequencies / jnp.asarray(scaling.short_factors, jnp.float32)
    if scaling.kind == "yarn":
        kept = 1 - _yarn_ramp(scaling, theta, dim)
        return (1 - kept) * frequencies / scaling.factor + kept * frequencies
    wavelength = 2 * math.pi / frequencies
    ratio = scaling.original_length / wavelength
    smooth = (ratio - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = jnp.clip(smooth, 0.0, 1.0)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies


def _yarn_ramp(scaling: RopeScaling, theta: float, dim: int) -> Float[Array, " half_rotary_dim"]:
    """Returns how far each frequency is scaled, from 0 to 1 (Peng et al. 2023, section 3.2)."""

    def dimension(turns: float) -> float:
        """Returns the dimension whose frequency turns this often in the original length."""
        return (
            dim * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))
        )

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    return jnp.clip((jnp.arange(dim // 2, dtype=jnp.float32) - low) / width, 0.0, 1.0)


def rotate(
    x: Float[Array, "batch length heads head_dim"], rotary: Rotary
) -> Float[Array, "batch length heads head_dim"]:
    """Applies the rotary embedding (Su et al. 2021) in float32.

    Dimension i is paired with i + rotary_dim / 2, as in the Hugging Face layout of the weights;
    dimensions from `rotary_dim` on are left as they are.
    """
    angles = rotary.angles
    width = 2 * angles.shape[-1]
    if width < x.shape[-1]:
        rotated = rotate(x[..., :width], rotary)
        return jnp.concatenate([rotated, x[..., width:]], axis=-1)
    rotate_half = functools.partial(
        jax.lax.platform_dependent, cpu=_rotate_half_by_product, default=_rotate_half
    )
    repeat = functools.partial(jax.lax.platform_dependent, cpu=_repeat_by_product, default=_repeat)
    sin = repeat(jnp.sin(angles))[:, :, None, :]
    cos = repeat(jnp.cos(angles))[:, :, None, :]
    y = x.astype(jnp.float32)
    return ((y * cos + rotate_half(y) * sin) * rotary.factor).astype(x.dtype)


def _rotate_half(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
    """(low, high) -> (-high, low)."""
    low, high = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-high, low], axis=-1)


def _repeat(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes 2*dim"]:
    """x -> (x, x)."""
    return jnp.concatenate([x, x], axis=-1)


# XLA's CPU backend concatenates one number at a time, and recomputes a sine for every head and
# layer that uses it. Products with matrices of zeros and ones are exact and avoid both.
def _rotate_half_by_product(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
    return x @ _rotate_half(jnp.eye(x.shape[-1], dtype=x.dtype))


def _repeat_by_product(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes 2*dim"]:
    return x @ _repeat(jnp.eye(x.shape[-1], dtype=x.dtype))
