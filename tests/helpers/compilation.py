"""Quick compilation, for tests that spend most of their time compiling."""

import jax
from absl.testing import absltest


def compile_quickly(test: absltest.TestCase) -> None:
    """Until the test ends, programs are optimised little, and equal ones are compiled once."""
    for name, value, before in (
        ("jax_disable_most_optimizations", True, False),
        ("jax_compilation_cache_dir", absltest.TEST_TMPDIR.value + "/compiled", None),
        ("jax_persistent_cache_min_compile_time_secs", 0.0, 1.0),
    ):
        test.addCleanup(jax.config.update, name, before)
        jax.config.update(name, value)
