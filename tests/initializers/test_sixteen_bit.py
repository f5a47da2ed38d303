"""16-bit weights: what JAX's draws do to a deep network, and what ours do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import initializers, testing

WIDTH, DEPTH, BATCH = 1024, 20, 64


def activations_after(init, seed):
    """Standard deviation after DEPTH ReLU layers with bfloat16 weights and no bias."""

    @jax.jit
    def run(key):
        def layer(hidden, key):
            weight = init(key, (WIDTH, WIDTH), jnp.bfloat16).astype(jnp.float32)
            return jax.nn.relu(hidden @ weight), None

        first, *_ = keys = jax.random.split(key, DEPTH + 1)
        inputs = jax.random.normal(first, (BATCH, WIDTH))
        return jax.lax.scan(layer, inputs, keys[1:])[0].std()

    return float(run(jax.random.key(seed)))


def test_a_deep_relu_network_dies_of_draws_in_bfloat16_and_lives_with_ours():
    # Of a signal of second moment 2 after each layer, ReLU leaves a standard deviation
    # of sqrt(2 * (1/2 - 1/(2 pi))) = 0.83; a finite width lets it wander by a factor.
    dead = [activations_after(jax.nn.initializers.he_normal(), seed) for seed in (0, 1)]
    alive = [activations_after(initializers.he_normal(), seed) for seed in (0, 1)]
    assert max(dead) < 0.03
    assert 0.4 < min(alive) <= max(alive) < 1.5


def test_draws_in_bfloat16_take_128_values_and_have_a_mean():
    theirs, ours = (
        module.lecun_normal()(jax.random.key(0), (1024, 1024), jnp.bfloat16)
        for module in (jax.nn.initializers, initializers)
    )
    assert len(np.unique(np.asarray(theirs))) <= 128
    assert len(np.unique(np.asarray(ours))) > 1000
    mean = float(theirs.astype(jnp.float32).mean() * 1024**0.5)
    assert -0.021 < mean < -0.014  # in standard deviations; 16 standard errors and more
    moments = {"mean": 0.0, "variance": 1 / 1024, "kurtosis": 2.3656}
    testing.assert_moments(ours, **moments)
    with pytest.raises(AssertionError, match="mean"):
        testing.assert_moments(theirs, **moments)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_orthogonal_exists_in_16_bits(dtype):
    weight = initializers.orthogonal()(jax.random.key(0), (64, 32), dtype)
    testing.assert_orthogonal(weight)
    # JAX has no such factorization, and says so in a type that moved with its versions.
    with pytest.raises((NotImplementedError, TypeError), match=dtype.__name__):
        jax.nn.initializers.orthogonal()(jax.random.key(0), (64, 32), dtype)


def test_8_bit_draws_have_neither_nan_nor_only_zeros():
    for dtype in (jnp.float8_e4m3fn, jnp.float8_e5m2):
        draws = initializers.lecun_normal()(jax.random.key(0), (256, 256), dtype)
        values = np.asarray(draws.astype(jnp.float32))
        assert np.isfinite(values).all()
        assert np.mean(values == 0.0) < 0.05
