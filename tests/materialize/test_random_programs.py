"""Small random init programs: whatever they are made of, the bits are those of jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from identical import assert_as_jit, content

from jaxinit import materialize

KEY = jax.random.key(1)
SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4), (4, 1, 5), (64, 3), (6, 20), (4097,)]
# XLA rounds these otherwise where leaves share draws, so that unnamed leaves matter.
SHORT = [(40, last) for last in (5, 6, 9, 10, 12)]
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]

DRAWS = [
    lambda k, s, d: jax.random.normal(k, s, d),
    lambda k, s, d: jax.random.uniform(k, s, d, -1.0, 2.0),
    lambda k, s, d: jax.random.truncated_normal(k, -2.0, 2.0, s, d),
    lambda k, s, d: jax.random.bernoulli(k, 0.4, s).astype(d),
    lambda k, s, d: jax.random.randint(k, s, 0, 100).astype(d),
    lambda k, s, d: jax.random.exponential(k, s, d),
    lambda k, s, d: jax.random.gumbel(k, s, d),
    lambda k, s, d: jax.random.bits(k, s, jnp.uint8).astype(d),
    lambda k, s, d: jax.random.normal(k, s, jnp.complex64).real.astype(d),
    lambda k, s, d: jax.vmap(lambda k: jax.random.normal(k, s, d))(
        jax.random.split(k, 3)
    ),
    lambda k, s, d: jax.lax.map(
        lambda k: jax.random.uniform(k, s, d), jax.random.split(k, 2)
    ),
]


def steps(random):
    """Operations on an array, with constants of every kind."""
    constant = float(random.choice([0.5, 3.0, -1.7, 37.0**-0.5, 1e-3]))
    return [
        lambda x: x * jnp.asarray(constant, x.dtype),
        lambda x: x + jnp.asarray(constant, x.dtype),
        lambda x: x / jnp.asarray(constant, x.dtype),
        lambda x: jnp.asarray(constant, x.dtype) - x,
        lambda x: x * jnp.sqrt(jnp.asarray(abs(constant), x.dtype)),
        lambda x: x / jnp.sqrt(jnp.asarray(abs(constant), x.dtype)),
        lambda x: x * np.asarray(constant, x.dtype),
        lambda x: x ** jnp.asarray(2 + (constant > 1), x.dtype),
        lambda x: x * jnp.full((1,) * x.ndim, constant, x.dtype),
        jnp.tanh,
        jnp.exp,
        jnp.square,
        jax.nn.sigmoid,
        jax.nn.softplus,
        lambda x: jnp.log(jnp.abs(x) + jnp.asarray(0.1, x.dtype)),
        lambda x: jnp.clip(x, -1, 1),
        lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)),
        lambda x: x.astype(jnp.bfloat16).astype(x.dtype),
        lambda x: x.reshape(-1),
        lambda x: x[None],
        lambda x: x.T,
        lambda x: jnp.flip(x) if x.ndim else x,
        lambda x: x - x.mean(),
        lambda x: x / jnp.maximum(jnp.abs(x).max(), jnp.asarray(0.1, x.dtype)),
        lambda x: jnp.cumsum(x, axis=0) if x.ndim else x,
        lambda x: x.reshape(-1)[jnp.array([0, 0, x.size - 1])],
        lambda x: jnp.sort(x.reshape(-1)),
        lambda x: jnp.stack([x, x]),
        lambda x: x.reshape(-1)[::2],
        lambda x: jnp.concatenate([x.reshape(-1), jnp.ones((2,), x.dtype)]),
        lambda x: x * jnp.arange(x.size, dtype=x.dtype).reshape(x.shape),
    ]


def keys(random, key):
    """A key some way down from the one that is given."""
    for _ in range(random.integers(0, 3)):
        kind = random.integers(4)
        if kind == 0:
            key = jax.random.fold_in(key, int(random.integers(0, 2**31)))
        elif kind == 1:
            key = jax.random.split(key, 3)[int(random.integers(3))]
        elif kind == 2:
            key = jax.random.split(key, (2, 2))[1, int(random.integers(2))]
        else:
            key = jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32))
    return key


def program(seed, shapes=SHAPES):
    """A function of a key with a few leaves, some of which share draws."""

    def init(key):
        random = np.random.default_rng(seed)
        leaves = []
        for _ in range(random.integers(1, 3)):
            shape = shapes[random.integers(len(shapes))]
            dtype = DTYPES[random.integers(len(DTYPES))]
            draw = DRAWS[random.integers(len(DRAWS))]
            x = draw(keys(random, key), shape, dtype)
            for _ in range(random.integers(0, 5)):
                options = steps(random)
                x = options[random.integers(len(options))](x)
                if random.random() < 0.1:
                    leaves.append(x)
            leaves.append(x)
        return leaves

    return init


@pytest.mark.parametrize("start", range(0, 200, 10))
def test_random_programs(start):
    for seed in range(start, start + 10):
        assert_as_jit(program(seed), KEY)


@pytest.mark.parametrize(
    "start",
    [200, *(pytest.param(s, marks=pytest.mark.long) for s in range(210, 500, 10))],
)
def test_single_leaves_of_random_programs(start):
    for seed in range(start, start + 10):
        init = program(seed, SHORT)
        wanted = jax.jit(init)(KEY)
        place = seed % len(wanted)
        got = materialize(init, only=str(place))(KEY)
        assert content(got[place]) == content(wanted[place])


@pytest.mark.long
@pytest.mark.parametrize("start", range(1000, 3000, 50))
def test_thousands_of_random_programs(start):
    for seed in range(start, start + 50):
        assert_as_jit(program(seed), KEY)
    jax.clear_caches()
