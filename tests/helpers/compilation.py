"""Quick compilation, for tests that spend most of their time compiling."""

import jax
from absl.testing import absltest


def begin() -> None:
    """From now on, programs are optimised little: these run for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)


def end() -> None:
    """Undoes `begin`, and forgets what was compiled: JAX does not ask how a program was."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


def compile_quickly(test: absltest.TestCase) -> None:
    """Compiles quickly until the test ends."""
    test.addCleanup(end)
    begin()
