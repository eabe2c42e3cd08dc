"""The built-in tasks. Importing this package adds them all, without TensorFlow.

`restem.data.registry.names()` lists them.
"""

from restem.data import sources  # noqa: F401  so that gin knows its bindings
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
