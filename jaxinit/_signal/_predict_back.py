"""The gradient's program, run on samples as any other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit import _jaxpr
from jaxinit._signal._interpret import interpret
from jaxinit._signal._places import Place, examples_in, shape_at
from jaxinit._signal._predict_inputs import constant, noise
from jaxinit._signal._predict_values import Stack
from jaxinit._signal._predict_walk import Seen, Walk, look
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import Level, equation, has_tap

Table = Mapping[tuple[int, ...], Seen | None]


def gradients(
    signal: Signal, found: Sequence[Place], values: Sequence[Any], walk: Walk
) -> list[Table]:
    """For each place what the gradient with respect to the product is, by round."""
    taps = {
        place.after: place
        for place in found
        if has_tap(signal.program, place.after)
        and all(level.kind == "scan" for level in place.levels)
    }
    shapes = [_tap(signal, place) for place in taps.values()]
    results = [var.aval for var in signal.program.jaxpr.outvars]
    smooth = [
        n for n, aval in enumerate(results) if jnp.issubdtype(aval.dtype, jnp.floating)
    ]
    signs = [jax.ShapeDtypeStruct(results[n].shape, results[n].dtype) for n in smooth]
    inputs = [var.aval for var in signal.program.jaxpr.invars]
    inputs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in inputs]
    if not smooth:
        raise ValueError(
            "backward=True: f returns no array of floating numbers, so that there is "
            "no gradient; return the logits, or what the loss is made of"
        )

    def loss(shifts: Sequence[Any], signs: Sequence[Any], inputs: Sequence[Any]) -> Any:
        outputs, _ = interpret(
            signal.program,
            inputs,
            dict.fromkeys(taps, _shifted),
            taps=dict(zip(taps, shifts, strict=True)),
        )
        terms = [
            jnp.sum((outputs[n] * sign).astype(jnp.float32))
            for n, sign in zip(smooth, signs, strict=True)
        ]
        return sum(terms[1:], terms[0])

    try:
        traced = _jaxpr.trace(jax.grad(loss), shapes, signs, inputs)
    except ValueError as error:
        if "everse-mode differentiation" not in str(error):
            raise
        walk.notes.setdefault(
            "no gradient: JAX runs a loop of unknown length in f only forward"
        )
        return [{}] * len(found)
    given = [
        *(constant(0, shape) for shape in shapes),
        *(noise(sign, examples_in(signal), walk.draws) for sign in signs),
        *values,
    ]
    outputs = walk.run(_jaxpr.slice_backward(traced.program), given, site=("back",))
    tables = {
        site: _by_round(value, place.levels)
        for (site, place), value in zip(taps.items(), outputs, strict=True)
    }
    return [tables.get(place.after, {}) for place in found]


def _tap(signal: Signal, place: Place) -> jax.ShapeDtypeStruct:
    lead = [level.size for level in place.levels]
    dtype = equation(signal.program, place.after).outvars[0].aval.dtype
    return jax.ShapeDtypeStruct((*lead, *shape_at(signal, place.after)), dtype)


def _shifted(eqn: Any, operands: Any, results: Any, tap: Any) -> tuple[Any, Any]:
    """The result with something added that is zero, to differentiate by."""
    return [results[0] + tap, *results[1:]], ()


def _by_round(value: Any, levels: Sequence[Level]) -> Table:
    """Moments by round; where a gradient is not told by round, the same for all."""
    if not levels:
        return {(): look(value)}
    rounds = range(levels[0].size)
    if isinstance(value, Stack):
        return {
            (n, *rest): seen
            for n in rounds
            for rest, seen in _by_round(value.rounds[n], levels[1:]).items()
        }
    seen = look(value)
    every = itertools.product(*(range(level.size) for level in levels))
    return dict.fromkeys(every, seen)
