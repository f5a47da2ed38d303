"""One compiled call that tells what signal and gradient do at every weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._signal import _moments
from jaxinit._signal._activity import Tails, tails
from jaxinit._signal._direction import probe_loss, seed_of
from jaxinit._signal._interpret import interpret
from jaxinit._signal._measured import Measured, moments_of, rms
from jaxinit._signal._parts import Part, label
from jaxinit._signal._places import Place, examples_in, part_after, shape_at
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import equation, has_tap
from jaxinit._signal._taps import tapped
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
        self.probes = self._probes()
        self.slices = [_slices(uses[name.full]) for name in signal.names]
        self.smooth = [
            jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
            for leaf in signal.leaves[: len(signal.names)]
        ]
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
        plain = jax.device_get(self.compiled(inputs, self.seed, 1.0))
        gradients = _gradients(plain, 1.0)
        if any(np.any(square == 0) for square in jax.tree.leaves(gradients)):
            again = jax.device_get(self.compiled(inputs, self.seed, _ENLARGED))
            gradients = jax.tree.map(
                lambda once, large: np.where(once == 0, large, once),
                gradients,
                _gradients(again, _ENLARGED),
            )
        leaves = [leaf for leaf, s in zip(params, self.smooth, strict=True) if s]
        return self._measured(plain, self._squares(leaves, squares), *gradients)

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

    def _run(self, inputs: list[Any], seed: Any, scale: Any) -> Any:
        count = len(self.smooth)
        params, data = inputs[:count], inputs[count:]
        chosen = [leaf for leaf, s in zip(params, self.smooth, strict=True) if s]
        taps = {
            site: jnp.zeros([level.size for level in place.levels], jnp.float32)
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
            return value * jnp.asarray(scale, value.dtype), (value, records)

        if not self.backward:
            _, (value, records) = forward(chosen, {})
            return value, records, {}, []
        gradient = jax.grad(forward, (0, 1), has_aux=True)
        (slopes, seen), (value, records) = gradient(chosen, taps)
        return value, records, seen, self._squares(slopes, by_slice)

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

    def _squares(self, leaves: Sequence[Any], how: Callable[..., Any]) -> list[Any]:
        axes = [axes for axes, s in zip(self.slices, self.smooth, strict=True) if s]
        return [how(leaf, along) for leaf, along in zip(leaves, axes, strict=True)]

    def _probes(self) -> dict[Site, Any]:
        parts: dict[Site, list[Any]] = {}
        program = self.signal.program
        for place, ends in zip(self.places, self.tails, strict=True):
            eqn = equation(program, place.site)
            features = _moments.feature_axes(
                eqn,
                place.use.operand,
                shape_at(self.signal, place.after),
                place.use.part,
            )
            part = part_after(self.signal, place)
            parts.setdefault(place.site, []).append(_product_probe(place))
            parts.setdefault(place.after, []).append(
                _signal_probe(features, self.examples, ends, part)
            )
        return {site: _together(probes) for site, probes in parts.items()}

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


def _product_probe(place: Place) -> Any:
    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        data = operands[1 - (place.use.operand or 0)]
        record = _moments.of_product(results[0], data, part=place.use.part)
        return results, _labelled(place.use.part, record)

    return probe


def _signal_probe(
    features: Sequence[int], examples: int | None, ends: Tails, part: Part | None
) -> Any:
    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        (value,) = results
        record = _moments.of_signal(
            value, part=part, features=tuple(features), examples=examples, ends=ends
        )
        if tap is not None:
            value = tapped(value, tap)
        return [value], _labelled(part, record)

    return probe


def _labelled(part: Part | None, record: Mapping[str, Any]) -> dict[str, Any]:
    return {name + label(part): value for name, value in record.items()}


def _together(probes: Sequence[Any]) -> Any:
    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        record = {}
        for part in probes:
            results, found = part(eqn, operands, results, tap)
            record.update(found)
            if any(name.startswith("gram") for name in found):
                tap = None  # one is enough, where two products share a sum
        return results, record

    return probe


def _gradients(found: Any, scale: float) -> tuple[Any, Any]:
    _, _, seen, slopes = found
    square = scale * scale
    return jax.tree.map(
        lambda total: np.asarray(total, np.float64) / square, (seen, slopes)
    )


def _slices(uses: Sequence[Use]) -> tuple[int, ...]:
    return tuple(sorted({axis for use in uses for axis in use.stacked}))
