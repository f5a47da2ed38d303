"""Small, Wang's and spectral scales, and tables of embeddings, in Flax's layers."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from replicates import assert_mean, second_moment
from scipy import stats

from jaxinit import initializers

KEY = jax.random.key(0)
WIDTH, VOCABULARY, DEPTH = 64, 256, 6


def replicate(measure, count):
    """What `measure` returns for independent keys; its operations compile only once."""
    rows = [jnp.asarray(measure(key)) for key in jax.random.split(KEY, count)]
    return np.stack(rows).astype(np.float64)


def passed(init, n_in=WIDTH, n_out=WIDTH, count=48):
    """Second moments behind a Dense layer that reads N(0, 1)."""
    dense = nn.Dense(n_out, use_bias=False, kernel_init=init)

    def measure(key):
        first, second = jax.random.split(key)
        inputs = jax.random.normal(first, (64, n_in))
        return second_moment(dense.apply(dense.init(second, inputs), inputs))

    return replicate(measure, count)


def test_a_small_projection_passes_two_fifths():
    assert_mean(passed(initializers.small_init()), 2 / 5)


def test_branches_by_wang_add_eight_over_depth():
    # Attention's output reads d features; the feed-forward's reads 4d and says width.
    square = passed(initializers.wang_init(DEPTH))
    narrow = passed(initializers.wang_init(DEPTH, width=4 * WIDTH), n_in=4 * WIDTH)
    assert_mean(DEPTH * (square + narrow), 8 / DEPTH)


def test_width_stands_in_for_the_fan():
    small, wang = initializers.small_init, initializers.wang_init
    for build in (small, lambda **options: wang(DEPTH, **options)):
        np.testing.assert_array_equal(
            build(width=64)(KEY, (64, 32)), build()(KEY, (64, 32))
        )
        wide = build(width=64)(KEY, (256, 32))
        np.testing.assert_allclose(wide, 2 * build()(KEY, (256, 32)), rtol=3e-7)


def test_another_scale_would_be_noticed():
    for wrong in (initializers.lecun_normal(), initializers.glorot_normal()):
        with pytest.raises(AssertionError, match="measured"):
            assert_mean(passed(wrong), 2 / 5)


# -------------------------------------------------------------------------- spectral

RATIOS = [(64, 1024), (256, 256), (1024, 64)]


def assert_spectral_norm(weight, failure_rate=1e-9):
    """The norm of a normal matrix is between 1 and 2 times √(n_out / n_in).

    Above, it leaves σ (√n_in + √n_out) by σt with probability exp(-t²/2); below, it is
    at least the Frobenius norm over √min(n_in, n_out), whose square is chi-square.
    """
    n_in, n_out = weight.shape
    target = math.sqrt(n_out / n_in)
    sigma = target / math.sqrt(max(n_in, n_out))
    tail = sigma * math.sqrt(2 * math.log(2 / failure_rate))
    squared = stats.chi2.ppf(failure_rate / 2, n_in * n_out) / (n_in * n_out)
    norm = float(np.linalg.norm(np.asarray(weight, np.float64), 2))
    assert target * math.sqrt(squared) <= norm <= 2 * target + tail, (
        f"norm {norm}, target {target}"
    )


@pytest.mark.parametrize("shape", RATIOS, ids=str)
def test_the_spectral_norm_is_of_the_order_of_the_root_of_the_ratio(shape):
    assert_spectral_norm(initializers.spectral()(KEY, shape))


@pytest.mark.parametrize(
    ("init", "shape"),
    [
        (initializers.lecun_normal(), (1024, 64)),
        (initializers.glorot_normal(), (64, 1024)),
        (initializers.he_normal(), (256, 256)),
    ],
    ids=str,
)
def test_other_scales_would_be_noticed(init, shape):
    with pytest.raises(AssertionError, match="norm"):
        assert_spectral_norm(init(KEY, shape))


def test_a_spectral_layer_passes_the_ratio_where_it_narrows():
    assert_mean(passed(initializers.spectral(), n_in=256, n_out=64), 64 / 256)
    assert_mean(passed(initializers.spectral(), n_in=64, n_out=256), 1.0)


# ------------------------------------------------------------------------ embeddings


def linen_table(init, key):
    embed = nn.Embed(VOCABULARY, WIDTH, embedding_init=init)
    bound = embed.bind(embed.init(key, jnp.zeros((1,), int)))
    return bound, bound.attend


def nnx_table(init, key):
    embed = nnx.Embed(VOCABULARY, WIDTH, embedding_init=init, rngs=nnx.Rngs(key))
    return embed, embed.attend


def used(make, init, count=48):
    """Second moments of rows looked up, and of logits of an N(0, 1) hidden state."""

    def measure(key):
        first, second, third = jax.random.split(key, 3)
        look_up, attend = make(init, first)
        tokens = jax.random.randint(second, (64,), 0, VOCABULARY)
        hidden = jax.random.normal(third, (64, WIDTH))
        moments = second_moment(look_up(tokens)), second_moment(attend(hidden))
        return jnp.stack(moments)

    return replicate(measure, count).T


@pytest.mark.parametrize("make", [linen_table, nnx_table])
def test_a_table_keeps_the_signal_in_the_use_that_is_said(make):
    looked_up, logits = used(make, initializers.embedding())
    assert_mean(looked_up, 1.0)
    assert_mean(logits, WIDTH)  # the price, which the docstring names
    looked_up, logits = used(make, initializers.embedding(tied=True))
    assert_mean(looked_up * WIDTH, 1.0)  # multiplied by √d in the forward pass
    assert_mean(logits, 1.0)


def test_the_other_use_would_be_noticed():
    _, logits = used(linen_table, initializers.embedding())
    with pytest.raises(AssertionError, match="measured"):
        assert_mean(logits, 1.0)


def test_the_axis_of_the_features_may_be_any():
    turned = initializers.embedding(tied=True, axis=0)(KEY, (WIDTH, VOCABULARY))
    plain = initializers.embedding(tied=True)(KEY, (VOCABULARY, WIDTH))
    np.testing.assert_array_equal(turned.ravel(), plain.ravel())


# ---------------------------------------------------------------------------- errors

ERRORS = [
    (
        lambda: initializers.small_init(width=64, in_axis=0),
        "small_init was given a width and a use of the weight: the width stands in for "
        "the fan_in that the use would tell; give one of them",
    ),
    (
        lambda: initializers.wang_init(2, width=64, equation="bd,df->bf"),
        "wang_init was given a width and a use of the weight: the width stands in for "
        "the fan_in that the use would tell; give one of them",
    ),
    (lambda: initializers.small_init(width=0), "width must be positive, got 0"),
    (lambda: initializers.wang_init(0), "depth must be positive, got 0"),
    (
        lambda: initializers.spectral()(KEY, (3,)),
        "Can't compute input and output sizes of a 1-dimensional weights tensor with "
        "default in_axis. Must be at least 2D or specify in_axis explicitly. "
        "Got shape (3,)",
    ),
    (
        lambda: initializers.embedding(axis=2)(KEY, (3, 4)),
        "axis 2 of embedding does not exist in shape (3, 4)",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_errors_name_the_argument(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
