"""Lets pytest run absltest classes: absl's flags are parsed as absl's own main would."""

from absl import flags


def pytest_configure(config):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
