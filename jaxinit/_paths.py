"""One notation for the leaf of any tree: its keys joined by "/", `encoder/0/kernel`.

JAX already gives every leaf a key path. What is added here is what makes the path of
a parameter the same in every kind of tree: containers that hold a single value (nnx
Variables, Flax's boxes for partitioned parameters) leave no trace in it, and the
collection stands beside the path instead of in it, read from the first key of linen
variables and from the Variable type of an nnx State.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
from jax.tree_util import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    SequenceKey,
    keystr,
    tree_flatten_with_path,
)

from jaxinit._containers import (
    PARAMS,
    collection_of,
    entries,
    is_linen_variables,
    is_random_state,
)
from jaxinit._errors import PathError


@dataclass(frozen=True, order=True)
class Name:
    """What a leaf is called: its path, and the collection the path belongs to.

    >>> Name("params", "Dense_0/kernel").full
    'Dense_0/kernel'
    >>> str(Name("batch_stats", "BatchNorm_0/mean"))
    'batch_stats:BatchNorm_0/mean'
    """

    collection: str
    path: str

    def __post_init__(self) -> None:
        if ":" in self.collection:
            raise PathError(
                f"a collection name cannot contain a colon, got {self.collection!r}: "
                "the colon separates the collection from the path"
            )

    @property
    def qualified(self) -> str:
        """The collection, a colon, the path."""
        return f"{self.collection}:{self.path}"

    @property
    def full(self) -> str:
        """The path alone in the collection "params", elsewhere `qualified`.

        A path that itself contains a colon is always qualified, so that no two names
        have the same full text and `Name.parse` can read every one.
        """
        plain = self.collection == PARAMS and ":" not in self.path
        return self.path if plain else self.qualified

    @classmethod
    def parse(cls, full: str) -> Name:
        """The name whose `full` is the text given.

        >>> Name.parse("batch_stats:mean")
        Name(collection='batch_stats', path='mean')
        """
        collection, colon, path = full.partition(":")
        return cls(collection, path) if colon else cls(PARAMS, full)

    def __str__(self) -> str:
        return self.full


@dataclass(frozen=True, eq=False)
class Flat:
    """A tree taken apart: a name for each leaf, and what puts the tree back together.

    `names` and `leaves` are in the order of `jax.tree.leaves`. `random_state` holds the
    names of random-number state: nnx's RngState, and any leaf that is a PRNG key.
    """

    names: tuple[Name, ...]
    leaves: tuple[Any, ...]
    treedef: Any
    random_state: frozenset[Name]

    def items(self) -> Iterator[tuple[Name, Any]]:
        """The pairs of name and leaf, in order."""
        return zip(self.names, self.leaves, strict=True)

    def is_random_state(self, name: Name) -> bool:
        """Whether the leaf is random-number state: listed, never merged or labelled."""
        return name in self.random_state

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """A tree of the same kind that holds these leaves, given in order."""
        leaves = list(leaves)
        if len(leaves) != len(self.names):
            raise PathError(
                f"the tree has {len(self.names)} leaves, got {len(leaves)} to fill it: "
                "give exactly one for each name, in order"
            )
        return jax.tree.unflatten(self.treedef, leaves)

    def replace(self, leaves: Mapping[Name, Any]) -> Any:
        """A tree of the same kind in which the named leaves are exchanged."""
        known = dict(self.items())
        for name in leaves:
            if name not in known:
                raise PathError(f"the tree has no leaf {name.full!r} to replace")
        return self.unflatten([*{**known, **leaves}.values()])


def flatten(tree: Any, *, argument: str = "tree") -> Flat:
    """Take a tree apart into named leaves.

    A mapping with a `params` entry that is itself a tree is read as linen variables:
    the first key is the collection. Any other tree is read as it stands, in the
    collection "params"; below an nnx Variable, the Variable's type decides, by the name
    Flax registers for it or for its nearest registered ancestor.

    `argument` names the tree in the errors: two leaves that would share a name, or keys
    that JAX cannot sort, are a PathError.

    >>> flat = flatten({"params": {"w": 1}, "cache": {"step": [2, 3]}})
    >>> [name.full for name in flat.names]
    ['cache:step/0', 'cache:step/1', 'w']
    >>> flat.unflatten([4, 5, 6])
    {'cache': {'step': [4, 5]}, 'params': {'w': 6}}
    """
    try:
        variables, found = is_linen_variables(tree), list(entries(tree))
    except (TypeError, ValueError) as error:
        if clash := _unsortable(tree):
            raise PathError(f"{argument}: {clash}; write all keys as text") from error
        raise
    seen: dict[Name, tuple[Any, ...]] = {}
    leaves, random_state = [], set()
    for keys, leaf, kind in found:
        texts = [_key_text(key) for key in keys]
        collection = texts.pop(0) if variables else collection_of(kind)
        name = Name(collection, "/".join(texts))
        if name in seen:
            raise PathError(
                f"{argument}: two leaves share the name {name.full!r}, "
                f"{argument}{keystr(seen[name])} and {argument}{keystr(keys)}; "
                "rename one of them"
            )
        seen[name] = keys
        leaves.append(leaf)
        if is_random_state(kind, leaf):
            random_state.add(name)
    treedef = jax.tree.structure(tree)
    return Flat(tuple(seen), tuple(leaves), treedef, frozenset(random_state))


def named_leaves(tree: Any, *, argument: str = "tree") -> dict[Name, Any]:
    """The leaves of a tree by name, in the order of `jax.tree.leaves`."""
    return dict(flatten(tree, argument=argument).items())


def map_leaves(f: Callable[[Name, Any], Any], tree: Any) -> Any:
    """A tree of the same kind whose leaves are `f(name, leaf)`.

    >>> map_leaves(lambda name, leaf: name.path, {"layers": [{"w": 1.0}]})
    {'layers': [{'w': 'layers/0/w'}]}
    """
    flat = flatten(tree)
    return flat.unflatten([f(name, leaf) for name, leaf in flat.items()])


def with_separator(path: str, separator: str) -> str:
    """The path as a file writes it, `encoder.0.weight` for the separator ".".

    A key that contains the separator is a PathError: the way back would split it.
    """
    return _separate(path, "/", separator)


def from_separator(text: str, separator: str) -> str:
    """The path of a key that a file writes with another separator.

    A key that contains "/" is a PathError: as a path it would read as two keys.
    """
    return _separate(text, separator, "/")


def _separate(text: str, old: str, new: str) -> str:
    if not (old and new):
        raise PathError("separator cannot be empty: give the text between two keys")
    for key in text.split(old):
        if new in key:
            raise PathError(
                f"the key {key!r} of {text!r} contains {new!r}, which would separate "
                f"keys once {old!r} is written as {new!r}; choose another separator "
                "or rename the key"
            )
    return text.replace(old, new)


def _key_text(key: Any) -> str:
    match key:
        case DictKey(key=inner) | FlattenedIndexKey(key=inner):
            return str(inner)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return name
    return str(key)  # a key type of the user's own


def _unsortable(tree: Any) -> str | None:
    """What is wrong with the first mapping whose keys cannot be sorted, if one is."""
    leaves, _ = tree_flatten_with_path(tree, is_leaf=lambda x: bool(_uncomparable(x)))
    for keys, node in leaves:
        if pair := _uncomparable(node):
            first, second = (f"{key!r} ({type(key).__name__})" for key in pair)
            where = f" at {keystr(keys)}" if keys else ""
            return f"the keys {first} and {second}{where} cannot be sorted"
    return None


def _uncomparable(node: Any) -> tuple[Any, Any] | None:
    if not isinstance(node, Mapping):
        return None
    try:
        sorted(node)
    except TypeError:
        for pair in combinations(node, 2):
            try:
                sorted(pair)
            except TypeError:
                return pair
    return None
