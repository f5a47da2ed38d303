"""The key of a leaf comes from its name alone, and no two names share one."""

import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit._keys import fold_name, name_words, require_key
from jaxinit._paths import Name

KERNEL = "encoder/layers_0/kernel"


# One key for each name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (KERNEL, (383565367, 3145848281)),
        ("batch_stats:norm/mean", (2742854519, 3384859262)),
        ("", (3836125271, 1954132660)),
        ("größe/β", (3248090793, 388190733)),
    ],
)
def test_the_hash_of_a_name_never_changes(name, words):
    assert name_words(name) == words
    assert name_words(Name.parse(name)) == words


def test_the_key_of_a_name_never_changes():
    key = fold_name(jax.random.key(0, impl="threefry2x32"), KERNEL)
    np.testing.assert_array_equal(jax.random.key_data(key), [678942561, 4035460487])


def test_another_process_with_another_hash_seed_has_the_same_hash():
    program = (
        "from jaxinit._keys import name_words\n"
        f"assert name_words({KERNEL!r}) == (383565367, 3145848281)\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_both_words_are_folded_in_turn():
    key = jax.random.key(3)
    high, low = name_words(KERNEL)
    expected = jax.random.fold_in(jax.random.fold_in(key, high), low)
    assert fold_name(key, KERNEL) == expected


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_typed_keys_eagerly_and_jitted(implementation):
    key = jax.random.key(3, impl=implementation)
    folded = fold_name(key, Name("params", KERNEL))
    assert folded.dtype == key.dtype
    assert folded == jax.jit(lambda k: fold_name(k, KERNEL))(key)
    assert folded != key


def test_a_legacy_key_gives_the_legacy_key():
    folded = fold_name(jax.random.PRNGKey(3), KERNEL)
    assert folded.dtype == jnp.uint32
    expected = jax.random.key_data(fold_name(jax.random.key(3), KERNEL))
    np.testing.assert_array_equal(folded, expected)
    again = jax.jit(lambda k: fold_name(k, KERNEL))(jax.random.PRNGKey(3))
    np.testing.assert_array_equal(again, expected)


def test_equal_paths_in_two_collections_have_two_keys():
    key = jax.random.key(0)
    assert fold_name(key, Name("params", "a")) != fold_name(key, Name("cache", "a"))


def test_100_000_names_have_100_000_keys():
    names = [f"h_{i}/{leaf}" for i in range(12_500) for leaf in "abcdefgh"]
    words = np.array([name_words(name) for name in names])
    assert len(np.unique(words, axis=0)) == len(names) == 100_000
    # 32 bits would not have been enough: 1.16 collisions are expected among 10^5.
    fold = jax.random.fold_in
    base = jax.random.key(0)
    keys = jax.jit(jax.vmap(lambda w: fold(fold(base, w[0]), w[1])))(words)
    assert keys[12_345] == fold_name(base, names[12_345])
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 100_000


def correlations(keys, draws):
    """The mean products of uniform draws on [-1, 1) from each pair of keys."""
    draw = jax.jit(lambda k: jax.random.uniform(k, (draws,), minval=-1, maxval=1))
    values = np.stack([draw(key) for key in keys]).astype(np.float64)
    products = values @ values.T / draws
    return products[np.triu_indices(len(keys), k=1)]


def test_the_draws_of_neighbouring_names_are_independent():
    draws, failure_rate = 2**15, 1e-9
    keys = [fold_name(jax.random.key(0), f"h_{i}/kernel") for i in range(16)]
    found = correlations(keys, draws)
    # Hoeffding for a mean of independent products within [-1, 1], a share of the
    # failure rate for each pair.
    bound = math.sqrt(2 * math.log(2 * len(found) / failure_rate) / draws)
    assert np.abs(found).max() < bound
    # One name twice is far outside: the mean square of a uniform draw is 1/3.
    assert np.abs(correlations([*keys[:2], keys[0]], draws)).max() > 5 * bound


# A key where one is needed


@pytest.mark.parametrize(
    "key",
    [
        jax.random.key(0),
        jax.random.key(0, impl="rbg"),
        jax.random.PRNGKey(0),
        np.asarray(jax.random.PRNGKey(0)),
    ],
)
def test_one_prng_key_is_returned_as_it_is(key):
    assert require_key(key, "to draw") is key
    jax.jit(lambda k: fold_name(require_key(k, "to draw"), "a"))(key)


BATCHES = [jax.random.split(jax.random.key(0), 3), np.zeros((3, 2), np.uint32)]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            None,
            "rngs is needed to draw 'head/w', and there is no default key; "
            "pass rngs=jax.random.key(seed)",
        ),
        (0, "rngs must be a PRNG key, got the number 0; pass rngs=jax.random.key(0)"),
        (
            np.int64(3),
            "rngs must be a PRNG key, got an array of dtype int64 and shape ()",
        ),
        (
            np.zeros(3, np.uint32),
            "got an array of dtype uint32 and shape (3,); pass rngs=",
        ),
        (np.zeros(2, np.float32), "got an array of dtype float32 and shape (2,)"),
        (np.uint32(3), "got an array of dtype uint32 and shape (); pass"),
        ("seed", "rngs must be a PRNG key, got 'seed' (str); pass"),
        *(
            (
                batch,
                "rngs must be a single PRNG key, got keys of shape (3,); pass one of "
                "them, or map over them with jax.vmap",
            )
            for batch in BATCHES
        ),
    ],
)
def test_anything_else_is_an_error_that_says_what_to_pass(key, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        require_key(key, "to draw 'head/w'", argument="rngs")
