"""Real Flax layers as functions ``(init, key, x) -> (x -> y)``.

Each draws its weight with `init` and returns the function from input to output; there
is no bias, and every border is circular.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

Init = Callable[..., jax.Array]
Shape = tuple[int, ...]
Apply = Callable[[jax.Array], jax.Array]
Draw = Callable[[Init, jax.Array, jax.Array], Apply]


def applied(module: nn.Module, variables: Any) -> Apply:
    """A linen module at given variables, as a function of its input alone."""

    def apply(x: jax.Array) -> jax.Array:
        y = module.apply(variables, x)
        assert isinstance(y, jax.Array)
        return y

    return apply


def from_linen(make: Callable[[Init], nn.Module]) -> Draw:
    """A linen layer, from a function of its ``kernel_init``."""

    def draw(init: Init, key: jax.Array, x: jax.Array) -> Apply:
        module = make(init)
        variables = module.init(key, x)
        return applied(module, variables)

    return draw


def from_nnx(make: Callable[[Init, nnx.Rngs], Apply]) -> Draw:
    """An nnx layer, from a function of its ``kernel_init`` and its ``rngs``."""
    return lambda init, key, x: make(init, nnx.Rngs(key))


class Stored(nn.Module):
    """A parameter of the given shape, used as the user's own code says."""

    shape: Shape
    kernel_init: Init
    use: Callable[[jax.Array, jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        return self.use(x, self.param("kernel", self.kernel_init, self.shape))


def stored(shape: Shape, use: Callable[[jax.Array, jax.Array], jax.Array]) -> Draw:
    """A parameter of the given shape and a function of the input and it."""
    return from_linen(lambda init: Stored(shape, init, use))


# ----------------------------------------------------------------- stacks and ensembles


class _Body(nn.Module):
    kernel_init: Init

    @nn.compact
    def __call__(self, x, _):
        dense = nn.Dense(x.shape[-1], use_bias=False, kernel_init=self.kernel_init)
        return dense(x), None


def scanned(init: Init, key: jax.Array, x: jax.Array) -> Apply:
    """Six Dense layers under ``nn.scan``."""
    options: dict[str, Any] = {
        "variable_axes": {"params": 0},
        "split_rngs": {"params": True},
    }
    module = nn.scan(_Body, length=6, **options)(init)
    bound = module.bind(module.init(key, x, None))
    return lambda x: bound(x, None)[0]


def scanned_nnx(init: Init, key: jax.Array, x: jax.Array) -> Apply:
    """Six Linear layers made by ``nnx.vmap`` and run by ``nnx.scan``."""
    width = x.shape[-1]

    @nnx.split_rngs(splits=6)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return nnx.Linear(width, width, use_bias=False, kernel_init=init, rngs=rngs)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, layer):
        return layer(x)

    # Merged anew: an nnx module belongs to the trace that made it.
    graph, state = nnx.split(make(nnx.Rngs(key)))
    return lambda x: run(x, nnx.merge(graph, state, copy=True))


def ensemble(init: Init) -> nn.Module:
    """Convolutions side by side under ``nn.vmap``."""
    options: dict[str, Any] = {
        "variable_axes": {"params": 0},
        "split_rngs": {"params": True},
    }
    convs = nn.vmap(nn.Conv, **options)
    return convs(16, (3, 3), padding="CIRCULAR", use_bias=False, kernel_init=init)


# ------------------------------------------------------------------- one call to Flax


def dense(init):
    return nn.Dense(48, use_bias=False, kernel_init=init)


def linear(init, rngs):
    return nnx.Linear(24, 48, use_bias=False, kernel_init=init, rngs=rngs)


def over_two_axes(init):
    options: dict[str, Any] = {"axis": (-2, -1), "use_bias": False, "kernel_init": init}
    return nn.DenseGeneral((4, 6), **options)


def batched(init):
    return nn.DenseGeneral(16, batch_dims=(0,), use_bias=False, kernel_init=init)


def batched_nnx(init, rngs):
    options: dict[str, Any] = {
        "batch_axis": {0: 6},
        "use_bias": False,
        "kernel_init": init,
    }
    return nnx.LinearGeneral(32, 16, rngs=rngs, **options)


def conv(features: int, *size: int, groups: int = 1, **options: Any) -> Draw:
    options |= {"padding": "CIRCULAR", "use_bias": False, "feature_group_count": groups}
    return from_linen(lambda init: nn.Conv(features, size, kernel_init=init, **options))


def conv_nnx(features: int, *size: int, **options: Any) -> Draw:
    options |= {"padding": "CIRCULAR", "use_bias": False}
    return from_nnx(
        lambda init, rngs: nnx.Conv(
            8, features, size, kernel_init=init, rngs=rngs, **options
        )
    )


def conv_transpose(*size: int, **options: Any) -> Draw:
    options |= {"padding": "CIRCULAR", "use_bias": False}
    return from_linen(
        lambda init: nn.ConvTranspose(8, size, kernel_init=init, **options)
    )


def conv_transpose_nnx(*size: int, **options: Any) -> Draw:
    options |= {"padding": "CIRCULAR", "use_bias": False}
    return from_nnx(
        lambda init, rngs: nnx.ConvTranspose(
            16, 8, size, kernel_init=init, rngs=rngs, **options
        )
    )


def conv_local(init):
    options: dict[str, Any] = {
        "padding": "CIRCULAR",
        "use_bias": False,
        "kernel_init": init,
    }
    return nn.ConvLocal(16, (3, 3), **options)


def einsum(equation: str, *shape: int) -> Draw:
    return from_linen(
        lambda init: nn.Einsum(shape, equation, use_bias=False, kernel_init=init)
    )


def einsum_nnx(equation: str, *shape: int) -> Draw:
    return from_nnx(
        lambda init, rngs: nnx.Einsum(equation, shape, kernel_init=init, rngs=rngs)
    )


def attended(init):
    """The table of Embed, used as the output layer."""

    class Attended(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Embed(96, 32, embedding_init=init).attend(x)

    return Attended()


def side_by_side(x, kernel):
    return jnp.einsum("lbi,lio->lbo", x, kernel)
