"""The algebra of dimensions against NumPy, which knows where each element came from."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit._signal._weights import axes_of, dims_of, reshaped, size_of

SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


@st.composite
def reshapes(draw):
    """A shape, and another one with as many elements."""
    old = draw(SIZES)
    primes = [p for n in old for p in {4: [2, 2], 6: [2, 3], 1: []}.get(n, [n])]
    new = draw(st.lists(st.just(1), max_size=1))
    for prime in draw(st.permutations(primes)):
        if new and draw(st.booleans()):
            new[-1] *= prime
        else:
            new.append(prime)
    return tuple(old), tuple(new)


def varying_axes(old, new):
    """For each new dimension the old axes whose index changes as one steps along it."""
    index = np.indices(old).reshape(len(old), *new)
    return [
        {axis for axis in range(len(old)) if np.any(np.diff(index[axis], axis=dim))}
        for dim in range(len(new))
    ]


@settings(deadline=None, max_examples=300)
@given(reshapes())
def test_a_reshape_loses_no_axis_and_keeps_sizes(pair):
    old, new = pair
    dims = reshaped(dims_of(old), new)
    assert tuple(size_of([dim]) for dim in dims) == new
    for dim, axes in zip(dims, varying_axes(old, new), strict=True):
        # More may be named where factors do not line up, never fewer.
        assert axes <= axes_of([dim])


@settings(deadline=None, max_examples=300)
@given(SIZES, st.data())
def test_merged_and_split_dimensions_are_told_exactly(old, data):
    """Joining neighbours and parting them again is exact, axis by axis."""
    old = tuple(old)
    cut = data.draw(st.integers(0, len(old)))
    new = (math.prod(old[:cut]), *old[cut:])
    dims = reshaped(dims_of(old), new)
    for dim, axes in zip(dims, varying_axes(old, new), strict=True):
        assert axes == axes_of([dim])
    back = reshaped(dims, old)
    for dim, axes in zip(back, varying_axes(old, old), strict=True):
        assert axes == axes_of([dim])


def test_a_lost_axis_would_be_noticed():
    assert varying_axes((2, 3), (6,)) == [{0, 1}]
    assert axes_of([dims_of((2, 3))[0]]) != {0, 1}


def test_zero_size_is_legal():
    assert [size_of([dim]) for dim in reshaped(dims_of((0, 4)), (2, 0))] == [2, 0]
