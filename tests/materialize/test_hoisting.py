"""Scalars that become arguments of a kernel, so that few kernels make many leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from identical import assert_as_jit

from jaxinit import _compat, materialize
from jaxinit._materialize._steps import Chain

KEY = jax.random.key(3)
SCALES = [0.02, -1.7, 37.0**-0.5, 1e-6, 3e4, 1e-30, 1e30]
# The last digit of these is XLA's to choose, and none of them may be merged here.
STRANGE = [0.0, 1.0, 1e-39, 1e38, float("inf")]


def scaled(scales, dtype=jnp.float32, by=lambda x, scale: x * scale):
    def init(key):
        draws = [
            jax.random.normal(jax.random.fold_in(key, i), (5, 40), dtype)
            for i in range(len(scales))
        ]
        return [by(x, scale) for x, scale in zip(draws, scales, strict=True)]

    return init


def chains(init, *arguments):
    """The distinct chains of an init function."""
    _, makings, _, _ = materialize(init)._plan((KEY, *arguments), {})
    return {making.steps for _, making in makings if isinstance(making, Chain)}


@pytest.mark.parametrize(
    "by",
    [
        lambda x, scale: scale * x,
        lambda x, scale: x * jnp.sqrt(jnp.float32(abs(scale))),
        lambda x, scale: (x * 3.3) * scale,
        lambda x, scale: -(x * scale),
        lambda x, scale: 2.5 + x * scale,
        lambda x, scale: (x * scale) / 3.0,
        lambda x, scale: (x.reshape(-1) * 0.3).reshape(x.shape) * scale,
        lambda x, scale: (x.astype(jnp.bfloat16) * 0.3).astype(x.dtype) * scale,
        lambda x, scale: (x / 3.0) * scale,
        lambda x, scale: (x + 0.1) * scale,
    ],
)
def test_products_with_constants_are_those_of_jit(by):
    assert_as_jit(scaled([0.02, -1.7, 1e-39], by=by), KEY)


def test_products_with_all_kinds_of_constants_are_those_of_jit():
    assert_as_jit(scaled(SCALES + STRANGE), KEY)


def test_products_in_double_precision_are_those_of_jit():
    with jax.enable_x64(True):
        assert_as_jit(scaled(SCALES, jnp.float64), KEY)


def test_flax_normal_draws_of_any_scale_are_one_chain():
    def init(key):
        return [
            jax.nn.initializers.normal(scale)(key, (5, 40 + i))
            for i, scale in enumerate(SCALES)
        ]

    assert len(chains(init)) == 1


def test_scaled_normal_draws_are_one_chain_where_xla_merges_factors():
    expected = 1 if _compat.merges_factors() else len(SCALES)
    assert len(chains(scaled(SCALES))) == expected


def test_strange_constants_stay_literals():
    """1 is a factor like any other, and 1e38 is one as long as 1.4e38 is a number."""
    ordinary, strange = chains(scaled([2.0])), chains(scaled(STRANGE))
    assert len(strange) == (4 if _compat.merges_factors() else 5)
    assert len(strange & ordinary) == _compat.merges_factors()


def test_products_that_other_leaves_are_made_of_are_those_of_jit():
    def init(key):
        draws = jax.random.normal(key, (17, 40))
        first = draws * 0.3
        second = first * 0.7
        return [first, second, second * 1.3, first + draws]

    assert_as_jit(init, KEY)


def test_a_scale_that_is_an_argument_is_not_merged():
    """XLA does not know it, and multiplies twice."""

    def init(key, scale):
        return [jax.random.normal(key, (5, 40)) * 0.3 * scale, scale]

    assert_as_jit(init, KEY, jnp.float32(0.7))


def test_whether_xla_merges_factors():
    compiled = jax.jit(lambda x: x * np.float32(3) * np.float32(7)).lower(jnp.ones(8))
    merged = "constant(21)" in compiled.compile().as_text()
    assert merged == _compat.merges_factors()


# ------------------------------------------------------------------- draws in common


def sharing(width, height=17):
    """Leaves made of one draw, of one drawn twice, and one that is itself a leaf."""

    def init(key):
        keys = jax.random.split(key, 3)
        one, leaf = (jax.random.normal(key, (height, width)) for key in keys[:2])
        again = [jax.random.normal(keys[2], (height, width)) for _ in range(2)]
        return {
            "used twice": [one * 0.3, one * 0.7],
            "drawn twice": [2.5 + again[0] * 0.3, again[1] * 0.7],
            "a leaf": [leaf, leaf * 0.7],
        }

    return init


@pytest.mark.parametrize("height", [17, 40])
def test_short_leaves_that_share_draws_are_those_of_jit(height):
    def init(key):
        return [sharing(width, height)(key) for width in (9, 10, 12, 15)]

    assert_as_jit(init, KEY)


def test_short_leaves_that_share_draws_are_compiled():
    rows = materialize(sharing(10)).explain(KEY).to_dict()["rows"]
    told = [row[-1] for row in rows]
    assert told == ["its last axis is short, and it shares its draws"] * 6
    assert len(chains(sharing(10))) == 0
    assert len(chains(sharing(40))) > 0


def test_a_short_leaf_with_draws_of_its_own_is_filled_in_chunks():
    def init(key):
        keys = jax.random.split(key)
        return [
            jax.nn.initializers.lecun_normal()(key, (17, 10)).reshape(10, 17)
            for key in keys
        ]

    assert len(chains(init)) == 1
    assert_as_jit(init, KEY)
