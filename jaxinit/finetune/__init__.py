"""Fine-tuning that does what it says: optax transformations in and out.

Everything here speaks in the paths and patterns of the rest of the library, refuses a
rule that matches nothing, and gives the inner transformation trees in which hidden
leaves are ``optax.MaskedNode()``, as ``optax.masked`` does. Updates of hidden leaves
are -0.0, the one number whose addition changes nothing, zeros of either sign included.

>>> import jax.numpy as jnp, optax
>>> from jaxinit import finetune as ft
>>> kernel = jnp.ones((2, 2))
>>> params = {"body": {"kernel": kernel}, "head": {"kernel": kernel}}
>>> optimizer = ft.freeze(optax.adamw(0.1, mask=ft.decayed), "body/.*")
>>> updates, _ = optimizer.update(params, optimizer.init(params), params)
>>> ft.assert_frozen(params, optax.apply_updates(params, updates), "body/.*")
"""

from jaxinit.finetune._anchors import decay_to
from jaxinit.finetune._averages import averaged, ema, soup
from jaxinit.finetune._frozen import assert_frozen, freeze, on_trainable
from jaxinit.finetune._labels import decayed, labels
from jaxinit.finetune._rates import Stacked, layerwise_decay, learning_rates
from jaxinit.finetune._unfreezing import gradual_unfreeze

__all__ = [
    "labels",
    "freeze",
    "on_trainable",
    "assert_frozen",
    "learning_rates",
    "layerwise_decay",
    "Stacked",
    "gradual_unfreeze",
    "decay_to",
    "decayed",
    "ema",
    "averaged",
    "soup",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    globals()[_name].__module__ = __name__
