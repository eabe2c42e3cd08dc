"""Reads GGUF files: header, vocabulary, and tensors of every type that `gguf.quants` dequantises.

The header is parsed here and not by `gguf.GGUFReader`, which makes a NumPy array of every token
of the vocabulary (16 s for Gemma's 262,144 on the machine this was written on). The format is
described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from restem.checkpoints import names
from restem.errors import UserError
from restem.models.config import ModelConfig, RopeScaling

# struct codes of GGUF's scalar types; 8 is a string, 9 an array.
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in the file."""

    shape: tuple[int, ...]
    """In NumPy's order, [out, in]."""
    kind: int
    """A `gguf.GGMLQuantizationType`."""
    offset: int
    """First byte in the file."""
    row_bytes: int
    """Bytes of one row (of all tensor, if it has one dimension)."""


class GGUFFile:
    """An open GGUF file: `metadata`, and tensors read a few rows at a time."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist; gguf: takes the path of a GGUF file")
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; gguf: takes a file (for a folder, use hf:)")
        try:
            self.metadata, self.tensors = _parse_header(self.path)
        except (struct.error, ValueError, UnicodeDecodeError, EOFError) as error:
            raise UserError(
                f"{self.path} is not a whole GGUF file ({error}); copy or download it again"
            ) from error

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        # Long-context factors of Llama 3 are read by `config` and are not a parameter.
        return {n: t.shape for n, t in self.tensors.items() if n != "rope_freqs.weight"}

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Rows of a tensor as float32."""
        from gguf import GGMLQuantizationType, quants

        tensor = self.tensors[name]
        start, stop, _ = rows.indices(tensor.shape[0])
        if len(tensor.shape) == 1:
            start, count = 0, 1
        else:
            count = stop - start
        with self.path.open("rb") as file:
            file.seek(tensor.offset + start * tensor.row_bytes)
            raw = file.read(count * tensor.row_bytes)
        if len(raw) != count * tensor.row_bytes:
            raise UserError(f"{self.path} ends inside {name}; copy or download it again")
        kind = GGMLQuantizationType(tensor.kind)
        packed = np.frombuffer(raw, np.uint8).reshape(count, tensor.row_bytes)
        try:
            values = quants.dequantize(packed, kind)
        except NotImplementedError as error:
            raise UserError(
                f"{self.path}: {name} is of type {kind.name}, which the gguf package does not "
                "dequantise; use another quantisation of the model"
            ) from error
        if len(tensor.shape) == 1:
            return values.reshape(tensor.shape)[rows]
        return values.reshape(count, *tensor.shape[1:])


