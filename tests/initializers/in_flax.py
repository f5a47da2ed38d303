"""What the tests inside Flax share: one initializer for each role of a parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import initializers as ours

__all__ = ["KEY", "ROLES", "ours", "same", "theirs", "to_bfloat16"]

theirs = jax.nn.initializers
# Which bits a key gives is tested per initializer; this kind compiles ten times faster.
KEY = jax.random.key(0, impl="rbg")

# Library -> initializer, for each role that a layer of Flax names; none is its default.
ROLES = {
    "kernel_init": lambda m: m.glorot_uniform(),
    "out_kernel_init": lambda m: m.he_uniform(),
    "recurrent_kernel_init": lambda m: m.orthogonal(),
    "embedding_init": lambda m: m.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
    "scale_init": lambda m: m.uniform(2.0),
    "bias_init": lambda m: m.normal(0.1),
    "out_bias_init": lambda m: m.truncated_normal(0.1),
    "forget_bias_init": lambda m: m.constant(1.0),
    "activation_bias_init": lambda m: m.normal(0.5),
    "carry_init": lambda m: m.normal(1.0),
    "a_initializer": lambda m: m.lecun_uniform(),
    "b_initializer": lambda m: m.normal(0.1),
}


def same(first: Any, second: Any):
    """Assert equal trees of equal arrays, dtypes and bits included."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert jax.tree.leaves(first)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)


def to_bfloat16(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.bfloat16)
