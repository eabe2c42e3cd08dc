"""Lets pytest run absltest classes: absl's flags are parsed as absl's own main would."""

import os

from absl import flags

# Before any test imports JAX: tests are written for the CPU, and libtpu, where it is installed for
# `restem plan`, would look for a TPU first.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_configure(config):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