class _Header:
    """A cursor over the header's bytes."""

    def __init__(self, file):
        self._file = file
        self._data = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        while len(self._data) - self._at < size:
            more = self._file.read(max(1 << 20, size))
            if not more:
                raise EOFError("it ends inside its header")
            self._data = self._data[self._at :] + more
            self._at = 0
        self._at += size
        return self._data[self._at - size : self._at]

    def scalar(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        return layout.unpack(self.take(layout.size))[0]

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            kind, count = self.scalar("I"), self.scalar("Q")
            if kind in _SCALARS:
                size = struct.calcsize(_SCALARS[kind])
                return np.frombuffer(self.take(size * count), "<" + _SCALARS[kind]).tolist()
            return [self.value(kind) for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"a value of unknown type {kind}")
        return self.scalar(_SCALARS[kind])


def _parse_header(path: epath.Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    with path.open("rb") as file:
        header = _Header(file)
        if header.take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = header.scalar("I")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not 2 or 3")
        tensor_count, value_count = header.scalar("Q"), header.scalar("Q")
        metadata = {}
        for _ in range(value_count):
            key = header.string()
            metadata[key] = header.value(header.scalar("I"))
        infos = []
        for _ in range(tensor_count):
            name = header.string()
            shape = tuple(header.scalar("Q") for _ in range(header.scalar("I")))[::-1]
            infos.append((name, shape, header.scalar("I"), header.scalar("Q")))
        end = file.tell() - (len(header._data) - header._at)
    alignment = metadata.get("general.alignment", 32)
    begin = -(-end // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in infos:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        row = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
        tensors[name] = Tensor(shape, kind, begin + offset, row // block * block_bytes)
    return metadata, tensors


# GGUF architecture -> our family, and the fields in which it differs from Llama.
_GEMMA = {
    "activation": "gelu_tanh",
    "norm_offset": 1.0,
    "norm_eps": 1e-6,
    "scale_embedding": True,
}
_ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "post_norms": True},
    "gemma3": {**_GEMMA, "post_norms": True, "qk_norm": True, "rope_local_theta": 10_000.0},
}
# The two models whose queries are scaled by the residual width a head, as llama.cpp tells them.
_WIDTH_SCALED = {("gemma2", 46), ("gemma3", 62)}


def config(file: GGUFFile) -> ModelConfig:
    """The `ModelConfig` that the metadata and shapes of a GGUF file describe.

    Raises:
      UserError: the architecture, or a variant of it, is not supported.
    """
    architecture: Any = file.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise UserError(
            f"{file.path} is of architecture {architecture!r}; restem reads "
            f"{', '.join(_ARCHITECTURES)}"
        )

    def get(key: str, default: Any = None) -> Any:
        return file.metadata.get(f"{architecture}.{key}", default)

    needed = ("embedding_length", "block_count", "attention.head_count", "feed_forward_length")
    for key in needed:
        if get(key) is None:
            raise UserError(f"{file.path} lacks {architecture}.{key}; its header is not complete")
    embed_dim, num_layers, num_heads, mlp_dim = (get(key) for key in needed)
    if "token_embd.weight" not in file.tensors:
        raise UserError(f"{file.path} has no token_embd.weight; is it a part of a split file?")
    fields = {
        "norm_eps": get("attention.layer_norm_rms_epsilon", 1e-5),
        **_ARCHITECTURES[architecture],
    }
    if get("attention.layer_norm_rms_epsilon") is not None:
        # float32 in the file: take the decimal that was meant.
        fields["norm_eps"] = float(f"{get('attention.layer_norm_rms_epsilon'):.6g}")
    local_layers: tuple[bool, ...] = ()
    window = get("attention.sliding_window") or None
    if window and architecture == "gemma2":
        local_layers = tuple(layer % 2 == 0 for layer in range(num_layers))
    elif window and architecture == "gemma3":
        local_layers = tuple((layer + 1) % 6 != 0 for layer in range(num_layers))
    elif window:
        local_layers = (True,) * num_layers
    head_dim = get("attention.key_length", embed_dim // num_heads)
    if get("attention.value_length", head_dim) != head_dim:
        raise UserError(f"{file.path}: keys and values of different widths are not supported")
    if (architecture, num_layers) in _WIDTH_SCALED:
        fields["query_scale"] = (embed_dim / num_heads) ** -0.5
    return ModelConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_kv_heads=get("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        mlp_dim=mlp_dim,
        family=architecture,
        max_length=get("context_length", 8192),
        tied_head="output.weight" not in file.tensors,
        rope_theta=get("rope.freq_base", 1_000_000.0 if architecture == "gemma3" else 10_000.0),
        rope_scaling=_rope_scaling(file, get),
        window=window,
        local_layers=local_layers,
        attention_softcap=get("attn_logit_softcapping"),
        final_softcap=get("final_logit_softcapping"),
        **fields,
    )


def _rope_scaling(file: GGUFFile, get) -> RopeScaling | None:
    kind = get("rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling("linear", factor=get("rope.scaling.factor"))
    if kind != "none":
        raise UserError(f"{file.path}: rope scaling {kind!r} is not supported (linear, llama3 are)")
    if "rope_freqs.weight" not in file.tensors:
        return None
    # Llama 3.1 and later: llama.cpp stores what each frequency is divided by. All released models
    # share the other three constants, so the largest divisor is the factor; check the rest.
    from restem.models.attention import inverse_frequencies

    divisors = file.read("rope_freqs.weight")
    scaling = RopeScaling("llama3", factor=float(divisors.max()), original_length=8192)
    plain = ModelConfig(
        vocab_size=1, num_layers=1, embed_dim=1, num_heads=1, num_kv_heads=1, mlp_dim=1,
        head_dim=2 * len(divisors), rope_theta=get("rope.freq_base", 10_000.0),
    )  # fmt: skip
    scaled = plain.replace(rope_scaling=scaling)
    expected = np.asarray(inverse_frequencies(plain)) / np.asarray(inverse_frequencies(scaled))
    if not np.allclose(divisors, expected, rtol=1e-3):
        raise UserError(
            f"{file.path}: rope_freqs.weight is not Llama 3's stretching of rotary frequencies; "
            "load the model from its Hugging Face folder"
        )
    return scaling


def template(config: ModelConfig) -> Mapping[str, str]:
    return names.of(config).gguf


def transform(config: ModelConfig):
    return functools.partial(names.gguf_transform, config)
