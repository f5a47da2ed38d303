"""Functional initialization and transfer learning for JAX and Flax.

Keys and pytrees in, pytrees and reports out. ``jaxinit.initializers`` replaces
``jax.nn.initializers`` and ``flax.linen.initializers``; ``jaxinit.materialize`` gives
the parameters of ``jax.jit(model.init)``, bit for bit, sooner; ``jaxinit.testing``
holds assertions about random values whose bounds follow from a stated failure rate.
"""

from importlib.metadata import version as _version

from jaxinit import initializers
from jaxinit._materialize import materialize

__version__ = _version("jaxinit")

__all__ = ["initializers", "materialize"]

for _function in (materialize,):
    _function.__module__ = __name__
del _function
