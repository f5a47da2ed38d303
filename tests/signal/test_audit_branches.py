"""A fault on a branch is told there, and not as one of the signal beside it."""

import jax
import jax.numpy as jnp
import pytest

import jaxinit
from jaxinit import initializers

WIDTH, BLOCKS = 32, 3


def network(params, x):
    for block in params:
        normed = (x - jnp.mean(x, 1, keepdims=True)) / jnp.std(x, 1, keepdims=True)
        inner = jax.nn.gelu(normed @ block["up"] + block["bias"][None])
        x = x + inner @ block["down"]
    return x


def start():
    draw = initializers.lecun_normal()
    keys = iter(jax.random.split(jax.random.key(0), 2 * BLOCKS + 1))
    params = [
        {
            "up": draw(next(keys), (WIDTH, 4 * WIDTH)),
            "bias": jnp.zeros(4 * WIDTH),
            "down": draw(next(keys), (4 * WIDTH, WIDTH)),
        }
        for _ in range(BLOCKS)
    ]
    return params, jax.random.normal(next(keys), (16, WIDTH))


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_dead_branch_is_not_told_as_a_signal_that_explodes_behind_it(block):
    params, x = start()
    assert not jaxinit.audit(network, params, x).findings
    params[block]["bias"] = params[block]["bias"] - 7.0  # gelu: some 1e-7
    first, *others = jaxinit.audit(network, params, x).findings
    assert (first.leaf, first.code) == (f"{block}/bias", "dead")
    assert not others


def test_a_signal_that_grows_from_block_to_block_is_still_told():
    params, x = start()

    def chain(params, x):
        for block in params:
            x = jax.nn.relu(x @ block["up"]) @ block["down"]
        return x

    large = jax.tree.map(lambda leaf: 50.0 * leaf, params)
    codes = [finding.code for finding in jaxinit.audit(chain, large, x).findings]
    assert "gain" in codes or "exploding" in codes
