"""Writes a policy as a Hugging Face folder, which `transformers` loads."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from restem import models
from restem.checkpoints import hf_config, names, peft
from restem.checkpoints.policy import Policy
from restem.errors import UserError
from restem.models import lora
from restem.runtime import storage
from restem.tokenizers.conversion import to_tokenizer_json
from restem.tokenizers.sentencepiece import SentencePieceVocabulary
from restem.tokenizers.vocabulary import Vocabulary

_SHARD_BYTES = 5 * 10**9


def export(
    policy: Policy,
    folder: str | Path,
    *,
    dtype: str = "float32",
    shard_bytes: int = _SHARD_BYTES,
    adapter: bool = False,
    card: str | None = None,
) -> Path:
    """Writes config.json, model.safetensors and the tokenizer's files.

    Chat template, special tokens and defaults of generation are those of the original
    (`Policy.hub`). Adapters are merged into the weights, or written alone, as a folder of `peft`.

    Memory holds one shard at a time. Files are written to a folder beside the target, which is
    renamed (or, if the target exists, emptied into it) when all of them are complete.

    Args:
      policy: the policy; its parameters may be sharded over the devices of this process.
      folder: a local folder that does not exist or is empty.
      dtype: dtype of the tensors: "float32", "bfloat16" or "float16".
      shard_bytes: largest size of a safetensors file in bytes, if it holds more than one tensor.
      adapter: whether to write the policy's adapter alone, in float32; see `peft.write`.
      card: the model card, written to README.md; None: no card.

    Returns:
      The folder.

    Raises:
      UserError: the folder is in a bucket or not empty, the dtype is not one of those,
        transformers lacks the family (PaLM), or there is no adapter to write.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype {dtype!r}: export writes float32, bfloat16 or float16")
    check_target(folder)
    folder = Path(folder).absolute()
    config = hf_config.to_hf_config(policy.config) | {"dtype": dtype, "torch_dtype": dtype}
    config |= _special_ids(policy.vocabulary)
    if adapter and policy.adapter is None:
        raise UserError(f"{policy.reference} carries no adapter: leave out --adapter")
    unfinished = _unfinished(folder)
    if card is not None:
        (unfinished / "README.md").write_text(card)
    if adapter:
        peft.write(policy, unfinished)
        return _finish(unfinished, folder)
    _write_json(unfinished / "config.json", config)
    generation = {**policy.hub.generation, **_special_ids(policy.vocabulary)}
    _write_json(unfinished / "generation_config.json", generation)
    _write_tokenizer(policy, unfinished)
    _write_tensors(policy, unfinished, dtype, shard_bytes)
    return _finish(unfinished, folder)


@contextlib.contextmanager
def in_host_memory() -> Iterator[jax.sharding.Sharding | None]:
    """Places new arrays in the host's memory; gives the sharding that does so for loaded ones, or
    None where JAX_PLATFORMS leaves out the CPU."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        yield None
        return
    with jax.default_device(device):
        yield jax.sharding.SingleDeviceSharding(device)


def check_target(folder: str | Path) -> None:
    """Checks that `export` can write to a folder, before a policy is loaded.

    Raises:
      UserError: `folder` is in a bucket, or exists and is not an empty folder.
      OSError: the folder cannot be made.
    """
    if storage.is_remote(folder):
        raise UserError(f"{folder}: export writes to a local folder; copy it to the bucket then")
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; name another one")
    _unfinished(folder).rmdir()


def _unfinished(folder: Path) -> Path:
    """Makes the empty folder beside `folder` that files are written to, and returns it."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    return unfinished


def _finish(unfinished: Path, folder: Path) -> Path:
    # safetensors makes files that only their owner may read.
    (probe := unfinished / "mode").touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in unfinished.iterdir():
        path.chmod(mode)
    if not folder.exists():
        return unfinished.rename(folder)
    # The folder may be the one that the user is in. Programs look for config.json first.
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
        path.rename(folder / path.name)
    unfinished.rmdir()
    return folder


def stored_tensors(
    params: models.Params, config: models.ModelConfig, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields tensors in Hugging Face's names and layout, one at a time."""
    family = names.of(config)
    target = np.dtype(jax.numpy.dtype(dtype))

    def find(path: str) -> Any:
        return functools.reduce(lambda tree, key: tree[key], path.split("/"), params)

    def stored(path: str, layer: int) -> np.ndarray:
        one = find(path)
        if path.startswith("layers/"):
            one = jax.tree.map(lambda x: x[layer], one)
        if isinstance(one, lora.Adapted):
            one = one.base.astype(jax.numpy.float32) + lora.difference(one)
        ours = np.asarray(one).astype(target)
        return np.ascontiguousarray(names.layout(path, ours.shape).to_stored(ours))

    in_fused = {path for paths in family.fused.values() for path in paths}
    for path, template in family.hf.items():
        try:
            find(path)
        except KeyError:  # optional, such as the head of a tied model
            continue
        if path not in in_fused:
            for layer in range(config.num_layers if path.startswith("layers/") else 1):
                yield template.format(layer=layer), stored(path, layer)
    for template, paths in family.fused.items():
        for layer in range(config.num_layers):
            parts = [stored(path, layer) for path in paths]
            yield template.format(layer=layer), np.concatenate(parts)


def _write_tensors(policy: Policy, folder: Path, dtype: str, shard_bytes: int) -> None:
    from safetensors.numpy import save_file

    shards: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    total = 0

    def flush():
        # The final names include the number of shards, which is not known yet.
        save_file(pending, folder / f"{len(shards)}.part", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    params = lora.dequantize_base(policy.params)
    for name, tensor in stored_tensors(params, policy.config, dtype):
        size = sum(t.nbytes for t in pending.values())
        if pending and size + tensor.nbytes > shard_bytes:
            flush()
        pending[name] = tensor
        total += tensor.nbytes
    flush()

    if len(shards) == 1:
        (folder / "0.part").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file_name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"{i}.part").rename(folder / file_name)
        weight_map |= dict.fromkeys(shard, file_name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _special_ids(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": sorted(vocabulary.eos_ids),
        "pad_token_id": vocabulary.pad_id,
    }


def _write_tokenizer(policy: Policy, folder: Path) -> None:
    vocabulary = policy.vocabulary
    (folder / "tokenizer.json").write_bytes(to_tokenizer_json(vocabulary))
    if isinstance(vocabulary, SentencePieceVocabulary):
        (folder / vocabulary.file_name).write_bytes(vocabulary.model)
    token = lambda i: None if i is None else vocabulary.token(i)
    settings = {
        "model_max_length": policy.config.max_length,
        "bos_token": token(vocabulary.bos_id),
        "eos_token": token(min(vocabulary.eos_ids)),
        "pad_token": token(vocabulary.pad_id),
        "clean_up_tokenization_spaces": False,
        **policy.hub.tokenizer,
        # The original's class may add tokens in its own way; tokenizer.json says how here.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.add_bos,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
