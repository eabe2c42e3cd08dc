"""Rotary embeddings in config.json: `rope_scaling` of transformers 4, `rope_parameters` of 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from restem.errors import UserError
from restem.models.config import ModelConfig, RopeScaling

KINDS = ("linear", "llama3", "yarn", "longrope")


def read(raw: Mapping[str, Any], family: str, head_dim: int, where: Any) -> dict[str, Any]:
    """Returns the rotary fields of `ModelConfig`, from any of the forms in use.

    Args:
      raw: content of config.json, defaults included.
      family: name of the family.
      head_dim: width of a head.
      where: name of the file in errors.

    Raises:
      UserError: the kind of scaling is not supported, or lacks a number.
    """
    parameters = raw.get("rope_parameters")
    local_theta = raw.get("rope_local_base_freq")
    if parameters and "full_attention" in parameters:
        local = parameters.get("sliding_attention") or {}
        local_theta = local.get("rope_theta", local_theta)
        if local.get("rope_type", "default") != "default":
            raise UserError(f"{where}: rope scaling of sliding layers is not supported")
        parameters = parameters["full_attention"]
    scaling = parameters or raw.get("rope_scaling") or {}
    share = scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if share != 1.0 and family != "phi3":
        raise UserError(f"{where}: partial rotary embeddings are supported for phi3 only")
    try:
        rope_scaling = _scaling(scaling, raw, family, where)
    except KeyError as error:
        raise UserError(f"{where}: the scaling of rotary embeddings lacks {error}") from error
    return {
        "rope_theta": scaling.get("rope_theta", raw["rope_theta"]),
        "rope_scaling": rope_scaling,
        "rope_local_theta": local_theta if family == "gemma3" else None,
        "rotary_dim": None if share == 1.0 else int(head_dim * share),
        "unrotated_layers": unrotated(raw) if family == "smollm3" else (),
    }


def _scaling(
    scaling: Mapping[str, Any], raw: Mapping[str, Any], family: str, where: Any
) -> RopeScaling | None:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if family == "phi3" and kind in ("su", "yarn"):  # former names
        kind = "longrope"
    if kind == "default":
        return None
    if kind not in KINDS:
        raise UserError(f"{where}: rope scaling {kind!r} is not supported ({', '.join(KINDS)} are)")
    if kind == "linear":
        return RopeScaling("linear", factor=scaling["factor"])
    longest = raw["max_position_embeddings"]
    original = raw.get("original_max_position_embeddings") or scaling.get(
        "original_max_position_embeddings", longest
    )
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            factor=scaling["factor"],
            low_freq_factor=scaling["low_freq_factor"],
            high_freq_factor=scaling["high_freq_factor"],
            original_length=original,
        )
    factor = scaling.get("factor") or longest / original
    attention = scaling.get("attention_factor")
    if kind == "longrope":
        return RopeScaling(
            "longrope",
            factor=factor,
            original_length=original,
            short_factors=tuple(scaling["short_factor"]),
            long_factors=tuple(scaling["long_factor"]),
            attention_factor=attention,
        )
    if attention is None and scaling.get("mscale") and scaling.get("mscale_all_dim"):
        raise UserError(f"{where}: yarn with mscale and mscale_all_dim is not supported")
    return RopeScaling(
        "yarn",
        factor=factor,
        original_length=original,
        beta_fast=scaling.get("beta_fast") or 32.0,
        beta_slow=scaling.get("beta_slow") or 1.0,
        truncate=scaling.get("truncate", True),
        attention_factor=attention,
    )


def unrotated(raw: Mapping[str, Any]) -> tuple[bool, ...]:
    """Returns which layers of SmolLM3 have no rotary embedding; its list marks those with one."""
    layers = raw["num_hidden_layers"]
    rotated = raw.get("no_rope_layers")
    if rotated is None:
        return tuple((i + 1) % raw["no_rope_layer_interval"] == 0 for i in range(layers))
    return tuple(not flag for flag in rotated[:layers])


def max_length(raw: Mapping[str, Any], scaling: RopeScaling | None) -> int:
    """Returns the longest text in tokens.

    With "longrope", texts beyond the length of pretraining have other frequencies from their first
    token on, and so other keys than those that were cached before. Longer texts are left out.
    """
    longest = raw["max_position_embeddings"]
    if scaling is not None and scaling.kind == "longrope":
        return min(longest, scaling.original_length)
    return longest


def write(config: ModelConfig) -> dict[str, Any]:
    """Returns the rotary fields of config.json, in the form that transformers 4 and 5 both read."""
    scaling = config.rope_scaling
    fields: dict[str, Any] = {
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else _scaling_fields(scaling),
        "max_position_embeddings": config.max_length,
    }
    if config.rotary_dim is not None:
        fields["partial_rotary_factor"] = config.rotary_dim / config.head_dim
    if scaling is not None and scaling.kind == "longrope":
        fields["original_max_position_embeddings"] = scaling.original_length
        fields["max_position_embeddings"] = round(scaling.original_length * scaling.factor)
    if config.family == "smollm3":
        flags = config.unrotated_layers or (False,) * config.num_layers
        fields["no_rope_layers"] = [int(not unrotated) for unrotated in flags]
    return fields


def _scaling_fields(scaling: RopeScaling) -> dict[str, Any]:
    fields: dict[str, Any] = {"rope_type": scaling.kind}
    if scaling.kind == "longrope":
        fields["type"] = scaling.kind  # for versions that know no other key
    else:
        fields["factor"] = scaling.factor
    if scaling.kind in ("llama3", "yarn"):
        fields["original_max_position_embeddings"] = scaling.original_length
    if scaling.kind == "llama3":
        fields["low_freq_factor"] = scaling.low_freq_factor
        fields["high_freq_factor"] = scaling.high_freq_factor
    if scaling.kind == "yarn":
        fields["beta_fast"], fields["beta_slow"] = scaling.beta_fast, scaling.beta_slow
        fields["truncate"] = scaling.truncate
    if scaling.kind == "longrope":
        fields["short_factor"] = list(scaling.short_factors)
        fields["long_factor"] = list(scaling.long_factors)
    if scaling.attention_factor is not None:
        fields["attention_factor"] = scaling.attention_factor
    return fields
