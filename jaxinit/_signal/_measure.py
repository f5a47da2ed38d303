"""One compiled call that tells what signal and gradient do at every weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._signal import _moments
from jaxinit._signal._activity import tails
from jaxinit._signal._direction import probe_loss, seed_of
from jaxinit._signal._handed import (
    Budget,
    count_product,
    count_signal,
    handed_out,
    once,
    sum_of_squares,
)
from jaxinit._signal._interpret import interpret
from jaxinit._signal._measured import Measured, moments_of, rms
from jaxinit._signal._places import Place, examples_in, part_after, shape_at
from jaxinit._signal._probes import product_probe, signal_probe, together
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import equation, has_tap
from jaxinit._signal._use import Site, Use
from jaxinit._signal._whole import by_slice, everywhere, is_here, squares

# Of float32: squares of numbers below 1e-19 are zero. Gradients are measured a second
# time, enlarged by this, where the first time says zero.
_ENLARGED = 2.0**60

Loss = Callable[[Any], Any]


class Meter:
    """A program with probes at its places, compiled when it first runs."""

    def __init__(
        self,
        signal: Signal,
        found: Sequence[Place],
        uses: Mapping[str, Sequence[Use]],
        *,
        loss: Loss | None = None,
        key: Any = None,
    ):
        self.signal = signal
        self.places = list(found)
        self.loss, self.seed = loss, seed_of(key)
        self.examples = examples_in(signal)
        self.tails = [tails(place.use.activation) for place in found]
        self.slices = [_slices(uses[name.full]) for name in signal.names]
        self.smooth = [
            jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
            for leaf in signal.leaves[: len(signal.names)]
        ]
        budget = Budget(signal.leaves)
        self.handed_out = handed_out(signal, found, budget)
        self.small = [
            smooth and budget.takes([np.size(leaf)])
            for leaf, smooth in zip(signal.params.leaves, self.smooth, strict=True)
        ]
        self.features = [self._features(place) for place in found]
        self.probes = self._probes()
        self.layout: Any = None
        self.compiled: Any = None
        self.backward = True

    def __call__(self, params: Sequence[Any]) -> Measured:
        """Measure with these leaves in place of the parameters."""
        inputs = [
            jnp.asarray(leaf) if is_here(leaf) else leaf
            for leaf in self.signal.with_params(params)
        ]
        if self.compiled is None:
            self.compiled = self._compile(inputs)
        plain = self._run_once(inputs, 1.0)
        gradients = _gradients(plain, 1.0)
        if any(np.any(square == 0) for square in jax.tree.leaves(gradients)):
            again = self._run_once(inputs, _ENLARGED)
            gradients = jax.tree.map(
                lambda once, large: np.where(once == 0, large, once),
                gradients,
                _gradients(again, _ENLARGED),
            )
        sizes = [
            squares(leaf, axes)
            for leaf, axes, smooth in zip(params, self.slices, self.smooth, strict=True)
            if smooth
        ]
        return self._measured(plain, sizes, *gradients)

    def lower(self, inputs: Sequence[Any]) -> Any:
        """The program, not yet compiled."""
        # Each process gets all of the numbers.
        whole = everywhere(inputs)
        try:
            return jax.jit(self._run, out_shardings=whole).lower(inputs, self.seed, 1.0)
        except ValueError as error:
            if "everse-mode differentiation" not in str(error):
                raise
            self.backward = False
            return jax.jit(self._run, out_shardings=whole).lower(inputs, self.seed, 1.0)

    def _compile(self, inputs: Sequence[Any]) -> Any:
        return self.lower(inputs).compile()

    def _run_once(self, inputs: Sequence[Any], scale: float) -> Any:
        """The loss, the records, and the squares of gradients at sites and of leaves.

        What was handed out is counted here.
        """
        found = jax.device_get(self.compiled(inputs, self.seed, scale))
        value, arrays, seen, slopes = found
        records = jax.tree.map(lambda number: arrays[number], self.layout)
        for place, features, ends in zip(
            self.places, self.features, self.tails, strict=True
        ):
            part = part_after(self.signal, place)
            count_product(records[place.site], place.use.part)
            count_signal(records[place.after], part, features, self.examples, ends)
        seen = {
            site: sum_of_squares(slope) if site in self.handed_out else slope
            for site, slope in seen.items()
        }
        if self.backward:
            slopes = [
                squares(slope, axes) if small else slope
                for slope, (axes, small) in zip(slopes, self._of_smooth(), strict=True)
            ]
        return value, records, seen, slopes

    def _run(self, inputs: list[Any], seed: Any, scale: Any) -> Any:
        count = len(self.smooth)
        params, data = inputs[:count], inputs[count:]
        chosen = [leaf for leaf, s in zip(params, self.smooth, strict=True) if s]
        taps = {
            site: self._tap(place)
            for place in self.places
            if has_tap(self.signal.program, site := place.after)
        }

        def forward(chosen: Sequence[Any], taps: Mapping[Site, Any]) -> Any:
            given = iter(chosen)
            leaves = [
                next(given) if s else leaf
                for leaf, s in zip(params, self.smooth, strict=True)
            ]
            results, records = interpret(
                self.signal.program, [*leaves, *data], self.probes, taps=taps
            )
            value = self._loss(results, seed)
            arrays, self.layout = once(records)
            return value * jnp.asarray(scale, value.dtype), (value, arrays)

        if not self.backward:
            _, (value, arrays) = forward(chosen, {})
            return value, arrays, {}, []
        gradient = jax.grad(forward, (0, 1), has_aux=True)
        (slopes, seen), (value, arrays) = gradient(chosen, taps)
        slopes = [
            slope if small else by_slice(slope, axes)
            for slope, (axes, small) in zip(slopes, self._of_smooth(), strict=True)
        ]
        return value, arrays, seen, slopes

    def _tap(self, place: Place) -> jax.Array:
        """Zeros in the shape of the gradient that is to be seen at a place."""
        if place.after in self.handed_out:
            value = equation(self.signal.program, place.after).outvars[0].aval
            return jnp.zeros(value.shape, value.dtype)
        return jnp.zeros([level.size for level in place.levels], jnp.float32)

    def _of_smooth(self) -> list[tuple[tuple[int, ...], bool]]:
        """Of each parameter with a gradient: its slices, and whether it is small."""
        everything = zip(self.slices, self.small, self.smooth, strict=True)
        return [(axes, small) for axes, small, smooth in everything if smooth]

    def _loss(self, results: Sequence[Any], seed: Any) -> Any:
        if self.loss is not None:
            value = self.loss(jax.tree.unflatten(self.signal.out_tree, results))
            if jnp.shape(value) != () or not jnp.issubdtype(value.dtype, jnp.floating):
                raise ValueError(
                    f"loss must return one real number, got {jax.typeof(value)}; "
                    "reduce it with jnp.mean"
                )
            return value
        return probe_loss(results, seed)

    def _probes(self) -> dict[Site, Any]:
        parts: dict[Site, list[Any]] = {}
        for place, features, ends in zip(
            self.places, self.features, self.tails, strict=True
        ):
            part, whole = part_after(self.signal, place), place.after in self.handed_out
            parts.setdefault(place.site, []).append(product_probe(place, whole))
            parts.setdefault(place.after, []).append(
                signal_probe(features, self.examples, ends, part, whole)
            )
        return {site: together(probes) for site, probes in parts.items()}

    def _features(self, place: Place) -> tuple[int, ...]:
        return _moments.feature_axes(
            equation(self.signal.program, place.site),
            place.use.operand,
            shape_at(self.signal, place.after),
            place.use.part,
        )

    def _measured(self, found: Any, weights: Any, seen: Any, slopes: Any) -> Measured:
        value, records, _, _ = found
        moments = [
            moments_of(self.signal, place, ends, self.examples, records, seen)
            for place, ends in zip(self.places, self.tails, strict=True)
        ]
        sizes = [
            math.prod(n for axis, n in enumerate(np.shape(leaf)) if axis not in axes)
            for leaf, axes in zip(self.signal.params.leaves, self.slices, strict=True)
        ]
        rows = iter(range(len(weights)))
        order = [next(rows) if s else None for s in self.smooth]

        def spread(squares: Sequence[Any]) -> list[Any]:
            return [
                None if row is None or not len(squares) else rms(squares[row], size)
                for row, size in zip(order, sizes, strict=True)
            ]

        return Measured(
            moments, spread(weights), spread(slopes), float(value), self.backward
        )


def _gradients(found: Any, scale: float) -> tuple[Any, Any]:
    _, _, seen, slopes = found
    square = scale * scale
    return jax.tree.map(
        lambda total: np.asarray(total, np.float64) / square, (seen, slopes)
    )


def _slices(uses: Sequence[Use]) -> tuple[int, ...]:
    return tuple(sorted({axis for use in uses for axis in use.stacked}))
