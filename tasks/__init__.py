"""The built-in tasks. Importing this adds them all, and costs no TensorFlow.

`restem.data.registry.names()` lists them.
"""

from restem.data import jsonl, sources  # noqa: F401  so that gin knows their bindings
from restem.tasks import (  # noqa: F401
    apps,
    arithmetic,
    bbh,
    gsm8k,
    humaneval,
    hungarian,
    math,
    mbpp,
)
