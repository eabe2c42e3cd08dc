"""JAX's coordination service: what the hosts of a job tell one another, as keys and values."""

from __future__ import annotations

import jax

EXIT_LATE_HOST = 76
"""Exit code where another host was late or died."""


class LateHostError(RuntimeError):
    """Other hosts did not come in time, or died; the message names them."""

    exit_code = EXIT_LATE_HOST


def several() -> bool:
    """Whether this process is one of a job of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def client():
    """The service; JAX has no public name for it, and None is its value outside a job."""
    from jax._src import distributed

    return distributed.global_state.client


def put(key: str, value: str) -> None:
    """Sets a key, which may have a value already."""
    client().key_value_set(key, value, allow_overwrite=True)


def read(place: str) -> dict[int, str]:
    """The values of PLACE/0, PLACE/1, ..., which hosts have put there, by process.

    Raises:
      LateHostError: the first host, where the service runs, does not answer.
    """
    try:
        found = client().key_value_dir_get(place + "/")
    except jax.errors.JaxRuntimeError as e:
        text = " ".join(str(e).split())[:300]
        raise LateHostError(f"host 0, which coordinates, cannot be reached: {text}") from e
    return {int(key.rsplit("/", 1)[1]): value for key, value in found}


def is_set(key: str) -> bool:
    """Whether a key has a value."""
    try:
        client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # NOT_FOUND
        return False
    return True
