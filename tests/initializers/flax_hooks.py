"""Layers of Flax that do more than multiply, seen through their own hooks.

``attention_fn`` and ``gate_fn`` show the products of attention and of recurrent cells
before anything nonlinear happens to them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax_layers import Apply, Draw, Init, applied, from_nnx

# --------------------------------------------------------------------------- attention

HEADS, FEATURES, INNER = 4, 32, 48


def query_of_linen(init: Init, key: jax.Array, x: jax.Array) -> Apply:
    """The query projection of linen's attention, as its ``attention_fn`` sees it."""
    seen = []

    def attend(query, key, value):
        seen.append(query)
        return value

    module = nn.MultiHeadDotProductAttention(
        HEADS,
        qkv_features=INNER,
        use_bias=False,
        kernel_init=init,
        out_kernel_init=nn.initializers.zeros,
        attention_fn=attend,
    )
    variables = module.init(key, x)

    def apply(x):
        seen.clear()
        module.apply(variables, x)
        return seen[0]

    return apply


def out_of_linen(init: Init, key: jax.Array, x: jax.Array) -> Apply:
    """The output projection of linen's attention, fed through its ``attention_fn``."""
    tokens = jnp.zeros((*x.shape[:-2], FEATURES))

    def module(x):
        return nn.MultiHeadDotProductAttention(
            HEADS,
            qkv_features=INNER,
            use_bias=False,
            out_kernel_init=init,
            attention_fn=lambda query, key, value: x,
        )

    variables = module(x).init(key, tokens)
    return lambda x: applied(module(x), variables)(tokens)


def attention_of_nnx(part: str) -> Draw:
    """One projection of nnx's attention: "query", "key", "value" or "out"."""

    def make(init: Init, rngs: nnx.Rngs) -> Apply:
        options: dict[str, Any] = {"use_bias": False, "decode": False, "rngs": rngs}
        inits: dict[str, Any] = {
            "kernel_init": init,
            "out_kernel_init": nn.initializers.zeros,
        }
        if part == "out":
            inits = {"out_kernel_init": init}
        attention = nnx.MultiHeadAttention(HEADS, FEATURES, INNER, **inits, **options)
        return getattr(attention, part)

    return from_nnx(make)


# --------------------------------------------------------------------- recurrent cells

READ, HIDDEN = 16, 24  # the width of the input and of the state


def gates(cell: str, kernels: str, *, fused: bool = False) -> Draw:
    """The gates of a recurrent cell before their nonlinearities, side by side.

    Args:
      cell: the name of the class.
      kernels: "input" for those that the input meets (the state is then zero), "hidden"
        for those that the state meets (the input is then zero).
      fused: nnx's cell, which keeps all gates in one kernel.
    """
    long = "LSTM" in cell
    which = "kernel_init" if kernels == "input" else "recurrent_kernel_init"

    def fed(x: jax.Array) -> tuple[Any, jax.Array]:
        h, x = (
            (jnp.zeros((len(x), HIDDEN)), x)
            if kernels == "input"
            else (
                x,
                jnp.zeros((len(x), READ)),
            )
        )
        return ((jnp.zeros_like(h), h) if long else h), x

    def draw(init: Init, key: jax.Array, x: jax.Array) -> Apply:
        seen = []

        def tap(z):
            # Open gates: the reset gate of a GRU then lets its third kernel through.
            seen.append(z)
            return jnp.ones_like(z)

        options: dict[str, Any] = {which: init, "gate_fn": tap, "activation_fn": tap}
        if fused:
            run = getattr(nnx, cell)(READ, HIDDEN, rngs=nnx.Rngs(key), **options)
        else:
            module = getattr(nn, cell)(HIDDEN, **options)
            run = module.bind(module.init(key, *fed(x)))

        def apply(x):
            seen.clear()
            run(*fed(x))
            return jnp.concatenate(seen[: 4 if long else 3], axis=-1)

        return apply

    return draw
