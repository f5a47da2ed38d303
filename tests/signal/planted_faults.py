"""One sound network, and all that can be wrong with its weights."""

import functools

import jax
import jax.numpy as jnp

from jaxinit import initializers
from jaxinit._signal._audit import Auditor
from jaxinit._signal._program import trace_signal

WIDTH, BATCH, DEPTH = 64, 16, 6
KEY = jax.random.key(0)


def batch():
    return jax.random.normal(jax.random.key(3), (BATCH, WIDTH))


def network(activation):
    """Plain layers and a head."""

    def f(params, x):
        for layer in range(DEPTH):
            own = params[f"layer_{layer}"]
            x = activation(x @ own["kernel"] + own["bias"][None, :])
        return x @ params["head"]["kernel"]

    return f


def sound(gain):
    keys = jax.random.split(KEY, DEPTH + 1)
    params = {
        f"layer_{layer}": {
            "kernel": gain * initializers.lecun_normal()(keys[layer], (WIDTH, WIDTH)),
            "bias": jnp.zeros(WIDTH),
        }
        for layer in range(DEPTH)
    }
    params["head"] = {"kernel": initializers.lecun_normal()(keys[-1], (WIDTH, 10))}
    return params


NETWORKS = {"relu": (jax.nn.relu, 2**0.5), "tanh": (jnp.tanh, 1.0)}


@functools.cache
def auditor(name):
    activation, gain = NETWORKS[name]
    return Auditor(trace_signal(network(activation), sound(gain), batch()))


def audited(name, params):
    return auditor(name)(jax.tree.leaves(params))


def with_kernels(params, change, layers=range(DEPTH)):
    """The parameters with `change(key, kernel)` in place of the kernels of layers."""
    new = dict(params)
    for layer in layers:
        own = params[f"layer_{layer}"]
        kernel = change(jax.random.fold_in(KEY, layer), own["kernel"])
        new[f"layer_{layer}"] = {**own, "kernel": kernel}
    return new


def constant(key, kernel):
    return jnp.full_like(kernel, 0.1)


def zero(key, kernel):
    return jnp.zeros_like(kernel)


def large(key, kernel):
    return initializers.normal(1.0)(key, kernel.shape)


def small(key, kernel):
    return initializers.normal(0.01)(key, kernel.shape)


def half_copied(key, kernel):
    half = kernel[:, : WIDTH // 2]
    return jnp.concatenate([half, half], axis=1)


def one_nan(key, kernel):
    return kernel.at[3, 5].set(jnp.nan)
