"""The built-in tasks. Importing this adds them all, and costs no TensorFlow.

`restem.data.registry.names()` lists them.
"""

from restem.tasks import arithmetic, gsm8k, math  # noqa: F401

from restem.data import jsonl, sources  # noqa: F401  so that gin knows their bindings
