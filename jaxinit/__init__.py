"""Functional initialization and transfer learning for JAX and Flax.

Keys and pytrees in, pytrees and reports out. ``jaxinit.initializers`` replaces
``jax.nn.initializers`` and ``flax.linen.initializers``; ``jaxinit.testing`` holds
assertions about random values whose bounds follow from a stated failure rate.
"""

from importlib.metadata import version as _version

from jaxinit import initializers

__version__ = _version("jaxinit")

__all__ = ["initializers"]
