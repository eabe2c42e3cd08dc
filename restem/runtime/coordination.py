"""JAX's coordination service: a key-value store through which hosts communicate."""

from __future__ import annotations

import jax

EXIT_LATE_HOST = 76
"""Exit code if another host was late or died."""


class LateHostError(RuntimeError):
    """Other hosts were late or died; the message names them."""

    exit_code = EXIT_LATE_HOST


def several() -> bool:
    """Returns whether this process is one of several that run the same program."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def client():
    """Returns the service, which has no public name in JAX; None for a single process."""
    from jax._src import distributed

    return distributed.global_state.client


def put(key: str, value: str) -> None:
    """Sets a key, overwriting any value it has."""
    client().key_value_set(key, value, allow_overwrite=True)


def read(place: str) -> dict[int, str]:
    """Returns the values that hosts have put at PLACE/0, PLACE/1, ..., by process.

    Raises:
      LateHostError: the primary host, where the service runs, does not answer.
    """
    try:
        found = client().key_value_dir_get(place + "/")
    except jax.errors.JaxRuntimeError as e:
        text = " ".join(str(e).split())[:300]
        raise LateHostError(f"host 0, which coordinates, cannot be reached: {text}") from e
    return {int(key.rsplit("/", 1)[1]): value for key, value in found}


def is_set(key: str) -> bool:
    """Returns whether a key has a value."""
    try:
        client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # NOT_FOUND
        return False
    return True
