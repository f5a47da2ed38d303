"""What every group does with its leaves: draw, layer by layer, and report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxinit._keys import fold_name
from jaxinit._paths import Flat, Name
from jaxinit._report import Finding, Report
from jaxinit.groups._gather import Group

COLUMNS = ("leaf", "set", "factor", "partner")


class Like(NamedTuple):
    """The shape and dtype of one layer of a leaf."""

    shape: tuple[int, ...]
    dtype: Any


# Keys, shapes, values and options of one layer -> its new values, each by role.
Method = Callable[
    [Mapping[str, Any], Mapping[str, Like], Mapping[str, Any], Any], dict[str, Any]
]


@dataclasses.dataclass(frozen=True)
class GroupReport(Report):
    """What a function of :mod:`jaxinit.groups` did.

    A row for each leaf: `set` is what it holds now ("kept" where nothing changed),
    `factor` the number that says how large (a standard deviation, a weight, a scale),
    and `partner` the leaves that were set together with it.
    """

    path_columns: ClassVar[tuple[str, ...]] = ("leaf", "partner")


class Said(NamedTuple):
    """What became of a leaf, in words, and the number that goes with it."""

    text: str
    factor: float | None = None


def widened(dtype: Any) -> Any:
    """The dtype to compute in: float32, or the dtype itself if it is wider."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def likes(group: Group, stacked_axis: int | None) -> dict[str, Like]:
    """For each role the shape and dtype of one layer."""
    found = {}
    for role, leaf in group.leaves.items():
        shape = tuple(jnp.shape(leaf))
        if stacked_axis is not None:
            if not -len(shape) <= stacked_axis < len(shape):
                group.refuse(
                    role, f"has shape {shape} and no stacked_axis {stacked_axis}"
                )
            shape = _without(shape, stacked_axis)
        found[role] = Like(shape, jnp.result_type(leaf))
    layers_of(group, stacked_axis)  # checks that all stack the same
    return found


def layers_of(group: Group, stacked_axis: int | None) -> int | None:
    """How many layers the leaves of a group stack; None where they do not."""
    if stacked_axis is None:
        return None
    sizes = {r: jnp.shape(leaf)[stacked_axis] for r, leaf in group.leaves.items()}
    first = next(iter(sizes))
    for role, size in sizes.items():
        if size != sizes[first]:
            group.refuse(
                role,
                f"stacks {size} layers along axis {stacked_axis}, and "
                f"{group.names[first].full!r} stacks {sizes[first]}",
            )
    return sizes[first]


def draw(
    method: Method,
    group: Group,
    like: Mapping[str, Like],
    options: Hashable,
    *,
    key: Any = None,
    values: Sequence[str] = (),
    stacked_axis: int | None = None,
) -> dict[Name, jax.Array]:
    """The new leaves of a group, in the dtypes and on the devices of the old ones.

    Every role has a key of its own, the caller's folded with the name of its leaf;
    stacked layers split it. `values` are the roles whose old values the method reads.
    """
    count = layers_of(group, stacked_axis)
    keys = {}
    if key is not None:
        keys = {role: fold_name(key, name) for role, name in group.names.items()}
    held = {role: group.leaves[role] for role in values if role in group}
    new = _run(
        method, tuple(sorted(like.items())), count, stacked_axis, options, keys, held
    )
    return {
        group.names[role]: placed(value, group.leaves[role])
        for role, value in new.items()
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run(
    method: Method,
    like: tuple[tuple[str, Like], ...],
    count: int | None,
    axis: int | None,
    options: Any,
    keys: dict[str, Any],
    values: dict[str, Any],
) -> dict[str, Any]:
    kinds = dict(like)

    def one(keys: Any, values: Any) -> dict[str, Any]:
        new = method(keys, kinds, values, options)
        return {
            role: jnp.reshape(value, kinds[role].shape).astype(kinds[role].dtype)
            for role, value in new.items()
        }

    if count is None or axis is None:
        return one(keys, values)
    split = {role: jax.random.split(key, count) for role, key in keys.items()}
    moved = {role: jnp.moveaxis(value, axis, 0) for role, value in values.items()}
    new = jax.vmap(one, axis_size=count)(split, moved)
    return {role: jnp.moveaxis(value, 0, axis) for role, value in new.items()}


def placed(value: Any, old: Any) -> Any:
    """The value where the old one was, if that was on several devices."""
    concrete = isinstance(old, jax.Array) and not isinstance(old, Tracer)
    if concrete and len(old.sharding.device_set) > 1:
        return jax.device_put(value, old.sharding)
    return value


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def finished(
    title: str,
    flat: Flat,
    families: Sequence[Iterable[Name]],
    new: Mapping[Name, Any],
    said: Mapping[Name, Said],
    *,
    findings: Sequence[Finding] = (),
    notes: Sequence[str] = (),
) -> tuple[Any, GroupReport]:
    """The tree with its new leaves, and the report that accounts for all of them.

    `families` are the names of leaves that were set together.
    """
    partners: dict[Name, dict[Name, None]] = {}
    for family in map(tuple, families):
        for name in family:
            others = dict.fromkeys(other for other in family if other != name)
            partners.setdefault(name, {}).update(others)
    rows = []
    for name in flat.names:
        text, factor = said.get(name, Said("kept"))
        together = ", ".join(other.full for other in partners.get(name, ()))
        rows.append((name.full, text, factor, together))
    plural = "s" * (len(families) != 1)
    report = GroupReport(
        f"{title}: {len(new)} of {len(rows)} leaves set, {len(families)} group{plural}",
        columns=COLUMNS,
        rows=tuple(rows),
        findings=tuple(findings),
        notes=tuple(notes),
    )
    return flat.replace(new), report
