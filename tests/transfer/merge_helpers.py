"""What the tests of merging share: small arrays, a module, and a source under watch."""

import weakref
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxinit.transfer._origin import Origin
from jaxinit.transfer._source import Leaf, Source

KEY = jax.random.key(0)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@jax.tree_util.register_dataclass
@dataclass
class Module:
    """As Equinox has it: a module is a tree, and its activation is a leaf of it."""

    weight: Any
    activation: Any = jax.nn.relu


class Watched(Leaf):
    """A leaf that remembers which slices of it were read, and the arrays it gave."""

    def __init__(self, name, values):
        origin = Origin(None, label="watched")
        super().__init__(
            name=name, key=name, shape=values.shape, dtype=values.dtype, origin=origin
        )
        self.values, self.reads, self.given = values, [], []

    def _read(self, index):
        found = np.array(self.values[index])
        self.reads.append(found.shape)
        self.given.append(weakref.ref(found))
        return found


def watched(**arrays):
    leaves = {name: Watched(name, array) for name, array in arrays.items()}
    return Source(leaves, format="watched", origins=())
