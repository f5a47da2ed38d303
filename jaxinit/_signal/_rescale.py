"""The pass that brings every product to its target while the program runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._signal._interpret import interpret
from jaxinit._signal._parts import Part, label, piece
from jaxinit._signal._places import Place
from jaxinit._signal._program import Signal
from jaxinit._signal._taps import on_any_mesh, sum_of_squares, wide

# A shared weight is settled when another pass would change it by less than this.
SETTLED = 1e-5


@dataclasses.dataclass(frozen=True)
class Goal:
    """A place, and what the root mean square of its product shall be.

    `shared` weights have other uses as well, so that none of them can be corrected
    while the program runs: the others may lie behind. `part` is the part of the product
    that the weight makes, alone or with others that are goals as well.
    """

    place: Place
    target: float
    shared: bool
    part: Part | None = None

    def record(self, records: Mapping[Any, Any]) -> Any:
        """What a pass recorded about it."""
        return records[self.place.site][label(self.part)]


class Rescaler:
    """One compiled pass: all inputs go in, the rescaled parameters come out."""

    def __init__(self, signal: Signal, goals: Sequence[Goal]):
        self.signal = signal
        self.goals = list(goals)
        self.probes = _probes(self.goals)
        self.compiled: Any = None

    def __call__(
        self, params: Sequence[Any], factors: dict[int, Any]
    ) -> tuple[list[Any], dict[Any, Any]]:
        """The parameters after one pass, and what was recorded on the way.

        Args:
          params: the leaves.
          factors: for each shared leaf what to multiply it by beforehand, an array with
            one number for each layer.
        """
        inputs = [jnp.asarray(leaf) for leaf in self.signal.with_params(params)]
        if self.compiled is None:
            self.compiled = self.lower(inputs, factors).compile()
        return self.compiled(inputs, factors)

    def lower(self, inputs: Sequence[Any], factors: dict[int, Any]) -> Any:
        """The pass, not yet compiled."""
        return jax.jit(self._run).lower(inputs, factors)

    def neutral(self) -> dict[int, Any]:
        """Factors that change nothing."""
        return {
            goal.place.leaf: jnp.ones(self._layers(goal.place), jnp.float32)
            for goal in self.goals
            if goal.shared
        }

    def corrections(self, records: dict[Any, Any]) -> dict[int, Any]:
        """By what the shared leaves have to be multiplied, given what a pass recorded.

        The root mean square over all uses is brought to the target.
        """
        found: dict[int, list[np.ndarray]] = {}
        targets = {}
        for goal in self.goals:
            if not goal.shared:
                continue
            place = goal.place
            sizes, rest = place.by_layer(goal.record(records)["rms"])
            mean = np.mean(np.square(np.asarray(sizes, np.float64)), axis=rest)
            if not self._layers(place):
                mean = np.mean(mean)
            found.setdefault(place.leaf, []).append(mean)
            targets[place.leaf] = goal.target
        factors = {}
        for leaf, squares in found.items():
            with np.errstate(all="ignore"):
                factor = targets[leaf] / np.sqrt(np.mean(squares, axis=0))
            usable = np.isfinite(factor) & (factor > 0)
            factors[leaf] = jnp.asarray(np.where(usable, factor, 1.0), jnp.float32)
        return factors

    def _layers(self, place: Place) -> tuple[int, ...]:
        """One number for each layer, but one alone where a leaf has several places."""
        several = sum(goal.place.leaf == place.leaf for goal in self.goals) > 1
        return () if several else place.layers

    def _run(self, inputs: list[Any], factors: dict[int, Any]) -> Any:
        places = {goal.place.leaf: goal.place for goal in self.goals}
        leaves = list(inputs)
        for leaf, factor in factors.items():
            leaves[leaf] = scaled(leaves[leaf], factor, places[leaf])
        _, records = interpret(
            self.signal.program, leaves, self.probes, keep_rules=False
        )
        for goal in self.goals:
            if not goal.shared:
                place = goal.place
                scale = goal.record(records)["scale"]
                # Of several devices, each has seen its own examples.
                moved, rest = _layers_first(place, scale)
                leaves[place.leaf] = scaled(
                    leaves[place.leaf], jnp.mean(moved, axis=rest), place
                )
        return leaves[: len(self.signal.names)], records


def scaled(leaf: Any, factor: Any, place: Place) -> Any:
    """The leaf times one number for each layer; 16 bits are rounded once."""
    shape = [1] * jnp.ndim(leaf)
    if jnp.ndim(factor):
        axes = [axis for axis in place.layer_axes if axis is not None]
        order = sorted(range(len(axes)), key=axes.__getitem__)
        factor = jnp.transpose(factor, order)
        for axis in axes:
            shape[axis] = leaf.shape[axis]
    product = wide(leaf) * jnp.reshape(factor, shape).astype(wide(leaf).dtype)
    return product.astype(leaf.dtype)


def _layers_first(place: Place, array: Any) -> tuple[Any, tuple[int, ...]]:
    own = [n for n, axis in enumerate(place.layer_axes) if axis is not None]
    rest = [n for n, axis in enumerate(place.layer_axes) if axis is None]
    moved = jnp.transpose(array, (*own, *rest))
    return moved, tuple(range(len(own), len(own) + len(rest)))


def _probes(goals: Sequence[Goal]) -> dict[Any, Any]:
    by_site: dict[Any, list[Goal]] = {}
    for goal in goals:
        by_site.setdefault(goal.place.site, []).append(goal)
    return {site: _probe(several) for site, several in by_site.items()}


def _probe(goals: Sequence[Goal]) -> Any:
    parts = {goal.part: goal for goal in goals}  # one for those that share a part

    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        (product,) = results
        value = wide(product)
        records = {}
        for part, goal in parts.items():
            records[label(part)] = record = _sizes(value, part=part)
            if goal.shared:
                continue
            scale = goal.target / record["rms"]
            usable = jnp.isfinite(scale) & (record["rms"] > 0) & (scale > 0)
            record["scale"] = scale = jnp.where(usable, scale, jnp.ones_like(scale))
            value = value * _spread(scale, part, value.shape)
        return [value.astype(product.dtype)], records

    return probe


@on_any_mesh
def _sizes(value: Any, *, part: Part | None) -> dict[str, Any]:
    value = piece(value, part)
    # Divided by its largest number first: a product as large as 1e30 has a mean
    # square beyond float32, and one of 1e-30 has one below it.
    largest = jnp.max(jnp.abs(value))
    unit = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    square = sum_of_squares(value / unit) / max(value.size, 1)
    return {"rms": unit * jnp.sqrt(square)}


def _spread(scale: Any, part: Part | None, shape: Sequence[int]) -> Any:
    """The scale, along the axis of its part, and ones beside it."""
    if part is None:
        return scale
    axis, start, stop = part
    along = jnp.ones(shape[axis], scale.dtype).at[start:stop].set(scale)
    return along.reshape([-1 if n == axis else 1 for n in range(len(shape))])
