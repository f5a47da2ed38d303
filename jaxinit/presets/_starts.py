"""From what a preset says of each leaf to parameters and a report."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxinit._errors import RuleError
from jaxinit._keys import fold_name, require_key
from jaxinit._paths import Name
from jaxinit._report import Finding, Report
from jaxinit.presets._anatomy import Anatomy, Part

_COLUMNS = ("leaf", "role", "layer", "stddev", "factor", "start")


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """How a leaf starts.

    Attributes:
      stddev: the standard deviation, or one for each layer; None for a constant.
      factor: by how much depth, or its like, made it smaller or larger.
      value: the constant.
      cut: at how many deviations of the normal distribution it is cut off.
    """

    stddev: Any = None
    factor: Any = 1.0
    value: float | None = None
    cut: float | None = None

    def same(self, other: Start) -> bool:
        """Whether both say the same."""
        return (
            (self.value, self.cut) == (other.value, other.cut)
            and (self.stddev is None) == (other.stddev is None)
            and (self.stddev is None or np.allclose(self.stddev, other.stddev))
        )


Says = Callable[[Part, str], Start | None]


def started(
    preset: str,
    network: Anatomy,
    says: Says,
    key: Any,
    findings: Sequence[Finding] = (),
    notes: Sequence[str] = (),
) -> tuple[Any, Report]:
    """The parameters that a preset wants, and what became of each leaf."""
    starts = {
        name: start
        for name, part in network.parts.items()
        if (start := _start_of(preset, part, says)) is not None
    }
    draws = any(start.value is None for start in starts.values())
    if draws and key is not None:
        key = require_key(key, f"to draw weights as {preset} does")
    replaced = {
        name: _begin(preset, network.parts[name], start, key)
        for name, start in starts.items()
    }
    rows = [_row(part, starts.get(name), key) for name, part in network.parts.items()]
    report = Report(
        f"{preset}: {len(replaced)} of {len(rows)} leaves",
        columns=_COLUMNS,
        rows=tuple(rows),
        findings=tuple(findings),
        notes=tuple(notes),
    )
    return network.signal.params.replace(replaced), report


def _start_of(preset: str, part: Part, says: Says) -> Start | None:
    if part.said and not part.roles:
        return None
    if not part.said and part.use.kind == "unknown":
        raise RuleError(
            f"{preset}: how {part.name.full!r} is used is not known "
            f"({part.use.detail}); say what it is, roles=[({part.name.full!r}, "
            "'feed_forward_in')], or None in place of the role to keep it"
        )
    roles = list(part.roles)
    if set(roles) == {"embedding", "head"}:
        roles = ["embedding"]  # a tied table
    several = [says(part, role) for role in roles]
    first = several[0] if several else None
    for other in several[1:]:
        if (first is None) != (other is None) or (
            first is not None and other is not None and not first.same(other)
        ):
            raise RuleError(
                f"{preset}: {part.name.full!r} is {', '.join(roles)} at once, and "
                "these start differently; give them arrays of their own, or say which "
                f"counts, roles=[({part.name.full!r}, {roles[0]!r})]"
            )
    return first


def _begin(preset: str, part: Part, start: Start, key: Any) -> jax.Array:
    leaf, name = part.leaf, part.name
    dtype = jnp.result_type(leaf)
    wide = dtype if jnp.finfo(dtype).bits > 32 else jnp.float32
    if start.value is not None:
        begun = jnp.asarray(np.full(part.shape, start.value, dtype))
    elif key is not None:
        stddev = part.along(start.stddev).astype(wide)
        own = fold_name(key, name)
        begun = _drawn(own, stddev, part.shape, start.cut).astype(dtype)
    else:
        begun = _rescaled(preset, part, start, wide).astype(dtype)
    sharding = getattr(leaf, "sharding", None)
    if isinstance(leaf, jax.Array) and len(sharding.device_set) > 1:  # ty: ignore
        begun = jax.device_put(begun, sharding)
    return begun


@functools.partial(jax.jit, static_argnums=(2, 3))
def _drawn(key: Any, stddev: Any, shape: tuple[int, ...], cut: float | None) -> Any:
    """Normal numbers of this deviation, after the cut."""
    if cut is None:
        return jax.random.normal(key, shape, stddev.dtype) * stddev
    drawn = jax.random.truncated_normal(key, -cut, cut, shape, stddev.dtype)
    return drawn * (stddev / np.asarray(cut_stddev(cut), stddev.dtype))


def cut_stddev(cut: float) -> float:
    """The standard deviation of N(0, 1) cut at both sides."""
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def _rescaled(preset: str, part: Part, start: Start, wide: Any) -> jax.Array:
    """The leaf as it is, brought to the deviation layer by layer."""
    leaf, full = part.leaf, part.name.full
    if not isinstance(leaf, (jax.Array, np.ndarray)):
        raise ValueError(
            f"key is needed: {full!r} is a shape, and {preset} has no weights to "
            "rescale; pass key=jax.random.key(seed)"
        )
    values = jnp.asarray(leaf, wide)
    axes = tuple(n for n in range(values.ndim) if n not in part.stacked)
    size = jnp.sqrt(jnp.mean(jnp.square(values), axis=axes, keepdims=True))
    if not isinstance(size, Tracer) and bool(jnp.any(size == 0)):
        raise ValueError(
            f"key is needed: {full!r} is zero, and no factor brings it to the "
            f"deviation that {preset} wants; pass key=jax.random.key(seed)"
        )
    return values * (part.along(start.stddev).astype(wide) / size)


def _row(part: Part, start: Start | None, key: Any) -> tuple[Any, ...]:
    row: dict[str, Any] = {
        "leaf": part.name.full,
        "role": ", ".join(part.roles),
        "layer": _layers(part) if part.stream is not None else None,
        "start": "kept",
    }
    if start is not None:
        row |= {"stddev": _number(start.stddev), "factor": _number(start.factor)}
        row["start"] = "drawn" if key is not None else "rescaled"
        if start.value is not None:
            row |= {"stddev": 0.0, "start": f"= {start.value:g}"}
    return tuple(row.get(column) for column in _COLUMNS)


def _layers(part: Part) -> Any:
    block = np.asarray(part.block)
    return int(block) if block.ndim == 0 else tuple(block.ravel().tolist())


def _number(value: Any) -> Any:
    """A number, or where layers differ a tuple of them."""
    if value is None:
        return None
    array = np.asarray(value, np.float64)
    if array.size and np.all(array == array.ravel()[0]):
        return float(array.ravel()[0])
    return tuple(array.ravel().tolist())


def by_name(starts: Mapping[Name, Start | None]) -> Says:
    """What was decided leaf by leaf."""
    return lambda part, role: starts.get(part.name)
