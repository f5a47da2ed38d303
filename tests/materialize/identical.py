"""What the tests of materialize share: the comparison with jit, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import materialize


def content(leaf):
    """The bits of a leaf, and what they mean."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (
            str(leaf.dtype),
            leaf.shape,
            np.asarray(jax.random.key_data(leaf)).tobytes(),
        )
    return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()


def differences(got, wanted):
    """The paths of the leaves that are not the same bits of the same type."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    ours = jax.tree_util.tree_leaves_with_path(got)
    theirs = jax.tree.leaves(wanted)
    return [
        jax.tree_util.keystr(path)
        for (path, one), other in zip(ours, theirs, strict=True)
        if content(one) != content(other)
    ]


def assert_as_jit(init, *args, static_argnums=(), **options):
    """materialize(init) equals jax.jit(init), bit for bit; returns the result."""
    got = materialize(init, static_argnums=static_argnums, **options)(*args)
    wanted = jax.jit(init, static_argnums=static_argnums)(*args)
    assert differences(got, wanted) == []
    return got
