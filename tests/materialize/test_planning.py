"""What planning costs grows as the number of leaves does, and not faster."""

import sys

import jax
import jax.numpy as jnp
import pytest

from jaxinit import materialize

KEY = jax.random.key(0)


def leaves_in_chunks(count):
    return lambda key: [
        jax.random.normal(jax.random.fold_in(key, i), (4, 8)) for i in range(count)
    ]


def leaves_by_programs(count):
    """Too short an axis for chunks, so that each is a program."""
    return lambda key: [
        jax.random.normal(jax.random.fold_in(key, i), (2, 2)) for i in range(count)
    ]


def leaves_that_share_work(count):
    def init(key):
        shared = jnp.cumsum(jax.random.normal(key, (8,)))
        return [shared * i for i in range(1, count + 1)]

    return init


def calls(init):
    """How many functions, of Python and built in, planning calls."""
    number = 0

    def count(frame, event, arg):
        nonlocal number
        number += event in ("call", "c_call")

    _, makings, _, _ = materialize(init)._plan((KEY,), {})
    sys.setprofile(count)
    try:
        made = list(makings)
    finally:
        sys.setprofile(None)
    assert made
    return number


@pytest.mark.parametrize(
    "leaves", [leaves_in_chunks, leaves_by_programs, leaves_that_share_work]
)
def test_planning_is_linear_in_leaves(leaves):
    calls(leaves(2))  # what is looked up once
    few, many = calls(leaves(60)), calls(leaves(240))
    # Four times as many: 4 for a linear cost, 16 for a quadratic one.
    assert many / few < 5
