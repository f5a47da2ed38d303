"""Two models of one family compared: which leaves grow, and by how much."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit.presets._anatomy import Anatomy, Part, anatomy
from jaxinit.presets._branches import inner_nodes
from jaxinit.presets._flow import Flow

WidthRole = Literal["input", "hidden", "output", "vector", "tied", "fixed"]


@dataclasses.dataclass(frozen=True, eq=False)
class Width:
    """How a leaf grows from the base to the target.

    Attributes:
      part: the leaf of the target.
      base: the leaf of the base that it comes from.
      role: "hidden" where inputs and outputs grow, "input" where the outputs alone do,
        "output" where the inputs do, "vector" where it is met one by one, "tied" for a
        table that is the head as well, "fixed" where nothing grows.
      grows_in: the inputs of the target over those of the base.
      grows_out: the same of the outputs.
      inside: whether it belongs to a residual branch.
    """

    part: Part
    base: Part
    role: WidthRole
    grows_in: float
    grows_out: float
    inside: bool


def checked_model(given: Any, argument: str) -> tuple[Any, ...]:
    """The model, if it is one as `from_linen` and `from_nnx` return it."""
    if not (isinstance(given, tuple) and len(given) >= 2 and callable(given[0])):
        raise TypeError(
            f"{argument} must be a model as jaxinit.from_linen(model, variables, x) or "
            "from_nnx(model, x) returns it, (f, params, *args), since axes alone do "
            f"not tell what a leaf does; got {type(given).__name__}"
        )
    return given


def compared(base: Anatomy, target: Anatomy) -> dict[Name, Width]:
    """Every leaf of the target, beside the leaf of the base that it comes from."""
    alike: dict[str, Part] = {}
    for name, part in base.parts.items():
        alike.setdefault(_unnumbered(name.full), part)
    inside = {
        node for branch in target.branches for node in inner_nodes(target.flow, branch)
    }
    found = {}
    for name, part in target.parts.items():
        other = _counterpart(name, part, base.parts, alike)
        found[name] = _width(part, other, _in_branch(part, target.flow, inside))
    return found


def model_of(given: Any, argument: str) -> Anatomy:
    """A model, taken apart."""
    f, params, *args = checked_model(given, argument)
    return anatomy(f, params, *args)


def _counterpart(
    name: Name, part: Part, base: Mapping[Name, Part], alike: Mapping[str, Part]
) -> Part:
    other = base.get(name)
    if other is None:  # of a deeper network: any layer with this name
        other = alike.get(_unnumbered(name.full))
    if other is None:
        raise RuleError(
            f"target: {name.full!r} has no counterpart in the base, whose leaves are "
            f"{', '.join(repr(n.full) for n in list(base)[:4])}, ...; build both with "
            "the same code, at other widths"
        )
    if len(other.shape) != len(part.shape):
        raise RuleError(
            f"target: {name.full!r} has {len(part.shape)} axes, and {len(other.shape)} "
            "in the base; build both with the same code, at other widths"
        )
    return other


def _unnumbered(full: str) -> str:
    return re.sub(r"\d+", "#", full)


def _width(part: Part, base: Part, inside: bool) -> Width:
    into, out = _growth(part, base)
    kinds = {use.kind for use in part.uses}
    if "gather" in kinds and part.use.is_product:
        role: WidthRole = "tied" if into != 1 else "fixed"
        out = into = max(into, out)
    elif part.use.is_product:
        role = _product_role(into, out)
        if role == "fixed" and (more := _sizes(part, base)) != 1:
            role, out = "vector", more  # one by one, as a depthwise convolution
    elif part.use.kind == "gather":
        into, role = 1.0, "input" if out != 1 else "fixed"
    else:
        into, role = 1.0, "vector" if out != 1 else "fixed"
    return Width(part, base, role, into, out, inside)


def _product_role(into: float, out: float) -> WidthRole:
    if into == 1:
        return "fixed" if out == 1 else "input"
    return "output" if out == 1 else "hidden"


def _growth(part: Part, base: Part) -> tuple[float, float]:
    """By what the inputs and the outputs of one weight grow."""
    if part.use.is_product:
        into = float(part.use.fan_in or 1) / float(base.use.fan_in or 1)
        out = float(part.use.fan_out or 1) / float(base.use.fan_out or 1)
        return into, out
    if part.use.kind == "gather":
        rows = [part.shape[axis] / base.shape[axis] for axis in part.use.out_axis]
        return 1.0, float(np.prod(rows))
    return 1.0, _sizes(part, base)


def _sizes(part: Part, base: Part) -> float:
    """By what the number of elements grows, layers aside."""
    sizes = [
        own / other
        for axis, (own, other) in enumerate(zip(part.shape, base.shape, strict=True))
        if axis not in part.stacked
    ]
    return float(np.prod(sizes))


def _in_branch(part: Part, flow: Flow, inside: Collection[int]) -> bool:
    """Whether it is used within a residual connection."""
    steps = [flow.by_site.get(use.site) for use in part.uses]
    within = any(step is not None and step.outputs[0] in inside for step in steps)
    return within or part.stream is not None
