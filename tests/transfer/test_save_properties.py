"""Any tree that is saved comes back: names, types, shapes, and every bit."""

import tempfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit.transfer import open_checkpoint, save
from jaxinit.transfer._checkpoints._safetensors import DTYPES

KEYS = st.text(
    st.characters(categories=("L", "N", "P", "S"), exclude_characters="/:"),
    min_size=1,
    max_size=8,
).filter(lambda key: key not in (".", "..", "__metadata__", "params"))
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def arrays(draw):
    """An array of any type and small shape; the bits are arbitrary."""
    dtype = draw(st.sampled_from(sorted(DTYPES.values(), key=str)))
    dtype = dtype.newbyteorder("=")
    shape = draw(SHAPES)
    nbytes = int(np.prod(shape, dtype=int)) * dtype.itemsize
    content = np.frombuffer(draw(st.binary(min_size=nbytes, max_size=nbytes)), "u1")
    content = content % 2 if dtype.kind == "b" else content
    return content.copy().view(dtype).reshape(shape)


TREES = st.recursive(
    arrays(),
    lambda inner: st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def leaves_of(tree, path=()):
    if not isinstance(tree, dict):
        return {"/".join(path): tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in leaves_of(value, (*path, key)).items()
    }


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_any_tree_comes_back_bit_for_bit(tree):
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/tree", tree)
        source = open_checkpoint(f"{folder}/tree")
        expected = leaves_of(tree)
        assert set(source) == set(expected)
        for name, value in expected.items():
            found = source[name].read(nonfinite="allow")
            assert (found.dtype, found.shape) == (value.dtype, value.shape)
            assert found.tobytes() == value.tobytes()
