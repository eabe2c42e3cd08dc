"""The sampler: many samples of many problems behind one prefix.

Three properties make it fast. The keys and values of the prefix are computed once and have no batch
dimension. A question is prefilled once for all its samples. The slot of a finished sample is
refilled at once, so that short samples do not wait for long ones.

A sample is a function of (policy, prefix, question, problem key, sample index, seed): the number of
slots and the other samples in the batch change nothing but rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence

import jax

from restem import models, partitioning
from restem.sampling.filters import Sampling
from restem.sampling.options import Options, Tuning
from restem.sampling.programs import Programs
from restem.sampling.requests import Completion, Request
from restem.sampling.session import Session
from restem.sampling.stats import Stats
from restem.sampling.stopping import Stops, TokenBytes
from restem.sampling.widths import round_up

BUCKET = 128
"""Divisor of numbers of columns on accelerators: the lanes of a TPU."""


class Engine:
    """Samples from a policy: takes options when it is built, and data in `sample`."""

    def __init__(
        self,
        config: models.ModelConfig,
        vocabulary: TokenBytes,
        *,
        sampling: Sampling,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        stop_after: Sequence[str] = (),
        slots: int | None = None,
        tuning: Tuning = Tuning(),
        mesh: jax.sharding.Mesh | None = None,
    ):
        """Configures an engine; nothing is compiled or allocated yet.

        Args:
          config: decoder of the policy.
          vocabulary: vocabulary of the policy.
          sampling: temperature and filters.
          max_new_tokens: cut-off of samples in tokens; a request may ask for less.
          stop: a sample ends at the first of these strings, which is not part of its text.
          stop_after: a sample ends right after the first of these strings, which ends its text.
          slots: samples decoded at a time; None is 128 on a CPU, and elsewhere as many as fit in
            memory, at most 1024 for each part that rows are split into. With fewer samples to
            draw, fewer slots are used.
          tuning: what changes speed and memory only.
          mesh: devices; slots are split over its data and fsdp axes, heads over tensor. None is one
            device.

        Raises:
          ValueError: `max_new_tokens` is not positive.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} is not positive")
        on_cpu = (mesh.devices.flat[0] if mesh else jax.devices()[0]).platform == "cpu"
        # On accelerators columns cost less than programs of more shapes.
        bucket = 16 if on_cpu else BUCKET
        unstacked = on_cpu if tuning.unstacked is None else tuning.unstacked
        start_small = tuning.start_small
        if start_small is None:
            start_small = on_cpu and mesh is None and unstacked  # a batch grows without a program
        self.options = Options(
            config=config,
            vocabulary=vocabulary,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            stops=Stops.of(stop, stop_after),
            slots=slots or (128 if on_cpu else None),
            decode_steps=tuning.decode_steps or (1 if on_cpu else 8),
            prefill_tokens=tuning.prefill_tokens or (512 if on_cpu else 8192),
            bucket=bucket,
            ring=min(round_up(tuning.ring, bucket), round_up(max_new_tokens, bucket)),
            unstacked=unstacked,
            start_small=start_small,
            reserved=tuning.reserved,
            mesh=mesh,
        )
        self.stats = Stats()

    def sample(
        self,
        params: models.Params,
        prefix: Sequence[int],
        requests: Sequence[Request],
        *,
        key: jax.Array | int,
        on_progress: Callable[[int, int], None] | None = None,
        on_wait: Callable[[str], None] = lambda what: None,
    ) -> Iterator[Completion]:
        """Draws the samples of all requests, and yields each completion as soon as it is finished.

        Args:
          params: parameters of the policy, layers stacked. Nothing is kept from one call to the
            next, so they may differ from call to call.
          prefix: token ids before every question, including BOS; may be empty.
          requests: samples to draw.
          key: seed, as an integer or a PRNG key.
          on_progress: called after every visit of the device, with the number of finished samples
            and the number of all samples.
          on_wait: called with what is being waited for, such as "compiling program 3 of 9: decode".

        Yields:
          Completions in the order in which they finish, which depends on the data alone.

        Raises:
          UserError: a prompt and its longest sample exceed the model's length, or a prompt is
            empty.
        """
        found = self.visits(
            params, prefix, requests, key=key, on_progress=on_progress, on_wait=on_wait
        )
        with contextlib.closing(found):
            for completions in found:
                yield from completions

    def visits(
        self,
        params: models.Params,
        prefix: Sequence[int],
        requests: Sequence[Request],
        *,
        key: jax.Array | int,
        on_progress: Callable[[int, int], None] | None = None,
        on_wait: Callable[[str], None] = lambda what: None,
    ) -> Generator[list[Completion], None, None]:
        """Does what `sample` does, but yields after every visit of the device, if only []."""
        mesh = self.options.mesh
        programs = Programs(mesh, self.stats, on_wait)
        with partitioning.use(mesh):
            session = Session(
                self.options, programs, self.stats, params, list(prefix), list(requests), key
            )
        try:
            while not session.scheduler.done:
                with partitioning.use(mesh):
                    completions = session.advance()
                # The caller uses them while the device decodes the next tokens.
                yield completions
                if on_progress is not None:
                    on_progress(session.scheduler.finished, session.scheduler.total)
        finally:
            # If the caller stops early: on a mesh of several hosts, no host may leave while others
            # still compute with it.
            session.wait()
