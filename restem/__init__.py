"""restem: ReST-EM self-training (arXiv 2312.06585) in JAX.

Importing this package is cheap on purpose: it pulls in neither JAX nor TensorFlow, because the
verification workers import it too.
"""

__version__ = "0.1.0"
