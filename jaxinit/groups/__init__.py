"""Initializations of several leaves at once: what one tensor alone cannot know.

Each function takes a tree and rules, and returns ``(params, report)``. A rule is a pair
(pattern, role): the pattern matches whole paths, and leaves whose patterns hold the
same texts in their named groups belong together.

>>> import jax, jax.numpy as jnp
>>> from jaxinit import groups
>>> block = {"query": jnp.zeros((16, 2, 8)), "key": jnp.zeros((16, 2, 8))}
>>> rules = [("(?P<block>.*)/query", "query"), ("(?P<block>.*)/key", "key")]
>>> params = {"h_0": block, "h_1": block}
>>> new, report = groups.mimetic(params, rules, key=jax.random.key(0))
>>> report.records()[0]["partner"]
'h_0/query'
"""

from jaxinit.groups._asymmetric import randomized_asymmetric
from jaxinit.groups._hippo import hippo, s5
from jaxinit.groups._lora import lora
from jaxinit.groups._lstm import lstm_gates
from jaxinit.groups._mimetic import mimetic
from jaxinit.groups._recurrences import lru, mamba
from jaxinit.groups._setting import GroupReport
from jaxinit.groups._tied import tied_embedding
from jaxinit.groups._units import select_units
from jaxinit.groups._weight_norm import weight_norm

__all__ = [
    "randomized_asymmetric",
    "mimetic",
    "lru",
    "s5",
    "hippo",
    "mamba",
    "lstm_gates",
    "lora",
    "tied_embedding",
    "weight_norm",
    "select_units",
    "GroupReport",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    globals()[_name].__module__ = __name__
