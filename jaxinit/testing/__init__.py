"""Assertions about initial values, each with a bound derived from a failure rate.

An assertion about random draws takes ``failure_rate``, the probability that it fails on
draws that are sound, and turns it into its bound. The default, 1e-9, is for test suites
that run for years; nothing here has a tolerance to be tuned until the test passes.

Every assertion works on concrete arrays and, inside a function wrapped by
:func:`chex.chexify`, on traced ones, with the same numbers in its message. What can be
known without values (shapes, dtypes, options) is refused at once, under tracing too.
:func:`chex.disable_asserts` switches these off along with chex's own.

>>> import chex, jax
>>> from jaxinit import initializers, testing
>>> @chex.chexify
... @jax.jit
... def draw(key):
...     kernel = initializers.lecun_normal()(key, (256, 128))
...     testing.assert_moments(kernel, variance=1 / 256)
...     return kernel
>>> kernel = draw(jax.random.key(0))
>>> draw.wait_checks()
>>> testing.assert_moments(kernel, variance=1 / 128)
Traceback (most recent call last):
    ...
AssertionError: 32768 float32 draws do not have the stated moments: mean ...
"""

from jaxinit.testing._draws import assert_follows, assert_moments
from jaxinit.testing._layers import assert_variance_preserved
from jaxinit.testing._signal import assert_signal
from jaxinit.testing._structure import assert_orthogonal, assert_symmetry_broken
from jaxinit.testing._trees import assert_trees_identical

__all__ = [
    "assert_moments",
    "assert_follows",
    "assert_variance_preserved",
    "assert_signal",
    "assert_orthogonal",
    "assert_symmetry_broken",
    "assert_trees_identical",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    globals()[_name].__module__ = __name__
