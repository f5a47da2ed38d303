"""Where in a traced program an equation is, and what lies on the way to it.

A *site* addresses an equation: the numbers of equations from the outermost program
inwards, with the role of the inner program (see :func:`jaxinit._jaxpr.subprograms`)
after each equation that is entered, as in ``(12, "jaxpr", 3, "branches[1]", 7)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr

from jaxinit import _compat
from jaxinit._jaxpr import Subprogram, subprograms
from jaxinit._signal._use import Site


class Level(NamedTuple):
    """A leading axis of a record: why it is there, and how long it is."""

    kind: str  # "scan" or "shard"
    size: int


def levels(program: ClosedJaxpr, site: Site) -> tuple[Level, ...]:
    """The leading axes of the record of a site, the outermost first."""
    found = []
    for _, eqn, sub in descent(program, site):
        if sub.kind == "scan":
            found.append(Level("scan", eqn.params["length"]))
        elif eqn.primitive.name == "shard_map":
            options = _compat.shard_options(eqn.params)
            sizes = [options["mesh"].shape[name] for name in manual_axes(options)]
            found.append(Level("shard", math.prod(sizes)))
    return tuple(found)


def level_entries(program: ClosedJaxpr, site: Site) -> tuple[int, ...]:
    """For each leading axis the place in the site of the role that makes it."""
    return tuple(
        2 * depth + 1
        for depth, (_, eqn, sub) in enumerate(descent(program, site))
        if sub.kind == "scan" or eqn.primitive.name == "shard_map"
    )


def has_tap(program: ClosedJaxpr, site: Site) -> bool:
    """Whether a gradient can be told at a site.

    Inside of a loop of unknown length JAX has none, and a derivative of a function's
    own does not pass through what the function computes.
    """
    return not any(
        sub.kind == "while" or has_rule(eqn) for _, eqn, sub in descent(program, site)
    )


def equation(program: ClosedJaxpr, site: Site) -> Any:
    """The equation that a site addresses."""
    for _, _, sub in descent(program, site):
        program = sub.program
    return program.jaxpr.eqns[site[-1]]


def descent(program: ClosedJaxpr, site: Site) -> list[tuple[Any, Any, Subprogram]]:
    """The equations that are entered on the way to a site, and by which program."""
    found = []
    for number, role in zip(site[0:-1:2], site[1::2], strict=True):
        eqn = program.jaxpr.eqns[number]
        (sub,) = (sub for sub in subprograms(eqn) if sub.role == role)
        found.append((number, eqn, sub))
        program = sub.program
    return found


def manual_axes(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The axes of the mesh that a shard_map maps over, in the order of the mesh."""
    names = options["mesh"].axis_names
    return tuple(name for name in names if name in options["axis_names"])


def has_rule(eqn: Any) -> bool:
    """Whether an equation holds a function with a derivative of its own."""
    return eqn.primitive.name.startswith(("custom_jvp", "custom_vjp"))
