"""What is compared, as a program that can be run one equation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from jaxinit import _compat, _jaxpr, _paths
from jaxinit._containers import loaded
from jaxinit._inlining import inline
from jaxinit._primitives import STRUCTURAL, TRANSPARENT

# What only moves or converts elements is no intermediate of its own.
MOVING = STRUCTURAL | TRANSPARENT | {"convert_element_type"}


class Ran(NamedTuple):
    """One equation of a program, with what went in and what came out."""

    eqn: Any
    operands: tuple[Any, ...]
    results: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function, its arrays by variable, and which of them have a name.

    `names` are of parameters, `inputs` the variables of the batch.
    """

    jaxpr: Any
    values: dict[Any, Any]
    names: dict[Any, str]
    inputs: frozenset[Any]
    out_tree: Any

    @cached_property
    def depends(self) -> frozenset[Any]:
        """The variables that depend on the batch."""
        found = set(self.inputs)
        for eqn in self.jaxpr.eqns:
            if any(not isinstance(a, Literal) and a in found for a in eqn.invars):
                found.update(eqn.outvars)
        return frozenset(found)

    @cached_property
    def origins(self) -> dict[Any, str]:
        """The parameter behind each variable that is one, or one moved or converted."""
        origins = dict(self.names)
        for eqn in self.jaxpr.eqns:
            moved = variables(eqn.invars[:1])
            if eqn.primitive.name in MOVING and moved and moved[0] in origins:
                origins.update(dict.fromkeys(eqn.outvars, origins[moved[0]]))
        return origins

    def origin(self, atom: Any) -> str:
        """The name of the parameter that an operand is, or ""."""
        return "" if isinstance(atom, Literal) else self.origins.get(atom, "")

    def place(self, eqn: Any) -> str:
        """The module that an equation belongs to, as far as the program tells.

        That is its scope, which linen writes, or else the parent of a parameter of its.
        """
        if scope := str(eqn.source_info.name_stack):
            return scope
        parents = [
            name.rpartition("/")[0]
            for atom in eqn.invars
            if (name := self.origin(atom))
        ]
        return parents[0].rpartition(":")[2] if parents else ""


class Execution:
    """A program being run; a value is let go after its last use."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.outputs: list[Any] = []

    def __iter__(self) -> Iterator[Ran]:
        jaxpr, env = self.program.jaxpr, dict(self.program.values)
        last = {
            atom: position
            for position, eqn in enumerate(jaxpr.eqns)
            for atom in variables(eqn.invars)
        }
        kept = set(variables(jaxpr.outvars))
        for position, eqn in enumerate(jaxpr.eqns):
            operands = tuple(_value(env, atom) for atom in eqn.invars)
            results = _run(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
            yield Ran(eqn, operands, results)
            for atom in set(variables(eqn.invars)):
                if last[atom] == position and atom not in kept:
                    del env[atom]
        self.outputs = [_value(env, atom) for atom in jaxpr.outvars]


def as_program(f: Callable[..., Any], inputs: Sequence[Any]) -> Program:
    """The program of a function of the inputs, calls inlined.

    The parameters of an nnx Module and of a bound linen Module have their names; what
    another function closes over is known by its values alone.
    """
    function, params = _opened(f)
    traced = _jaxpr.trace(
        lambda params, *inputs: function(params, *inputs), params, *inputs
    )
    program = inline(traced.program)
    invars = list(program.jaxpr.invars)
    names = [name.full for name in _paths.flatten(params).names]
    arrays = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)]
    values = dict(zip(invars, arrays, strict=True))
    values.update(zip(program.jaxpr.constvars, program.consts, strict=True))
    return Program(
        program.jaxpr,
        values,
        dict(zip(invars, names, strict=False)),
        frozenset(invars[len(names) :]),
        traced.out_tree,
    )


def _opened(f: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """The function with its parameters as an argument, where it shows them."""
    nnx_module = loaded("flax.nnx", "Module")
    linen_module = loaded("flax.linen", "Module")
    if nnx_module is not None and isinstance(f, nnx_module):
        graph, state = loaded("flax.nnx", "split")(f)
        merge = loaded("flax.nnx", "merge")
        return lambda state, *inputs: merge(graph, state)(*inputs), state
    if linen_module is not None and isinstance(f, linen_module) and f.scope:
        module, variables = f.unbind()
        return module.apply, variables
    return lambda params, *inputs: f(*inputs), {}


def variables(atoms: Sequence[Any]) -> list[Any]:
    """The operands that are no literals."""
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _value(env: dict[Any, Any], atom: Any) -> Any:
    return jnp.asarray(atom.val) if isinstance(atom, Literal) else env[atom]


def _run(eqn: Any, operands: Sequence[Any]) -> tuple[Any, ...]:
    if any(sub.kind == "opaque" for sub in _jaxpr.subprograms(eqn)):
        return tuple(_alone(eqn)(*operands))
    found = eqn.primitive.bind(*operands, **eqn.params)
    return tuple(found) if eqn.primitive.multiple_results else (found,)


def _alone(eqn: Any) -> Callable[..., Sequence[Any]]:
    """An equation as a function of its operands, literals included."""
    new = _compat.variables()
    operands = [new(atom.aval) for atom in eqn.invars]
    copied = eqn.replace(invars=operands)
    jaxpr = Jaxpr((), operands, eqn.outvars, [copied], eqn.effects)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))
