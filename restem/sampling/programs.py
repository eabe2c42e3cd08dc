"""Compiled programs, shared by all engines of the process.

Programs are lowered where they are asked for and compiled by threads, so that those that will be
needed together are compiled together, beside whatever the caller does in the meantime.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from restem.sampling.stats import Stats

_PROGRAMS: collections.OrderedDict[Any, Future] = collections.OrderedDict()
"""Compiled programs by signature, least recently used first, of all engines: those of other
settings sample with the same model."""
_KEPT_PROGRAMS = 64


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """The threads that compile; XLA does not hold Python's lock while it compiles."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "compiling")


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
        self.on_wait = on_wait
        self._asked: list[Future] = []

    def prepare(
        self, function: Callable, *args: Any, donate: tuple[int, ...] = (), **static: Any
    ) -> None:
        """Begins to compile what `run` with these arguments would compile, and returns.

        Args:
          function: function of array arguments and static arguments.
          *args: trees of arrays, or of `jax.ShapeDtypeStruct` in place of arrays.
          donate: indices of the arguments whose memory the results may use.
          **static: static arguments.
        """
        leaves, tree = jax.tree.flatten(args)
        signature = self._signature(function, static, leaves, tree)
        if signature not in _PROGRAMS:
            start = time.perf_counter()
            self._compile(signature, function, args, donate, static)
            self._stats.compile_seconds += time.perf_counter() - start

    def run(self, function: Callable, *args: Any, donate: tuple[int, ...] = (), **static: Any):
        """Calls `function` with array arguments `args` and static arguments `static`."""
        leaves, tree = jax.tree.flatten(args)
        signature = self._signature(function, static, leaves, tree)
        program = _PROGRAMS.get(signature)
        if program is None or not program.done():
            # What the device is still doing is not time spent compiling.
            jax.block_until_ready(leaves)
        if program is None or not program.done():
            start = time.perf_counter()
            if program is None:
                program = self._compile(signature, function, args, donate, static)
            name = function.__name__.strip("_").replace("_", " ")
            total = max(1, len(self._asked))  # none of them where an earlier call asked for it
            current = min(total, 1 + sum(future.done() for future in self._asked))
            self.on_wait(f"compiling program {current} of {total}: {name}")
            concurrent.futures.wait((program,))
            self._stats.compile_seconds += time.perf_counter() - start
        if program.exception() is not None:
            _PROGRAMS.pop(signature, None)  # the next call tries again
        else:
            _PROGRAMS.move_to_end(signature)
        return program.result()(*args)

    def close(self) -> None:
        """Forgets the programs whose compilation has not begun."""
        for signature in [s for s, future in _PROGRAMS.items() if future.cancel()]:
            del _PROGRAMS[signature]

    def _signature(self, function, static, leaves, tree) -> Any:
        shapes = tuple((a.shape, a.dtype, _layout(a)) for a in leaves)
        return function, tuple(sorted(static.items())), tree, shapes, self._mesh

    def _compile(self, signature, function, args, donate, static) -> Future:
        jitted = jax.jit(functools.partial(function, **static), donate_argnums=donate)
        lowered = jitted.lower(*args)
        self._stats.programs += 1
        while len(_PROGRAMS) >= _KEPT_PROGRAMS:
            _PROGRAMS.popitem(last=False)
        program = _PROGRAMS[signature] = _pool().submit(lowered.compile)
        self._asked.append(program)
        return program


def _layout(array: Any) -> Any:
    """Returns where an array is, equal for equal layouts; None where nothing depends on it."""
    where = getattr(array, "sharding", None)
    if where is None or where.device_set == {jax.local_devices()[0]}:
        return None
    if not isinstance(where, jax.sharding.NamedSharding):
        return where
    # P("fsdp"), P("fsdp", None) and P(("fsdp",)) are one layout.
    entries = [e[0] if isinstance(e, tuple) and len(e) == 1 else e for e in where.spec]
    while entries and not entries[-1]:
        entries.pop()
    return where.mesh, tuple(entries)
