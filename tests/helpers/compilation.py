"""Quick compilation, for tests that spend most of their time compiling."""

import jax
from absl.testing import absltest

_DEFAULTS = {
    "jax_disable_most_optimizations": False,
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 1.0,
}


def begin() -> None:
    """From now on, programs are optimised little, and equal ones are compiled once."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", absltest.TEST_TMPDIR.value + "/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def end() -> None:
    """Undoes `begin`."""
    for name, value in _DEFAULTS.items():
        jax.config.update(name, value)


def compile_quickly(test: absltest.TestCase) -> None:
    """Compiles quickly until the test ends."""
    test.addCleanup(end)
    begin()
