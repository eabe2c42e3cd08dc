"""Quick compilation, for tests that spend most of their time compiling."""

import jax
from absl.testing import absltest


def begin() -> None:
    """From now on, programs are optimised little: these run for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)


def end() -> None:
    """Undoes `begin`."""
    jax.config.update("jax_disable_most_optimizations", False)


def compile_quickly(test: absltest.TestCase) -> None:
    """Compiles quickly until the test ends."""
    test.addCleanup(end)
    begin()
