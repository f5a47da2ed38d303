"""Functional initialization and transfer learning for JAX and Flax.

Keys and pytrees in, pytrees and reports out. ``jaxinit.initializers`` replaces
``jax.nn.initializers`` and ``flax.linen.initializers``; ``jaxinit.materialize`` carries
out an init function leaf by leaf, with the values of ``jax.jit``; ``jaxinit.testing``
holds assertions about random values whose bounds follow from a stated failure rate.
"""

from importlib.metadata import version as _version

from jaxinit import initializers
from jaxinit._materialize import materialize

__version__ = _version("jaxinit")

__all__ = ["initializers", "materialize"]
