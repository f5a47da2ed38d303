"""From plan to arrays: on one device or shard by shard."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxinit._materialize._fill import Order, Stretch, aligned, fill
from jaxinit._materialize._plan import Compiled, Full, Given, Making, Program
from jaxinit._materialize._steps import Chain

Progress = Callable[[int, int], None]


def make_leaves(
    avals: Sequence[Any],
    makings: Sequence[Making | None],
    shardings: Sequence[Any],
    progress: Progress | None,
) -> list[Any]:
    """The leaf of every making, and the ShapeDtypeStruct itself where there is none."""
    done = _counter(avals, makings, progress)
    leaves: list[Any] = list(avals)
    orders: list[Order] = []
    finish: dict[int, Callable[[], Any]] = {}
    programs: dict[int, list[int]] = {}
    for index, (aval, making, sharding) in enumerate(
        zip(avals, makings, shardings, strict=True)
    ):
        if isinstance(making, Chain):
            own, finish[index] = _ordered(making, aval, sharding)
            orders.extend(own)
        elif isinstance(making, Full):
            leaves[index] = _full(making.value, aval, sharding)
            done(aval.size)
        elif isinstance(making, Given):
            leaves[index] = _placed(jnp.asarray(making.value), sharding)
            done(aval.size)
        elif isinstance(making, Compiled):
            programs.setdefault(id(making.program), []).append(index)
    for members in programs.values():
        made = _run([makings[index] for index in members], shardings, members)
        for index, leaf in zip(members, made, strict=True):
            leaves[index] = leaf
            done(leaf.size)
    fill(orders, done)
    for index, wrap in finish.items():
        leaves[index] = wrap()
    return leaves


def _counter(
    avals: Sequence[Any], makings: Sequence[Making | None], progress: Progress | None
) -> Callable[[int], None]:
    total = sum(
        aval.size for aval, making in zip(avals, makings, strict=True) if making
    )
    count = 0

    def done(more: int):
        nonlocal count
        count += more
        if progress is not None:
            progress(min(count, total), total)

    return done


# -------------------------------------------------------------------------- programs


def _run(makings: list[Any], shardings: Sequence[Any], members: list[int]) -> list[Any]:
    """The leaves of one program, each where it belongs."""
    program = makings[0].program
    # A leaf of reductions or factorizations is computed whole: parts would round
    # otherwise. Elementwise ones are computed where they lie.
    inside: list[Any] = [None] * len(program.closed.jaxpr.outvars)
    for making, index in zip(makings, members, strict=True):
        if making.local:
            inside[making.output] = shardings[index]
    run = _executable(program.name, tuple(inside), _Unnamed(program))
    outputs = run(*program.inputs)
    return [
        _placed(outputs[making.output], None if making.local else shardings[index])
        for making, index in zip(makings, members, strict=True)
    ]


class _Unnamed:
    """Holds a program without taking part in the comparison of cache keys."""

    def __init__(self, program: Program):
        self.program = program

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unnamed)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=256)
def _executable(
    name: str, shardings: tuple[Any, ...], held: _Unnamed
) -> Callable[..., list[Any]]:
    function = jaxpr_as_fun(held.program.closed)
    if any(sharding is not None for sharding in shardings):
        return jax.jit(function, out_shardings=list(shardings))
    return jax.jit(function)


def _placed(value: Any, sharding: Any) -> Any:
    return value if sharding is None else jax.device_put(value, sharding)


# ------------------------------------------------------------------- constants, chains


def _full(value: np.ndarray, aval: Any, sharding: Any) -> Any:
    if sharding is None:
        return jax.device_put(np.full(aval.shape, value, aval.dtype))
    return jax.make_array_from_callback(
        aval.shape,
        sharding,
        lambda index: np.full(_shape_of(index, aval.shape), value, aval.dtype),
    )


def _ordered(
    chain: Chain, aval: Any, sharding: Any
) -> tuple[list[Order], Callable[[], Any]]:
    """What to fill for a leaf, and how to make an array of it afterwards."""
    if sharding is None:
        buffer = aligned(aval.size, aval.dtype)
        order = Order(chain, aval.size, [Stretch(0, aval.size)], buffer)
        return [order], lambda: jax.device_put(buffer.reshape(aval.shape))
    buffers: dict[Any, np.ndarray] = {}
    orders = []
    indices = sharding.addressable_devices_indices_map(aval.shape)
    for index in indices.values():
        shape = _shape_of(index, aval.shape)
        if _hashable(index) not in buffers:
            buffer = aligned(math.prod(shape), aval.dtype)
            buffers[_hashable(index)] = buffer.reshape(shape)
            stretches = list(_stretches(index, aval.shape))
            orders.append(Order(chain, aval.size, stretches, buffer))

    def wrap() -> Any:
        shards = [
            jax.device_put(buffers[_hashable(index)], device)
            for device, index in indices.items()
        ]
        return jax.make_array_from_single_device_arrays(aval.shape, sharding, shards)

    return orders, wrap


def _hashable(index: tuple[slice, ...]) -> tuple[tuple[Any, Any], ...]:
    return tuple((part.start, part.stop) for part in index)


def _shape_of(index: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(
        len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True)
    )


def _stretches(index: tuple[slice, ...], shape: tuple[int, ...]) -> Iterator[Stretch]:
    """The elements of a shard in its own order, as few stretches as they need."""
    bounds = [
        (part.indices(size)[0], part.indices(size)[1])
        for part, size in zip(index, shape, strict=True)
    ]
    # Merge axes from the back while they are whole: they are consecutive.
    sizes, wholes = (
        list(shape),
        [b == (0, s) for b, s in zip(bounds, shape, strict=True)],
    )
    while len(sizes) > 1 and wholes[-1]:
        inner = sizes.pop()
        wholes.pop()
        bounds.pop()
        start, stop = bounds[-1]
        sizes[-1] *= inner
        bounds[-1] = (start * inner, stop * inner)
        wholes[-1] = bounds[-1] == (0, sizes[-1])
    if not sizes:
        yield Stretch(0, 1)
        return
    width, pitch = bounds[-1][1] - bounds[-1][0], sizes[-1]
    if len(sizes) == 1:
        yield Stretch(bounds[0][0], width)
        return
    # The last two axes are a block of columns; the ones before are counted out.
    outer = [range(*bound) for bound in bounds[:-2]]
    first, last = bounds[-2]
    for position in _positions(outer):
        base = 0
        for place, size in zip(position, sizes[:-2], strict=True):
            base = base * size + place
        base = (base * sizes[-2] + first) * pitch + bounds[-1][0]
        yield Stretch(base, (last - first) * width, width, pitch)


def _positions(ranges: list[range]) -> Iterator[tuple[int, ...]]:
    if not ranges:
        yield ()
        return
    for place in ranges[0]:
        for rest in _positions(ranges[1:]):
            yield (place, *rest)
