"""Compiled programs, shared by all engines of the process."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable
from typing import Any

import jax

from restem.sampling.stats import Stats

_PROGRAMS: collections.OrderedDict[Any, Any] = collections.OrderedDict()
"""Compiled programs by signature, least recently used first, of all engines: those of other
settings sample with the same model."""
_KEPT_PROGRAMS = 64


class Programs:
    """Runs functions of `sampling.steps`, each compiled once per set of shapes."""

    def __init__(
        self,
        mesh: jax.sharding.Mesh | None,
        stats: Stats,
        on_wait: Callable[[str], None] = lambda what: None,
    ):
        """Programs for `mesh`; `on_wait` is told what is being compiled."""
        self._mesh = mesh
        self._stats = stats
        self._on_wait = on_wait

    def run(self, function: Callable, *args: Any, donate: tuple[int, ...] = (), **static: Any):
        """Calls `function` with array arguments `args` and static arguments `static`."""
        leaves, tree = jax.tree.flatten(args)
        shapes = tuple((a.shape, a.dtype, getattr(a, "sharding", None)) for a in leaves)
        signature = (function, tuple(sorted(static.items())), tree, shapes, self._mesh)
        program = _PROGRAMS.get(signature)
        if program is None:
            name = function.__name__.strip("_").replace("_", " ")
            self._on_wait(f"compiling program {self._stats.programs + 1}: {name}")
            # What the device is still doing is not time spent compiling.
            jax.block_until_ready(leaves)
            start = time.perf_counter()
            jitted = jax.jit(functools.partial(function, **static), donate_argnums=donate)
            program = jitted.lower(*args).compile()
            self._stats.compile_seconds += time.perf_counter() - start
            self._stats.programs += 1
            while len(_PROGRAMS) >= _KEPT_PROGRAMS:
                _PROGRAMS.popitem(last=False)
            _PROGRAMS[signature] = program
        _PROGRAMS.move_to_end(signature)
        return program(*args)
