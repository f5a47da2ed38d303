"""A program without calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as Constant

from jaxinit import _compat
from jaxinit._jaxpr import Subprogram, subprograms


def inline(program: ClosedJaxpr) -> ClosedJaxpr:
    """The same program without calls: what they hold stands in their place.

    Loops and branches stay. Outputs may be inputs, literals, or one value twice.
    """
    flat = _Flat(program)
    outputs = flat.emit(program, program.jaxpr.invars)
    jaxpr = Jaxpr(
        flat.constvars,
        program.jaxpr.invars,
        outputs,
        flat.eqns,
        program.jaxpr.effects,
        program.jaxpr.debug_info,
    )
    return ClosedJaxpr(jaxpr, flat.constants)


class _Flat:
    """Collects the equations of a program and of the calls in it, under new names."""

    def __init__(self, program: ClosedJaxpr):
        self.eqns: list[Any] = []
        self.constvars: list[Any] = []
        self.constants: list[Any] = []
        self.new = _compat.variables()
        # By the program that holds them: one that is called a hundred times is looked
        # through once.
        self.inside: dict[int, tuple[list[Subprogram | None], bool]] = {}

    def emit(
        self, program: ClosedJaxpr, operands: Sequence[Any], around: Any = None
    ) -> list[Any]:
        jaxpr = program.jaxpr
        names: dict[Any, Any] = dict(zip(jaxpr.invars, operands, strict=True))
        for var, value in zip(jaxpr.constvars, program.consts, strict=True):
            names[var] = self.new(var.aval)
            self.constvars.append(names[var])
            self.constants.append(value)

        calls, has_lines = self._inside(jaxpr)

        def named(atom: Any) -> Any:
            return atom if isinstance(atom, Constant) else names[atom]

        for eqn, call in zip(jaxpr.eqns, calls, strict=True):
            operands = [named(atom) for atom in eqn.invars]
            source = eqn.source_info
            if around is not None:
                scope = around.name_stack + source.name_stack
                source = (source if has_lines else around).replace(name_stack=scope)
            if call is not None:
                results = self.emit(call.program, operands, source)
            else:
                results = [self.new(var.aval) for var in eqn.outvars]
                parts = {"invars": operands, "outvars": results, "source_info": source}
                if eqn.effects:
                    parts["effects"] = _renamed(eqn.effects, names)
                self.eqns.append(eqn.replace(**parts))
            names.update(zip(eqn.outvars, results, strict=True))
        return [named(atom) for atom in jaxpr.outvars]

    def _inside(self, jaxpr: Jaxpr) -> tuple[list[Subprogram | None], bool]:
        """The calls among a program's equations, and whether these have lines."""
        if id(jaxpr) not in self.inside:
            calls = [
                next((sub for sub in subprograms(eqn) if sub.kind == "inline"), None)
                for eqn in jaxpr.eqns
            ]
            # What a function of JAX does inside was traced once for all who call it,
            # so that the user's line is that of the call.
            has_lines = any(_compat.frames(eqn) for eqn in jaxpr.eqns[:1])
            self.inside[id(jaxpr)] = calls, has_lines
        return self.inside[id(jaxpr)]


def _renamed(effects: Any, names: dict[Any, Any]) -> set[Any]:
    """Effects on references, by the new names of these."""
    return {
        effect.replace(names[effect.input])
        if getattr(effect, "input", None) in names
        else effect
        for effect in effects
    }
