"""Scans that carry nothing, as stacks of independent leaves."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.extend.core import Literal as Constant

from jaxinit._compat import scan_counts
from jaxinit._inlining import inline


def vectorize_scans(program: ClosedJaxpr) -> ClosedJaxpr:
    """The same program with every scan that carries nothing as a `vmap` of its body.

    Such a scan is a stack of independent results, as the layers of a scanned model at
    initialization are. Random bits and elementwise operations keep their bits.
    """
    carry_free = [eqn for eqn in program.jaxpr.eqns if _is_carry_free(eqn)]
    if not carry_free:
        return program

    def run(*operands: Any) -> list[Any]:
        values = dict(zip(program.jaxpr.invars, operands, strict=True))
        values |= dict(zip(program.jaxpr.constvars, program.consts, strict=True))

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, Constant) else values[atom]

        for eqn in program.jaxpr.eqns:
            inputs = [value(atom) for atom in eqn.invars]
            if _is_carry_free(eqn):
                results = _mapped(eqn, inputs)
            else:
                results = eqn.primitive.bind(*inputs, **eqn.params)
                results = results if eqn.primitive.multiple_results else [results]
            values.update(zip(eqn.outvars, results, strict=True))
        return [value(atom) for atom in program.jaxpr.outvars]

    shapes = [
        jax.ShapeDtypeStruct(
            var.aval.shape, var.aval.dtype, weak_type=var.aval.weak_type
        )
        for var in program.jaxpr.invars
    ]
    vectorized = inline(jax.make_jaxpr(run)(*shapes))
    return vectorize_scans(vectorized)  # those of the bodies


def _is_carry_free(eqn: Any) -> bool:
    if eqn.primitive.name != "scan" or eqn.effects:
        return False
    _, carried = scan_counts(eqn.params)
    return carried == 0 and eqn.params["length"] > 0


def _mapped(eqn: Any, inputs: list[Any]) -> list[Any]:
    count, _ = scan_counts(eqn.params)
    constants, sequences = inputs[:count], inputs[count:]
    body = jaxpr_as_fun(eqn.params["jaxpr"])
    return jax.vmap(
        lambda *one: body(*constants, *one), axis_size=eqn.params["length"]
    )(*sequences)
