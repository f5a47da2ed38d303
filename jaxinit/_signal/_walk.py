"""The walk: through every equation, with what is known of each array.

Calls stand in line (`_frames`); loops, branches and shard_map are entered here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jax.extend.core import Literal as Constant

from jaxinit import _jaxpr
from jaxinit._primitives import RANDOM
from jaxinit._signal._frames import Frame, frame_of
from jaxinit._signal._meet import visit
from jaxinit._signal._meeting import Meeting
from jaxinit._signal._record import Record
from jaxinit._signal._use import Site
from jaxinit._signal._weights import (
    CONSTANT,
    Factor,
    Value,
    Weight,
    axes_of,
    merged,
    resized,
    size_of,
    spread,
)

Values = Sequence[Value]

# Their derivative is zero wherever it exists.
_FLAT = frozenset({"ceil", "floor", "round", "sign", "stop_gradient"})


class Walk:
    """Walks a program once, noting how weights are used."""

    def __init__(self, record: Record, constants_are_data: bool):
        self.record = record
        self.record.constants_are_data = constants_are_data
        self.frames: dict[Site, Frame] = {}
        self.values: dict[Any, Value] = {}

    def enter(
        self, program: ClosedJaxpr, site: Site, within: tuple[Any, ...], inputs: Values
    ) -> list[Value]:
        """What is known of the outputs of a program, from what is of its inputs."""
        if site not in self.frames:
            self.frames[site] = frame_of(program, site, within)
        frame = self.frames[site]
        jaxpr = frame.program.jaxpr
        values = self.values
        values.update((var, CONSTANT) for var in jaxpr.constvars)
        if self.record.constants_are_data:
            data = Value(data=True)
            values.update((v, data) for v in jaxpr.constvars if v.aval.shape)
        values.update(zip(jaxpr.invars, inputs, strict=True))
        for number, eqn in enumerate(frame.eqns):
            if not frame.live[number]:
                continue
            operands = [self._value(atom) for atom in eqn.invars]
            results = self._equation(frame, number, eqn, operands)
            values.update(zip(eqn.outvars, results, strict=True))
        return [self._value(atom) for atom in jaxpr.outvars]

    def _value(self, atom: Any) -> Value:
        return CONSTANT if isinstance(atom, Constant) else self.values[atom]

    def _equation(
        self, frame: Frame, number: int, eqn: Any, operands: list[Value]
    ) -> list[Value]:
        name = eqn.primitive.name
        if not any(value.is_parameter or value.weights for value in operands):
            plain = _plain(operands)
            if name in RANDOM:  # noise is signal too, whoever made the key
                plain = plain._replace(data=True)
            return [_flowing(plain, eqn, operands, var) for var in eqn.outvars]
        subs = list(_jaxpr.subprograms(eqn))
        match [sub.kind for sub in subs]:
            case ["scan"]:
                return self._scan(frame, number, subs[0], operands)
            case ["while", "while"]:
                return self._while(frame, number, subs, operands)
            case ["branch", *_]:
                return self._branches(frame, number, subs, operands)
            case ["opaque"] if name == "shard_map":
                return self._shards(frame, number, subs[0], operands)
        meeting = Meeting(self.record, frame, number, operands, bool(subs))
        return [
            _flowing(value, eqn, operands, var)
            for value, var in zip(visit(meeting), eqn.outvars, strict=True)
        ]

    # ------------------------------------------------------------------------- loops

    def _scan(
        self, frame: Frame, number: int, sub: Any, operands: list[Value]
    ) -> list[Value]:
        length = frame.eqns[number].params["length"]
        first = sub.constants + sub.carried
        constants = [v.map(_in_rounds(length)) for v in operands[: sub.constants]]
        slices = [v.map(_one_slice(length)) for v in operands[first:]]

        def body(carry: Values) -> list[Value]:
            inputs = [*constants, *carry, *slices]
            return self._inner(frame, number, sub, inputs)

        started = operands[sub.constants : first]
        results = self._settle(frame, number, sub, started, body, sub.constants, length)
        stacks = [v.map(_stack(length)) for v in results[sub.carried :]]
        return [*results[: sub.carried], *stacks]

    def _while(
        self, frame: Frame, number: int, subs: Sequence[Any], operands: list[Value]
    ) -> list[Value]:
        condition, loop = subs
        ahead = condition.constants
        own = [v.map(_in_rounds(None)) for v in operands[:ahead]]
        first = ahead + loop.constants
        constants = [v.map(_in_rounds(None)) for v in operands[ahead:first]]

        def body(carry: Values) -> list[Value]:
            self._inner(frame, number, condition, [*own, *carry])
            return self._inner(frame, number, loop, [*constants, *carry])

        return self._settle(frame, number, loop, operands[first:], body, first, None)

    def _settle(
        self,
        frame: Frame,
        number: int,
        sub: Any,
        started: list[Value],
        body: Callable[[Values], list[Value]],
        first: int,
        rounds: int | None,
    ) -> list[Value]:
        """Walk a body until what is known of its carry no longer changes."""
        on, self.record.on = self.record.on, False
        # A pending look-up that a loop carries on is data by then.
        started = [v._replace(weights=()) if v.data else v for v in started]
        entered = carry = [v.map(_in_rounds(rounds)) for v in started]
        while True:
            after = [*map(_join, carry, body(carry))]
            if after == carry:
                break
            carry = after
        self.record.on = on
        for place, (start, end) in enumerate(zip(started, carry, strict=True)):
            if start.is_parameter and end.data:
                for weight in start.weights:
                    self.record.note("initial", weight, frame, number, first + place)
        results = body(carry)
        kept = zip(started, entered, carry, results[: sub.carried], strict=True)
        carried = [
            start if enter == end == result else _join(end, result)
            for start, enter, end, result in kept
        ]
        return [*carried, *results[sub.carried :]]

    def _inner(
        self, frame: Frame, number: int, sub: Any, inputs: Values
    ) -> list[Value]:
        site = (*frame.sites[number], sub.role)
        within = (*frame.within, frame.eqns[number])
        return self.enter(sub.program, site, within, inputs)

    def _branches(
        self, frame: Frame, number: int, subs: Sequence[Any], operands: list[Value]
    ) -> list[Value]:
        chosen_by = operands[0]
        found = [
            self._inner(frame, number, sub, [operands[place] for place in sub.inputs])
            for sub in subs
        ]
        results = []
        for several in zip(*found, strict=True):
            joined = several[0]
            for other in several[1:]:
                joined = _join(joined, other)
            if joined.data:
                self._placed(frame, number, several)
            data = joined.data or (chosen_by.data and not joined.weights)
            leaves = joined.leaves | chosen_by.leaves
            results.append(joined._replace(data=data, leaves=leaves))
        return results

    def _placed(self, frame: Frame, number: int, values: Iterable[Value]) -> None:
        for value in values:
            if value.is_parameter:
                for weight in value.weights:
                    self.record.note("placed", weight, frame, number, 0)

    # ------------------------------------------------------------------------ shards

    def _shards(
        self, frame: Frame, number: int, sub: Any, operands: list[Value]
    ) -> list[Value]:
        eqn = frame.eqns[number]
        sizes, params = eqn.params["mesh"].shape, eqn.params
        inputs = [
            value.map(_sharded(spec, sizes))
            for value, spec in zip(operands, params["in_specs"], strict=True)
        ]
        results = self._inner(frame, number, sub, inputs)
        return [
            value.map(_whole(var.aval.shape))
            for value, var in zip(results, eqn.outvars, strict=True)
        ]


def _plain(operands: Iterable[Value]) -> Value:
    leaves, data = 0, False
    for value in operands:
        leaves, data = leaves | value.leaves, data or value.data
    return Value((), leaves, data)


def _flowing(value: Value, eqn: Any, operands: Iterable[Value], var: Any) -> Value:
    """The value, and from which parameters a gradient reaches it."""
    smooth = 0
    dtype = getattr(var.aval, "dtype", None)
    whole = dtype is None or not jnp.issubdtype(dtype, jnp.inexact)
    if eqn.primitive.name not in _FLAT and not whole:
        for operand in operands:
            smooth |= operand.smooth
    return value._replace(smooth=smooth)


def _join(one: Value, other: Value) -> Value:
    """What is known of an array that is one or the other."""
    if one == other:
        return one
    data, leaves = one.data or other.data, one.leaves | other.leaves
    weights = () if data else merged((*one.weights, *other.weights))
    return Value(weights, leaves, data, one.smooth | other.smooth)


def _in_rounds(rounds: int | None) -> Callable[[Weight], Weight]:
    def enter(weight: Weight) -> Weight:
        count = None if rounds is None or weight.count is None else weight.count
        count = count if count is None or rounds is None else count * rounds
        return weight.but(count=count, looped=True)

    return enter


def _one_slice(length: int) -> Callable[[Weight], Weight]:
    def enter(weight: Weight) -> Weight:
        axes = axes_of(weight.dims[:1])
        if not axes:
            return _in_rounds(length)(weight.but(dims=weight.dims[1:], span=None))
        if weight.pending is not None:  # the look-up runs along the loop
            return weight.but(dims=weight.dims[1:], span=None)
        stacked = weight.stacked | axes
        return weight.but(dims=weight.dims[1:], stacked=stacked, span=None)

    return enter


def _stack(length: int) -> Callable[[Weight], Weight | None]:
    def leave(weight: Weight) -> Weight | None:
        if weight.pending is not None:
            return None
        lead = (Factor(weight.stacked, length),) if weight.stacked else spread(length)
        return weight.but(dims=(lead, *weight.dims), span=None)

    return leave


def _sharded(spec: Any, sizes: Any) -> Callable[[Weight], Weight]:
    def enter(weight: Weight) -> Weight:
        dims, shards = list(weight.dims), list(weight.shards)
        for dim, names in enumerate(tuple(spec)):
            several = names if isinstance(names, tuple) else (names,)
            parts = math.prod(sizes[name] for name in several if name is not None)
            if parts > 1:
                # The outermost factor is split, along one axis of it.
                axes = axes_of([dims[dim][:1]]) or axes_of([dims[dim]])
                shards += [(axis, parts) for axis in sorted(axes)[:1]]
                dims[dim] = resized(dims[dim], size_of([dims[dim]]) // parts)
        return weight.but(dims=tuple(dims), shards=tuple(shards), span=None)

    return enter


def _whole(shape: Sequence[int]) -> Callable[[Weight], Weight]:
    def leave(weight: Weight) -> Weight:
        dims = tuple(map(resized, weight.dims, shape))
        return weight.but(dims=dims, shards=(), span=None)

    return leave
