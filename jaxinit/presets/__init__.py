"""Starts of whole models: by depth, and by width.

A preset takes a function of parameters and data, as everything about the signal does,
and tells from the program what each leaf is: an embedding, a query, the last weight of
a residual branch in block 3 of 12. So it works on any model that has the leaves, and
says what is missing where one does not.

>>> import jax, jax.numpy as jnp
>>> from jaxinit import presets
>>> def f(params, x):
...     return x + jax.nn.gelu(x @ params["in"]) @ params["out"]
>>> params = {"in": jnp.zeros((8, 32)), "out": jnp.zeros((32, 8))}
>>> x = jnp.ones((2, 8))
>>> params, report = presets.gpt2(f, params, x, key=jax.random.key(0))
>>> [row["role"] for row in report.records()]
['feed_forward_in', 'feed_forward_out']
"""

from jaxinit.presets._anatomy import ROLES
from jaxinit.presets._coordinates import CoordinateReport, coordinate_check
from jaxinit.presets._deep import deepnorm, subln
from jaxinit.presets._gates import fixup, layerscale, rezero, skipinit
from jaxinit.presets._language import gpt2, megatron, olmo, torchtitan
from jaxinit.presets._multipliers import Multiplier
from jaxinit.presets._parametrizations import completep, mup, standard
from jaxinit.presets._small import small_init, t5, wang
from jaxinit.presets._spec import Spec

__all__ = [
    "ROLES",
    "gpt2",
    "megatron",
    "olmo",
    "torchtitan",
    "small_init",
    "wang",
    "t5",
    "fixup",
    "skipinit",
    "rezero",
    "layerscale",
    "deepnorm",
    "subln",
    "mup",
    "completep",
    "standard",
    "Spec",
    "Multiplier",
    "coordinate_check",
    "CoordinateReport",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    if callable(_item := globals()[_name]):
        _item.__module__ = __name__
