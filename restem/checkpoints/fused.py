"""Fused tensors: several of our matrices that a file stores one below the other (Phi)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from restem import models
from restem.checkpoints import names
from restem.checkpoints.tensors import Source
from restem.errors import UserError
from restem.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class SplitSource:
    """The tensors of a source, with the parts of fused tensors under names of their own."""

    source: Source
    config: ModelConfig

    @property
    def path(self) -> Any:
        return self.source.path

    @functools.cached_property
    def _parts(self) -> dict[str, tuple[str, slice]]:
        """Name of a part -> fused tensor and the part's rows in it."""
        family = names.of(self.config)
        shapes = models.param_shapes(self.config)
        found = {}
        for fused, leaves in family.fused.items():
            start = 0
            for path in leaves:
                leaf: Any = functools.reduce(lambda tree, key: tree[key], path.split("/"), shapes)
                stop = start + names.layout(path, leaf.shape[1:]).stored_shape(leaf.shape[1:])[0]
                for layer in range(self.config.num_layers):
                    part = family.hf[path].format(layer=layer)
                    found[part] = (fused.format(layer=layer), slice(start, stop))
                start = stop
        return found

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes = dict(self.source.shapes())
        rows: dict[str, int] = {}
        for part, (fused, of_part) in self._parts.items():
            if fused in shapes:
                shapes[part] = (of_part.stop - of_part.start, *shapes[fused][1:])
                rows[fused] = of_part.stop
        for fused, count in rows.items():
            found = shapes.pop(fused)
            if found[0] != count:
                raise UserError(
                    f"{self.path}: {fused} has shape {list(found)}, but the config says "
                    f"{[count, *found[1:]]}; config and tensors do not belong together"
                )
        return shapes

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Returns rows of a tensor or of a part."""
        if name not in self._parts:
            return self.source.read(name, rows)
        fused, of_part = self._parts[name]
        start, stop, _ = rows.indices(of_part.stop - of_part.start)
        return self.source.read(fused, slice(of_part.start + start, of_part.start + stop))
