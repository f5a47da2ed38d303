"""How a weight is used: axes, groups, strides or an einsum equation -> fans.

``fan_in`` is the number of products summed into one output, ``fan_out`` the number of
outputs that one input contributes to. Both are properties of the *operation*; a shape
alone does not tell them, so every axis has to have a role.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Sequence
from typing import NamedTuple

Axes = int | Sequence[int]


class Fans(NamedTuple):
    """Products summed per output, and outputs per input (averages, where not whole)."""

    fan_in: float
    fan_out: float


def fans(
    shape: Sequence[int],
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    strides: int | Sequence[int] = 1,
    transposed: bool = False,
    equation: str | None = None,
) -> Fans:
    r"""Count the inputs of one output and the outputs of one input of a weight.

    With I, O the sizes of the in and out axes, k and s the sizes and strides of the
    spatial axes (those with no other role) and g the groups:

    .. math::
        fan_{in} = I \prod k, \quad fan_{out} = \frac{O}{g} \prod \frac{k}{s}
        \qquad \text{(transposed: } fan_{in} = I \prod \frac{k}{s},\;
        fan_{out} = \frac{O}{g} \prod k \text{)}

    Args:
      shape: of the stored weight.
      in_axis: axis or axes that are summed over. As in JAX, one that is also the
        *default* of the other role (``out_axis=0`` on a 2-D table) means a look-up.
      out_axis: axis or axes that index outputs.
      batch_axis: axes that select one of several independent weights (stacked layers,
        experts, positions); they take no part.
      groups: ``feature_group_count`` of a convolution; the stored in axis already holds
        one group's channels.
      strides: of the convolution, one for each spatial axis or one for all.
      transposed: whether the strides dilate the input, as in a transposed convolution.
      equation: ``"input,weight->output"``, instead of all other options: the roles of
        the weight's axes follow from the einsum itself.

    Raises:
      ValueError: an axis out of range or with two roles, groups that do not divide the
        outputs, strides that do not fit, an equation that does not fit the shape.

    Example:
      >>> fans((3, 3, 64, 128))
      Fans(fan_in=576.0, fan_out=1152.0)
      >>> fans((3, 3, 1, 64), groups=64)  # depthwise
      Fans(fan_in=9.0, fan_out=9.0)
      >>> fans((512, 8, 64), equation="btd,dnh->btnh")  # a query projection
      Fans(fan_in=512.0, fan_out=512.0)
      >>> fans((8, 64, 256), batch_axis=0)  # eight experts
      Fans(fan_in=64.0, fan_out=256.0)

    Source: He et al. 2015 (arXiv:1502.01852), sections 2.2; Glorot & Bengio 2010.
    """
    use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
    return use.fans(tuple(shape))


@dataclasses.dataclass(frozen=True)
class Use:
    """The options of :func:`fans`, checked as far as they can be without a shape."""

    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()
    groups: int = 1
    strides: int | Sequence[int] = 1
    transposed: bool = False
    equation: str | None = None

    def __post_init__(self):
        if self.equation is not None:
            self._check_alone()
            _roles_of_equation(self.equation)
            return
        named = [
            (role, axis)
            for role in ("in_axis", "out_axis", "batch_axis")
            for axis in _axes(getattr(self, role), role)
        ]
        _check_distinct(named, "")
        if isinstance(self.groups, bool) or not isinstance(self.groups, int):
            raise TypeError(f"groups must be an integer, got {self.groups!r}")
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1, got {self.groups}")
        for stride in _strides(self.strides):
            if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
                raise ValueError(
                    f"strides must be integers of at least 1, got {self.strides!r}"
                )

    @property
    def is_plain(self) -> bool:
        """Whether axes alone say it all, as they do for ``jax.nn.initializers``."""
        plain = self.equation is None and not self.transposed
        return (
            plain and self.groups == 1 and all(s == 1 for s in _strides(self.strides))
        )

    def fans(self, shape: tuple[int, ...]) -> Fans:
        """The fans of a weight of this shape."""
        if self.equation is not None:
            return _fans_of_equation(self.equation, shape)
        roles = self.roles(shape)
        ins, outs = roles["in_axis"], roles["out_axis"]
        spatial = [
            axis
            for axis in range(len(shape))
            if axis not in {*ins, *outs, *roles["batch_axis"]}
        ]
        strides = _strides(self.strides)
        if len(strides) == 1:
            strides = strides * len(spatial)
        if len(strides) != len(spatial):
            raise ValueError(
                f"strides {self.strides!r} names {len(strides)} axes, but a weight of "
                f"shape {shape} has {len(spatial)} spatial axes {tuple(spatial)}"
            )
        # An axis in both roles is an index into a table: it multiplies neither fan.
        n_in, n_out = _size(shape, ins - outs), _size(shape, outs - ins)
        if n_out % self.groups:
            raise ValueError(
                f"groups={self.groups} does not divide the {n_out} outputs "
                f"of a weight of shape {shape}"
            )
        taps = _size(shape, spatial)
        strided_taps = taps / math.prod(strides)
        taps_in, taps_out = taps, strided_taps
        if self.transposed:
            taps_in, taps_out = strided_taps, taps
        return Fans(float(n_in * taps_in), float(n_out * taps_out / self.groups))

    def roles(self, shape: tuple[int, ...]) -> dict[str, frozenset[int]]:
        """The axes of each role, counted from the front, for a weight of this shape."""
        if self.in_axis == -2 and len(shape) < 2:
            # The sentence that JAX gives, which callers may look for, and the shape.
            raise ValueError(
                f"Can't compute input and output sizes of a {len(shape)}-dimensional "
                "weights tensor with default in_axis. Must be at least 2D or specify "
                f"in_axis explicitly. Got shape {shape}"
            )
        named: list[tuple[str, int]] = []
        for role in ("in_axis", "out_axis", "batch_axis"):
            for axis in _axes(getattr(self, role), role):
                if not -len(shape) <= axis < len(shape):
                    raise ValueError(
                        f"{role} {axis} does not exist in a weight of shape {shape}; "
                        f"name the axes: in_axis=, out_axis= (and batch_axis=)"
                    )
                named.append((role, axis % len(shape)))
        look_up = self.in_axis == -2 or self.out_axis == -1
        _check_distinct(named, f" in a weight of shape {shape}", look_up)
        return {
            role: frozenset(axis for other, axis in named if other == role)
            for role in ("in_axis", "out_axis", "batch_axis")
        }

    def _check_alone(self):
        for field in dataclasses.fields(self):
            if field.name != "equation" and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"equation says how every axis is used, so {field.name} cannot be "
                    f"given with it (got {field.name}={getattr(self, field.name)!r})"
                )


def _axes(axes: Axes, role: str) -> tuple[int, ...]:
    named = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    try:
        return tuple(operator.index(axis) for axis in named)
    except TypeError:
        raise TypeError(
            f"{role} must be an axis or several (integers), got {axes!r}"
        ) from None


def _strides(strides: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(strides) if isinstance(strides, Sequence) else (strides,)


def _size(shape: tuple[int, ...], axes: Sequence[int] | frozenset[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _check_distinct(
    named: list[tuple[str, int]], where: str, look_up: bool = False
) -> None:
    seen: dict[int, str] = {}
    for role, axis in named:
        if axis in seen:
            roles = {seen[axis], role}
            if look_up and roles == {"in_axis", "out_axis"}:
                continue
            twice = " and ".join(sorted(roles))
            twice = twice if len(roles) == 2 else f"{twice}, twice"
            raise ValueError(
                f"axis {axis}{where} is named in {twice}; every axis has one role"
            )
        seen[axis] = role


# -------------------------------------------------------------------------- equations

_LABELS = re.compile(r"(\.\.\.)?[A-Za-z]*(\.\.\.)?[A-Za-z]*")


def _roles_of_equation(equation: str) -> tuple[str, dict[str, str]]:
    """The weight's labels and the role of each: "in", "out" or "batch"."""
    spaceless = equation.replace(" ", "")
    match = re.fullmatch(r"([^,>-]+),([^,>-]+)->([^,>-]*)", spaceless)
    if match is None:
        raise ValueError(
            f"equation must read 'input,weight->output', got {equation!r}; "
            "the weight is the second operand, the output is written out"
        )
    given, weight, output = match.groups()
    for labels in match.groups():
        letters = labels.replace("...", "")
        if not _LABELS.fullmatch(labels) or labels.count("...") > 1:
            raise ValueError(f"equation {equation!r}: {labels!r} is not a list of axes")
        if len(set(letters)) < len(letters):
            raise ValueError(
                f"equation {equation!r}: {labels!r} repeats an axis (a diagonal), "
                "which has no fans"
            )
    if "..." in weight:
        raise ValueError(f"equation {equation!r}: write out the axes of the weight")
    given, output = given.replace("...", ""), output.replace("...", "")
    if stray := set(output) - set(given) - set(weight):
        raise ValueError(
            f"equation {equation!r}: {''.join(sorted(stray))!r} is in the output only"
        )
    if summed := set(given) - set(weight) - set(output):
        raise ValueError(
            f"equation {equation!r} sums axis {''.join(sorted(summed))!r} of the input "
            "alone, whose size the weight does not tell: sum the input first, and "
            "give the equation without it"
        )
    roles = {}
    for label in weight:
        if label not in output:
            roles[label] = "in"
        else:
            roles[label] = "batch" if label in given else "out"
    return weight, roles


def _fans_of_equation(equation: str, shape: tuple[int, ...]) -> Fans:
    weight, roles = _roles_of_equation(equation)
    if len(weight) != len(shape):
        raise ValueError(
            f"equation {equation!r} has a weight of {len(weight)} axes {weight!r}, "
            f"which does not fit the shape {shape}"
        )
    sizes = dict(zip(weight, shape, strict=True))
    n_in = math.prod(sizes[label] for label in weight if roles[label] == "in")
    n_out = math.prod(sizes[label] for label in weight if roles[label] == "out")
    return Fans(float(n_in), float(n_out))
