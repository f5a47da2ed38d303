"""Initializers: ``(key, shape, dtype=None, out_sharding=None) -> Array``.

Every name of ``jax.nn.initializers`` and ``flax.linen.initializers`` is here with the
same signature and, for float32, float64 and complex, the same bits.
"""

from jaxinit.initializers._combinators import blocked, scaled, stacked
from jaxinit.initializers._fans import Fans, fans
from jaxinit.initializers._initializer import Initializer
from jaxinit.initializers._named_scalings import (
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    xavier_normal,
    xavier_uniform,
)
from jaxinit.initializers._orthogonal import delta_orthogonal, orthogonal
from jaxinit.initializers._patterns import constant, ones, ones_init, zeros, zeros_init
from jaxinit.initializers._samplers import normal, truncated_normal, uniform
from jaxinit.initializers._scaling import variance_scaling

__all__ = [
    "Initializer",
    "Fans",
    "fans",
    "variance_scaling",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "glorot_normal",
    "glorot_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "truncated_normal",
    "uniform",
    "orthogonal",
    "delta_orthogonal",
    "scaled",
    "stacked",
    "blocked",
    "constant",
    "zeros",
    "zeros_init",
    "ones",
    "ones_init",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    if callable(_item := globals()[_name]) and not isinstance(_item, Initializer):
        _item.__module__ = __name__
