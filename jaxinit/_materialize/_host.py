"""Values that the host can compute before any program runs: keys, indices, scalars.

An init function derives its keys by folding and splitting, a handful of integers each.
Compiled, hundreds of them cost seconds; here they cost microseconds, and are exact.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxinit import _threefry
from jaxinit._materialize._exact import (
    FLOAT_OPERATIONS,
    Unknown,
    apply,
    is_key,
    is_threefry,
)
from jaxinit._materialize._steps import Step, literal


class Host:
    """Evaluates the variables of a flat program that need no device.

    A random key is represented by its data, uint32 of shape (..., 2); only threefry
    keys are derived here.

    Args:
      program: a program without calls.
      arguments: its concrete arguments, None where only a shape is known.
    """

    def __init__(self, program: ClosedJaxpr, arguments: list[Any]):
        self.producer = {var: eqn for eqn in program.jaxpr.eqns for var in eqn.outvars}
        given = zip(program.jaxpr.invars, arguments, strict=True)
        constants = zip(program.jaxpr.constvars, program.consts, strict=True)
        self._given = dict(given) | dict(constants)
        self._known: dict[Any, Any] = {}
        self._literals: dict[int, Step] = {}
        self._texts: dict[int, tuple[tuple[str, str], ...]] = {}
        # What derives from arguments is computed at run time in the reference too,
        # where a product and a sum may be rounded once.
        self._variable = set(program.jaxpr.invars)
        self._eqns = program.jaxpr.eqns
        self.outputs = collections.Counter(
            var for var in program.jaxpr.outvars if not isinstance(var, Literal)
        )

    @functools.cached_property
    def position(self) -> dict[int, int]:
        """Where in the program an equation stands, by its id."""
        return {id(eqn): place for place, eqn in enumerate(self._eqns)}

    # Every call of a function holds the same literals and parameters, once inlined.

    def literal(self, atom: Any) -> Step:
        """A literal as a step of a chain."""
        if id(atom) not in self._literals:
            self._literals[id(atom)] = literal(self.value(atom))
        return self._literals[id(atom)]

    def params_text(self, eqn: Any) -> tuple[tuple[str, str], ...]:
        """What tells an equation's parameters from others'."""
        if id(eqn.params) not in self._texts:
            texts = tuple((name, repr(value)) for name, value in eqn.params.items())
            self._texts[id(eqn.params)] = texts
        return self._texts[id(eqn.params)]

    @functools.cached_property
    def random(self) -> set[Any]:
        """The variables that random bits lie behind."""
        found: set[Any] = set()
        for eqn in self._eqns:
            draws = eqn.primitive.name == "random_bits"
            if draws or any(
                not isinstance(var, Literal) and var in found for var in eqn.invars
            ):
                found.update(eqn.outvars)
        return found

    @functools.cached_property
    def users(self) -> dict[Any, list[Any]]:
        """The equations that a variable is an operand of."""
        users: dict[Any, list[Any]] = {}
        for eqn in self._eqns:
            for var in eqn.invars:
                if not isinstance(var, Literal):
                    users.setdefault(var, []).append(eqn)
        return users

    @functools.cached_property
    def draws(self) -> collections.Counter[Any]:
        """How often the program draws what, of the keys that the host knows."""
        draws: collections.Counter[Any] = collections.Counter()
        for eqn in self._eqns:
            if eqn.primitive.name == "random_bits":
                with contextlib.suppress(Unknown):
                    draws[self.draw(eqn)] += 1
        return draws

    def draw(self, eqn: Any) -> tuple[Any, ...]:
        """Equal for equations that draw the same bits."""
        key = self.value(eqn.invars[0])
        return key.shape, key.tobytes(), eqn.outvars[0].aval

    def value(self, var: Any) -> np.ndarray:
        """The value of a variable; raises Unknown where the host cannot tell."""
        if isinstance(var, Literal):
            return np.asarray(var.val, var.aval.dtype)
        if var not in self._known:
            self._evaluate(var)
        value = self._known[var]
        if value is None:
            raise Unknown
        return value

    def knows(self, var: Any) -> bool:
        """Whether the host can compute this variable."""
        try:
            self.value(var)
        except Unknown:
            return False
        return True

    def is_constant(self, var: Any) -> bool:
        """Whether a variable is made of literals alone, known to the compiler, too."""
        stack, seen = [var], set()
        while stack:
            var = stack.pop()
            if isinstance(var, Literal) or var in seen:
                continue
            seen.add(var)
            eqn = self.producer.get(var)
            if eqn is None:
                return False
            stack.extend(eqn.invars)
        return True

    def _evaluate(self, root: Any):
        # A stack of our own: chains of folds are deeper than Python's.
        stack = [root]
        while stack:
            var = stack[-1]
            if isinstance(var, Literal) or var in self._known:
                stack.pop()
                continue
            eqn = self.producer.get(var)
            if eqn is None:
                self._known[var] = _as_host(self._given.get(var))
                stack.pop()
                continue
            missing = [
                operand
                for operand in eqn.invars
                if not isinstance(operand, Literal) and operand not in self._known
            ]
            if missing and _is_small(eqn):
                stack.extend(missing)
                continue
            stack.pop()
            self._known[var] = self._compute(eqn, var) if _is_small(eqn) else None

    def _compute(self, eqn: Any, var: Any) -> np.ndarray | None:
        variable = any(
            not isinstance(operand, Literal) and operand in self._variable
            for operand in eqn.invars
        )
        if variable:
            self._variable.update(eqn.outvars)
        out = var.aval
        rounds = eqn.primitive.name in FLOAT_OPERATIONS
        rounds &= jnp.issubdtype(out.dtype, jnp.floating)
        if rounds and (variable or out.size > 1):
            return None
        try:
            operands = [self.value(operand) for operand in eqn.invars]
            return apply(eqn, operands, eqn.outvars.index(var))
        except Unknown:
            return None


def wrapped(data: np.ndarray, aval: Any) -> jax.Array:
    """The keys of this type that have these data."""
    own = str(aval.dtype) != "key<fry>"
    kind = _threefry.unrolled_prng_impl if own else "threefry2x32"
    return jax.random.wrap_key_data(jnp.asarray(data), impl=kind)


def _as_host(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    if isinstance(value, jax.Array) and is_key(value):
        if not is_threefry(value):
            return None
        return np.asarray(jax.random.key_data(value))
    if np.size(value) > 4096 or not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(value)


def _is_small(eqn: Any) -> bool:
    return sum(var.aval.size for var in eqn.outvars) <= 4096
