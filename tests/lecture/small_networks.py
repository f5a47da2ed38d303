"""The networks that the chapters of the lecture speak of, made of real Flax layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from replicates import second_moment

Init = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]


def dense(features: int, init: Init) -> nn.Module:
    return nn.Dense(features, use_bias=False, kernel_init=init)


def circular_conv(features: int, init: Init) -> nn.Module:
    """3x3, circular: no product is lost at a border."""
    options: dict[str, Any] = {"padding": "CIRCULAR", "use_bias": False}
    return nn.Conv(features, (3, 3), kernel_init=init, **options)


def deep(
    layer: nn.Module,
    activation: Activation,
    depth: int,
    key: jax.Array,
    x: jax.Array,
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Run a deep net of equal layers, each with weights of its own.

    Returns:
      The factor by which each layer multiplies the second moment of the signal, the one
      by which it multiplies that of the gradient, and the output of the net.
    """
    keys = jax.random.split(key, depth)
    params = jax.vmap(lambda key: layer.init(key, x))(keys)

    def one(params, h):
        return activation(jnp.asarray(layer.apply(params, h)))

    def forward(h, params):
        y = one(params, h)
        return y, (h, second_moment(y) / second_moment(h))

    def backward(g, inputs):
        params, h = inputs
        _, pull_back = jax.vjp(functools.partial(one, params), h)
        (into,) = pull_back(g)
        return into, second_moment(into) / second_moment(g)

    y, (hidden, signal) = jax.lax.scan(forward, x, params)
    _, gradient = jax.lax.scan(backward, cotangent, (params, hidden), reverse=True)
    return signal, gradient, y


class Perceptron(nn.Module):
    """Hidden layers of the given widths and one linear output.

    Attributes:
      widths: of the hidden layers.
      kernel_init: of all weights.
      bias_init: of all biases.
      activation: between the layers.
    """

    widths: Sequence[int]
    kernel_init: Init
    bias_init: Init = nn.initializers.zeros
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """The output (batch,), and the activations of every hidden layer."""
        inits: dict[str, Any] = {
            "kernel_init": self.kernel_init,
            "bias_init": self.bias_init,
        }
        hidden = []
        for width in self.widths:
            # Added to rows, which Flax leaves to rank promotion.
            with jax.numpy_rank_promotion("allow"):
                x = self.activation(nn.Dense(width, **inits)(x))
            hidden.append(x)
        with jax.numpy_rank_promotion("allow"):
            return nn.Dense(1, **inits)(x)[:, 0], hidden


@functools.partial(jax.jit, static_argnums=(0, 3))
def descend(
    model: Perceptron, x: jax.Array, target: jax.Array, steps: int, rate: float = 0.05
) -> tuple[Any, Any, jax.Array]:
    """Gradient descent on the squared error.

    Returns:
      The parameters before and after, and the loss before every step.
    """
    params = model.init(jax.random.key(0), x)["params"]

    def loss(params):
        y, _ = model.apply({"params": params}, x)
        return second_moment(y - target)

    def step(params, _):
        value, gradient = jax.value_and_grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
        return params, value

    after, losses = jax.lax.scan(step, params, length=steps)
    return params, after, losses
