"""What the primitives that only rearrange elements do with the parameters in them.

Each rule maps a weight in one operand to the weight in one result, or to None where
nothing of it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxinit._signal._weights import (
    NO_AXES,
    Dim,
    Factor,
    Weight,
    axes_of,
    reshaped,
    resized,
    size_of,
    spread,
)

Rule = Callable[[Any, Weight, int], Weight | None]


def _result_shape(eqn: Any, result: int = 0) -> tuple[int, ...]:
    return tuple(eqn.outvars[result].aval.shape)


def _same(eqn: Any, weight: Weight, result: int) -> Weight:
    return weight


def _transpose(eqn: Any, weight: Weight, result: int) -> Weight:
    order = tuple(int(dim) for dim in eqn.params["permutation"])
    return _moved(weight, {old: new for new, old in enumerate(order)}, len(order))


def _squeeze(eqn: Any, weight: Weight, result: int) -> Weight:
    gone = {int(dim) for dim in eqn.params["dimensions"]}
    kept = [dim for dim in range(len(weight.dims)) if dim not in gone]
    return _moved(weight, {old: new for new, old in enumerate(kept)}, len(kept))


def _broadcast(eqn: Any, weight: Weight, result: int) -> Weight:
    shape = _result_shape(eqn)
    places = [int(dim) for dim in eqn.params["broadcast_dimensions"]]
    moved = _moved(weight, dict(enumerate(places)), len(shape))
    dims = tuple(
        dim if size_of([dim]) == size else spread(size)
        for dim, size in zip(moved.dims, shape, strict=True)
    )
    return moved.but(dims=dims)


def _moved(weight: Weight, places: dict[int, int], rank: int) -> Weight:
    dims: list[Dim] = [spread(1)] * rank
    for old, new in places.items():
        dims[new] = weight.dims[old]
    span = weight.span
    if span is not None:
        place = places.get(span[0])
        span = None if place is None else (place, *span[1:])
    return weight.but(dims=tuple(dims), span=span)


def _reshape(eqn: Any, weight: Weight, result: int) -> Weight:
    dims, order = weight.dims, eqn.params["dimensions"]
    if order is not None:
        dims = tuple(dims[int(dim)] for dim in order)
    return weight.but(dims=reshaped(dims, _result_shape(eqn)), span=None)


def _slice(eqn: Any, weight: Weight, result: int) -> Weight | None:
    start, limit = eqn.params["start_indices"], eqn.params["limit_indices"]
    return _cut(weight, start, limit, _result_shape(eqn))


def _split(eqn: Any, weight: Weight, result: int) -> Weight | None:
    shape, axis = _result_shape(eqn, result), eqn.params["axis"]
    start = [0] * len(shape)
    start[axis] = sum(eqn.params["sizes"][:result])
    limit = [low + size for low, size in zip(start, shape, strict=True)]
    return _cut(weight, start, limit, shape)


def _unstack(eqn: Any, weight: Weight, result: int) -> Weight | None:
    axis = eqn.params["axis"]
    shape = list(_result_shape(eqn, result))
    shape.insert(axis, 1)
    start = [result if dim == axis else 0 for dim in range(len(shape))]
    limit = [low + size for low, size in zip(start, shape, strict=True)]
    one = _cut(weight, start, limit, shape)
    if one is None:
        return None
    places = [dim for dim in range(len(shape)) if dim != axis]
    return _moved(one, {old: new for new, old in enumerate(places)}, len(places))


def _cut(
    weight: Weight, start: Sequence[int], limit: Sequence[int], shape: Sequence[int]
) -> Weight | None:
    span = weight.span
    if span is not None:
        dim, low, high = span
        low, high = max(low, start[dim]), min(high, limit[dim])
        if low >= high:
            return None
        span = (dim, low - start[dim], high - start[dim])
        span = None if span == (dim, 0, shape[dim]) else span
    dims = tuple(map(resized, weight.dims, shape))
    return weight.but(dims=dims, span=span)


def _resize(eqn: Any, weight: Weight, result: int) -> Weight:
    """A part, or a repetition, of which no more is known."""
    dims = tuple(map(resized, weight.dims, _result_shape(eqn, result)))
    return weight.but(dims=dims, span=None)


def _moving_slice(eqn: Any, weight: Weight, result: int) -> Weight:
    """A part that moves as a loop goes on, of which each element is met less often."""
    part = _resize(eqn, weight, result)
    parts, rest = divmod(size_of(weight.dims), max(size_of(part.dims), 1))
    if rest or weight.count is None or weight.count % max(parts, 1):
        return part
    looped = weight.looped and parts == 1
    return part.but(count=weight.count // parts, looped=looped)


def _assembled(eqn: Any, weight: Weight, result: int) -> Weight:
    """The parts of all devices: along an axis that grows, no longer split."""
    whole = _resize(eqn, weight, result)
    grown = axes_of(
        new for old, new in zip(weight.dims, whole.dims, strict=True) if old != new
    )
    kept = tuple(split for split in weight.shards if split[0] not in grown)
    return whole.but(shards=kept)


def _tile(eqn: Any, weight: Weight, result: int) -> Weight:
    dims = tuple(
        (*spread(times), *dim) if times > 1 else dim
        for dim, times in zip(weight.dims, eqn.params["reps"], strict=True)
    )
    return weight.but(dims=dims, span=None)


def _pad(eqn: Any, weight: Weight, result: int) -> Weight:
    resized_weight = _resize(eqn, weight, result)
    share = size_of(weight.dims) / max(size_of(resized_weight.dims), 1)
    return resized_weight.but(density=weight.density * min(share, 1.0))


def _reduce(eqn: Any, weight: Weight, result: int) -> Weight:
    gone = {int(axis) for axis in eqn.params["axes"]}
    dims = tuple(dim for i, dim in enumerate(weight.dims) if i not in gone)
    return weight.but(
        dims=dims, reduced=True, transformed=True, scales=False, span=None
    )


def _computed(eqn: Any, weight: Weight, result: int) -> Weight:
    return weight.but(transformed=True, scales=False)


def _linear(eqn: Any, weight: Weight, result: int) -> Weight:
    return weight.but(transformed=True)


def gathered_dims(eqn: Any, weight: Weight) -> tuple[tuple[Dim, ...], float]:
    """The dimensions of what a gather takes, and how many elements each index takes."""
    numbers = eqn.params["dimension_numbers"]
    sizes, shape = eqn.params["slice_sizes"], _result_shape(eqn)
    batching = tuple(numbers.operand_batching_dims)
    hidden = {*numbers.collapsed_slice_dims, *batching}
    windows = iter([dim for dim in range(len(sizes)) if dim not in hidden])
    indexed = axes_of(weight.dims[dim] for dim in numbers.start_index_map)
    indexed |= axes_of(weight.dims[dim] for dim in batching)
    dims, taken = [], 1.0
    for dim, size in enumerate(shape):
        if dim in numbers.offset_dims:
            dims.append(resized(weight.dims[next(windows)], size))
            taken *= size
        else:
            dims.append((Factor(indexed if size > 1 else NO_AXES, size),))
    return tuple(dims), taken


STRUCTURE: dict[str, Rule] = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "dynamic_slice": _moving_slice,
    "tile": _tile,
    "pad": _pad,
    "rev": _same,
    "convert_element_type": _same,
    "psum": _linear,
    "psum_invariant": _linear,
    "all_gather": _assembled,
    "all_gather_invariant": _assembled,
    "cumsum": _linear,
    "sort": _computed,
    "cumprod": _computed,
    "cummax": _computed,
    "cummin": _computed,
    "cumlogsumexp": _computed,
}
REDUCE: Rule = _reduce
SAME: Rule = _same
