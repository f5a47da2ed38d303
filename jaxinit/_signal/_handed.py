"""Small arrays leave the program as they are, and NumPy makes their numbers.

Each sum that a program computes costs a millisecond of compiling, and each product a
preparation at its first run: more than NumPy needs for all of them, as long as the
arrays are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxinit._signal import _moments
from jaxinit._signal._activity import Tails
from jaxinit._signal._parts import Part, label, resized
from jaxinit._signal._places import Place, shape_at
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import descent, equation
from jaxinit._signal._taps import wide
from jaxinit._signal._use import Site
from jaxinit._signal._whole import squares

# So many numbers of an array, and so many in all: a quarter of a megabyte, and 64, of
# float32.
SMALL, TOTAL = 2**16, 2**24


class Budget:
    """How much may leave a program of these arguments."""

    def __init__(self, leaves: Iterable[Any]):
        # What lies on several devices would have to be brought together.
        alone = all(len(_devices(leaf)) < 2 for leaf in leaves)
        self.left = TOTAL if alone else 0

    def takes(self, sizes: Sequence[int]) -> bool:
        """Whether arrays of these sizes may leave it, all of them; if so, they do."""
        if max(sizes) > SMALL or sum(sizes) > self.left:
            return False
        self.left -= sum(sizes)
        return True


def _devices(leaf: Any) -> set[Any]:
    return getattr(getattr(leaf, "sharding", None), "device_set", set())


def handed_out(signal: Signal, found: Iterable[Place], budget: Budget) -> set[Site]:
    """Where products are complete whose arrays all leave the program."""
    complete: dict[Site, list[Place]] = {}
    for place in found:
        complete.setdefault(place.after, []).append(place)
    return {
        after
        for after, group in complete.items()
        if all(_is_plain(signal.program, site) for site in _sites(after, group))
        and budget.takes([n for place in group for n in _sizes(signal, place)])
    }


def _sites(after: Site, group: Sequence[Place]) -> set[Site]:
    return {after, *(place.site for place in group)}


def _is_plain(program: ClosedJaxpr, site: Site) -> bool:
    """Whether an equation runs once, of real numbers."""
    kind = equation(program, site).outvars[0].aval.dtype
    return jnp.issubdtype(kind, jnp.floating) and all(
        sub.kind == "inline" for _, _, sub in descent(program, site)
    )


def _sizes(signal: Signal, place: Place) -> list[int]:
    """Of the data, the product, what it becomes, and the gradient there."""
    eqn = equation(signal.program, place.site)
    data = eqn.invars[1 - (place.use.operand or 0)].aval.size
    product = math.prod(resized(eqn.outvars[0].aval.shape, place.use.part))
    whole = math.prod(shape_at(signal, place.after))
    return [data, product, whole, whole]


def once(records: Any) -> tuple[list[Any], Any]:
    """The arrays of records, each of them once, and the records with their numbers."""
    leaves, tree = jax.tree.flatten(records)
    numbers: dict[int, int] = {}
    for leaf in leaves:
        numbers.setdefault(id(leaf), len(numbers))
    found = {numbers[id(leaf)]: leaf for leaf in leaves}
    places = tree.unflatten([numbers[id(leaf)] for leaf in leaves])
    return [found[number] for number in range(len(found))], places


def count_product(record: dict[str, Any], part: Part | None) -> None:
    """Replaces the arrays of a product, where a record has them, by their numbers."""
    ending = label(part)
    if "values" + ending in record:
        values, data = record.pop("values" + ending), record.pop("data" + ending)
        _add(record, ending, _moments.product_numbers(values, data, sum_of_squares))


def count_signal(
    record: dict[str, Any],
    part: Part | None,
    features: Sequence[int],
    examples: int | None,
    ends: Tails,
) -> None:
    """Replaces the array of a signal, where a record has it, by its numbers."""
    ending = label(part)
    if "signal" + ending in record:
        what = record.pop("signal" + ending), features, examples, ends
        # A signal that has exploded is a finding, and no warning of NumPy.
        with np.errstate(all="ignore"):
            numbers = _moments.signal_numbers(*what, sum_of_squares, _gram)
        _add(record, ending, numbers)


def sum_of_squares(array: Any) -> np.ndarray:
    """Of an array of NumPy."""
    return squares(wide(np.asarray(array)), ())


def _gram(rows: np.ndarray) -> np.ndarray:
    return (rows @ rows.conj().T).real


def _add(record: dict[str, Any], ending: str, numbers: Mapping[str, Any]) -> None:
    record.update({name + ending: number for name, number in numbers.items()})
