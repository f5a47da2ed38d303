"""One level of a program with its calls written out, and where each equation was."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr
from jax.extend.core import Literal as Constant

from jaxinit import _jaxpr
from jaxinit._inlining import inline
from jaxinit._signal._use import Site


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A program, or the body of a loop or a branch, without the calls in it.

    Attributes:
      program: flat: calls stand in line, loops and branches stay.
      sites: where each of its equations stands in the program as it was traced.
      calls: for each equation the sites and names of the calls around it, outermost
        first.
      readers: for each variable the numbers of the equations that read it.
      makers: for each variable the number of the equation whose result it is.
      live: for each equation whether an output depends on it.
      within: the loops and branches around it, from the outside in.
    """

    program: ClosedJaxpr
    sites: tuple[Site, ...]
    calls: tuple[tuple[tuple[Site, str], ...], ...]
    readers: dict[Any, list[int]]
    makers: dict[Any, int]
    live: tuple[bool, ...]
    within: tuple[Any, ...]

    @property
    def eqns(self) -> list[Any]:
        return self.program.jaxpr.eqns


def frame_of(program: ClosedJaxpr, site: Site = (), within: tuple = ()) -> Frame:
    """The frame of a program that stands at a site."""
    flat = inline(program)
    addresses = list(_addresses(program, site, ()))
    eqns = flat.jaxpr.eqns
    if len(addresses) != len(eqns):
        raise AssertionError("inline and _addresses walk in different orders")
    live, readers = _liveness(flat), defaultdict(list)
    for number, eqn in enumerate(eqns):
        if live[number]:
            for var in {id(v): v for v in eqn.invars}.values():
                if not isinstance(var, Constant):
                    readers[var].append(number)
    sites, calls = zip(*addresses, strict=True) if addresses else ((), ())
    makers = {var: n for n, eqn in enumerate(eqns) for var in eqn.outvars}
    return Frame(flat, sites, calls, dict(readers), makers, tuple(live), within)


def _addresses(
    program: ClosedJaxpr, site: Site, calls: tuple[tuple[Site, str], ...]
) -> Iterator[tuple[Site, tuple[tuple[Site, str], ...]]]:
    for number, eqn in enumerate(program.jaxpr.eqns):
        here = (*site, number)
        for sub in _jaxpr.subprograms(eqn):
            if sub.kind == "inline":
                name = eqn.params.get("name")
                name = name if isinstance(name, str) else ""
                yield from _addresses(
                    sub.program, (*here, sub.role), (*calls, (here, name))
                )
                break
        else:
            yield here, calls


def _liveness(flat: ClosedJaxpr) -> list[bool]:
    wanted = {var for var in flat.jaxpr.outvars if not isinstance(var, Constant)}
    live = [False] * len(flat.jaxpr.eqns)
    for number, eqn in reversed(list(enumerate(flat.jaxpr.eqns))):
        if eqn.effects or any(var in wanted for var in eqn.outvars):
            live[number] = True
            wanted.update(v for v in eqn.invars if not isinstance(v, Constant))
    return live
