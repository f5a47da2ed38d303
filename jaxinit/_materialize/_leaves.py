"""From plan to arrays: on one device or shard by shard."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxinit._materialize._fill import Compiling, Filler
from jaxinit._materialize._plan import Full, Given, Making
from jaxinit._materialize._programs import Compiled, Program
from jaxinit._materialize._rows import Order, Stretch
from jaxinit._materialize._steps import Chain
from jaxinit._memory import vector


def make_leaves(
    avals: Sequence[Any],
    makings: Iterable[tuple[int, Making]],
    shardings: Sequence[Any],
    compiling: Compiling,
    report: Callable[[int], None],
) -> list[Any]:
    """The leaf of every making, and the ShapeDtypeStruct itself where there is none.

    Args:
      avals: the types of all leaves.
      makings: how to make some of them, by number. They are taken one by one: kernels
        compile while the next ones are still being planned.
      shardings: of all leaves, None for one of the default device.
      compiling: compiles the kernels.
      report: is told how many more elements are there.
    """
    leaves: list[Any] = list(avals)
    finish: dict[int, Callable[[], Any]] = {}
    whole: dict[int, np.ndarray] = {}
    known: dict[int, Full | Given] = {}
    programs: dict[int, dict[int, Compiled]] = {}
    with Filler(compiling, report) as filler:
        for index, making in makings:
            aval, sharding = avals[index], shardings[index]
            if isinstance(making, Compiled):
                programs.setdefault(id(making.program), {})[index] = making
            elif isinstance(making, Chain):
                orders, finish[index] = _ordered(making, aval, sharding)
                for order in orders:
                    filler.add(order)
            else:
                known[index] = making
        # Not before: writing an array lends Python's lock for a moment. That is too
        # short for the thread that compiles, which then begins to wait for it anew.
        for index, making in known.items():
            aval, sharding = avals[index], shardings[index]
            if isinstance(making, Full) and sharding is None:
                whole[index] = np.full(aval.shape, making.value, aval.dtype)
                continue
            if isinstance(making, Full):
                leaves[index] = _full(making.value, aval, sharding)
            else:
                leaves[index] = _placed(jnp.asarray(making.value), sharding)
            report(aval.size)
        for members in programs.values():
            for index, leaf in _run(members, shardings):
                leaves[index] = leaf
                report(leaf.size)
        filler.run()
    for index, wrap in finish.items():
        made = wrap()
        # Hundreds of small arrays reach the device sooner in one call.
        (whole if isinstance(made, np.ndarray) else leaves)[index] = made
    for index, leaf in zip(whole, jax.device_put(list(whole.values())), strict=True):
        leaves[index] = leaf
    report(sum(leaves[index].size for index in whole.keys() - finish.keys()))
    return leaves


# -------------------------------------------------------------------------- programs


def _run(
    members: dict[int, Compiled], shardings: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """The leaves of one program, each where it belongs."""
    program = next(iter(members.values())).program
    # A leaf of reductions or factorizations is computed whole: parts would round
    # otherwise. Elementwise ones are computed where they lie.
    inside: list[Any] = [None] * len(program.closed.jaxpr.outvars)
    for index, making in members.items():
        if making.local:
            inside[making.output] = shardings[index]
    run = _executable(program.name, tuple(inside), _Unnamed(program))
    outputs = run(*program.inputs)
    for index, making in members.items():
        sharding = None if making.local else shardings[index]
        yield index, _placed(outputs[making.output], sharding)


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
    return jax.make_array_from_callback(
        aval.shape,
        sharding,
        lambda index: np.full(_shape_of(index, aval.shape), value, aval.dtype),
    )


def _ordered(
    chain: Chain, aval: Any, sharding: Any
) -> tuple[list[Order], Callable[[], Any]]:
    """What to fill for a leaf, and how to make an array of it afterwards.

    Without a sharding that is an array of the host, to be handed over with others.
    """
    if sharding is None:
        buffer = vector(aval.size, aval.dtype)
        order = Order(chain, aval.size, [Stretch(0, aval.size)], buffer)
        return [order], lambda: buffer.reshape(aval.shape)
    buffers: dict[Any, np.ndarray] = {}
    orders = []
    indices = sharding.addressable_devices_indices_map(aval.shape)
    for index in indices.values():
        shape = _shape_of(index, aval.shape)
        if _hashable(index) not in buffers:
            buffer = vector(math.prod(shape), aval.dtype)
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
