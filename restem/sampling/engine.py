"""The sampler: many samples of many problems behind one prefix.

Three things make it fast. The prefix's keys and values are computed once and have no batch
dimension. A question is prefilled once for all its samples. And a finished sample's slot goes to
the next one at once, so that short samples do not wait for long ones.

A sample is a function of (policy, prefix, question, problem key, sample index, seed): neither the
number of slots nor the other samples in the batch change anything but rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from restem import models, partitioning
from restem.sampling.call import Call, round_up
from restem.sampling.filters import Sampling
from restem.sampling.requests import Completion, Request
from restem.sampling.stopping import Stops

_PROGRAMS: dict[Any, Any] = {}
"""Compiled programs of all engines: those of other settings sample with the same model."""
_KEPT_PROGRAMS = 64

BUCKET = 128
"""Columns are multiples of this on accelerators: a TPU's lanes."""


@dataclasses.dataclass
class Stats:
    """What sampling took so far; the sums over all calls of an engine."""

    tokens: int = 0
    """Sampled tokens, those of finished samples' tails excluded."""
    samples: int = 0
    """Finished samples."""
    prefill_tokens: int = 0
    """Tokens of prefixes and questions, without padding."""
    prefill_seconds: float = 0.0
    """Prefixes, questions and putting samples into slots."""
    decode_seconds: float = 0.0
    """Decode steps and the host's part between them."""
    compile_seconds: float = 0.0
    """Compilation, in none of the others."""
    slot_steps: int = 0
    """Slots times decode steps."""

    @property
    def slot_utilisation(self) -> float:
        """Share of slot-steps that gave a token of a sample."""
        return self.tokens / self.slot_steps if self.slot_steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens a second, prefill included and compilation not."""
        seconds = self.prefill_seconds + self.decode_seconds
        return self.tokens / seconds if seconds else 0.0

    def to_dict(self) -> dict[str, float]:
        return {
            **dataclasses.asdict(self),
            "slot_utilisation": self.slot_utilisation,
            "tokens_per_second": self.tokens_per_second,
        }


class Engine:
    """Samples from a policy. Configuration here, data to `sample`."""

    def __init__(
        self,
        config: models.ModelConfig,
        vocabulary: Any,
        *,
        sampling: Sampling,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        stop_after: Sequence[str] = (),
        slots: int | None = None,
        decode_steps: int | None = None,
        prefill_tokens: int | None = None,
        ring: int = 128,
        bucket: int | None = None,
        unstacked: bool | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """An engine; nothing is compiled or allocated yet.

        Args:
          config: of the model.
          vocabulary: with `eos_ids` and `token_bytes(id) -> bytes`.
          sampling: temperature and filters.
          max_new_tokens: samples are cut off here; a request may ask for less.
          stop: a sample ends at the first of these strings, which is not part of its text.
          stop_after: a sample ends right after the first of these, which is the last of its text.
          slots: samples decoded at a time; None is 128 on a CPU, and elsewhere as many as the
            device has memory for, at most 1024 for each part that rows are split in. Fewer are
            used where fewer samples are asked for.
          decode_steps: tokens sampled between visits of the host, which is when finished slots
            get new samples; None is 1 on a CPU and 8 elsewhere.
          prefill_tokens: question tokens prefilled at a time, padding included; None chooses by
            device.
          ring: columns for sampled tokens to begin with. They are doubled when a sample needs more,
            so that attention does not look at columns no sample has reached.
          bucket: columns of prefix, questions and ring are multiples of this; None is 16 on a CPU
            and `BUCKET` elsewhere, where columns cost less than programs of more shapes.
          unstacked: run the layers as a Python loop over separate arrays instead of a scan over
            stacked ones; None does so on a CPU, where it is faster and compiles slower.
          mesh: slots are split over its data and fsdp axes, heads over tensor; None is one device.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} is not positive")
        on_cpu = (mesh.devices.flat[0] if mesh else jax.devices()[0]).platform == "cpu"
        self.config = config
        self.vocabulary = vocabulary
        self.sampling = sampling
        self.max_new_tokens = max_new_tokens
        self.stops = Stops.of(stop, stop_after)
        self.slots = slots or (128 if on_cpu else None)
        self.decode_steps = decode_steps or (1 if on_cpu else 8)
        self.prefill_tokens = prefill_tokens or (512 if on_cpu else 8192)
        self.bucket = bucket or (16 if on_cpu else BUCKET)
        self.ring = min(round_up(ring, self.bucket), round_up(max_new_tokens, self.bucket))
        self.unstacked = on_cpu if unstacked is None else unstacked
        self.mesh = mesh
        self.stats = Stats()

    def sample(
        self,
        params: models.Params,
        prefix: Sequence[int],
        requests: Sequence[Request],
        *,
        key: jax.Array | int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Completion]:
        """Samples all requests, and yields each completion as soon as it is there.

        Args:
          params: of the policy, layers stacked. Nothing of an earlier call is kept, so they may
            be others at every call.
          prefix: ids that come before every question, BOS included; may be empty.
          requests: what to sample.
          key: the seed, an integer or a PRNG key.
          on_progress: called with the numbers of finished and of all samples, after every visit of
            the device.

        Yields:
          Completions in the order in which they finish, which depends on the data alone.

        Raises:
          UserError: prompt and longest sample together exceed the model's length, or a prompt is
            empty.
        """
        requests = list(requests)
        with partitioning.use(self.mesh):
            call = Call(self, params, list(prefix), requests, key)
        try:
            while not call.scheduler.done:
                with partitioning.use(self.mesh):
                    completions = call.advance()
                # Whoever takes them does so while the device decodes on.
                yield from completions
                if on_progress is not None:
                    on_progress(call.scheduler.finished, call.scheduler.total)
        finally:
            # Left early, on a mesh of several hosts: none may go while others compute with it.
            jax.block_until_ready(call.drawn)

    def run(self, function: Callable, *args: Any, donate: tuple[int, ...] = (), **static: Any):
        """Calls a function of `sampling.steps`, compiled once a set of shapes for all engines."""
        leaves, tree = jax.tree.flatten(args)
        shapes = tuple((a.shape, a.dtype, getattr(a, "sharding", None)) for a in leaves)
        signature = (function, tuple(static.items()), tree, shapes, self.mesh)
        program = _PROGRAMS.get(signature)
        if program is None:
            start = time.perf_counter()
            jitted = jax.jit(functools.partial(function, **static), donate_argnums=donate)
            program = jitted.lower(*args).compile()
            self.stats.compile_seconds += time.perf_counter() - start
            while len(_PROGRAMS) >= _KEPT_PROGRAMS:
                del _PROGRAMS[next(iter(_PROGRAMS))]  # the oldest
            _PROGRAMS[signature] = program
        return program(*args)
