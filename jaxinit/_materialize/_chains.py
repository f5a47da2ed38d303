"""Leaves that are random bits through an elementwise chain, and their canonical form.

Most leaves of an init function are: bits of one key, a chain of elementwise operations
with scalars, reshapes. Reshaping is the identity on the flat index, so that the chain
can be run on any stretch of the leaf, whatever its shape; two leaves with one chain can
be filled by one compiled kernel. What differs between them are the keys, the scalar of
the last operation (usually the standard deviation), and the size.

Only that one scalar may become an argument, see `_hoisting`. Every other number stays a
literal, and part of the chain's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import Literal

from jaxinit._compat import setting
from jaxinit._materialize._behind import Behind
from jaxinit._materialize._exact import Unknown, is_threefry
from jaxinit._materialize._hoisting import Hoisted, hoist
from jaxinit._materialize._host import Host
from jaxinit._materialize._steps import Chain, Step, name_of, runner
from jaxinit._primitives import ELEMENTWISE

# XLA computes these by other instructions where the last axis is shorter than this: it
# unrolls such loops, and packs them into vectors of other widths.
_SHORTEST = {
    "erf_inv": 9,
    **dict.fromkeys(
        """
        cosh erf erfc exp exp2 expm1 log logistic pow sinh tanh
        """.split(),  # noqa: SIM905
        16,
    ),
}
# The same where other leaves are made of the same draws: these may be computed on their
# own then, and are unrolled further.
_SHORTEST_SHARED = 32


class NotAChain(Exception):
    """Why a leaf cannot be filled in chunks; the text is shown by `explain`."""


def chain_of(host: Host, root: Any) -> Chain:
    """The chain that makes a variable, or NotAChain with the reason."""
    return _Builder(host, root).build()


class _Builder:
    def __init__(self, host: Host, root: Any):
        self.host, self.root = host, root
        self.behind = Behind(host, root)
        self.size = self.behind.size
        self.steps: list[Step] = []
        self.binds: list[Callable[..., Any]] = []
        self.numbers: dict[Any, int] = {}
        self.keys: list[np.ndarray] = []
        self.copies: int | None = None

    def build(self) -> Chain:
        root = self.behind.unshaped(self.root)
        if not self.behind.is_random(root):
            raise NotAChain("draws nothing")
        scalar = hoist(self.behind, root)
        last = self._visit(root, scalar)
        flat = [step.operation for step in self.steps if step.flat]
        shortest = max(_SHORTEST.get(operation, 0) for operation in flat)
        if self.behind.last_axis < shortest:
            raise NotAChain("its last axis is shorter than a vector")
        short = shortest > 0 and self.behind.last_axis < _SHORTEST_SHARED
        if short and self.behind.is_shared():
            raise NotAChain("its last axis is short, and it shares its draws")
        value = None if scalar is None else scalar.value
        steps, binds = tuple(self.steps), tuple(self.binds)
        run = runner(steps, binds, last)
        dtype = np.dtype(self.root.aval.dtype)
        copies = self.copies or 1
        return Chain(steps, tuple(self.keys), value, dtype, copies, short, run)

    def _visit(self, root: Any, hoisted: Hoisted | None) -> int:
        """Number the steps behind a variable in the order they are first needed."""
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            var, ready = stack.pop()
            var = self.behind.unshaped(var)
            if self._number(var) is not None:
                continue
            if isinstance(var, Literal):
                self._add(var, self.host.literal(var), None)
                continue
            random = self.behind.is_random(var)
            if var is not root and hoisted is not None and var is hoisted.scalar:
                continue
            eqn = self.host.producer.get(var)
            if eqn is None:
                self._constant(var)
            elif eqn.primitive.name == "random_bits":
                self._bits(var, eqn)
            elif not random and eqn.primitive.name == "broadcast_in_dim":
                # A scalar spread over the leaf stays a scalar.
                if eqn.invars[0].aval.size != 1:
                    raise NotAChain("mixes draws with an array of constants")
                self._alias(var, eqn.invars[0], ready, stack)
            elif eqn.primitive.name not in ELEMENTWISE:
                raise NotAChain(f"{eqn.primitive.name} is not elementwise")
            elif not random and self.behind.size_of(var) != 1:
                raise NotAChain("mixes draws with an array of constants")
            elif random and self.behind.size_of(var) != self.size:
                raise NotAChain("draws a scalar, or another size, on the way")
            elif ready:
                self._elementwise(var, eqn, hoisted if var is root else None, random)
            else:
                stack.append((var, True))
                ends = hoisted is not None and var is root
                operands = [hoisted.random] if ends else list(eqn.invars)
                stack.extend((operand, False) for operand in reversed(operands))
        number = self._number(self.behind.unshaped(root))
        assert number is not None
        return number

    def _number(self, var: Any) -> int | None:
        key = id(var) if isinstance(var, Literal) else var
        return self.numbers.get(key)

    def _add(self, var: Any, step: Step, bind: Callable[..., Any] | None):
        self.numbers[id(var) if isinstance(var, Literal) else var] = len(self.steps)
        self.steps.append(step)
        self.binds.append(bind or (lambda: None))

    def _alias(self, var: Any, source: Any, ready: bool, stack: list):
        source = self.behind.unshaped(source)
        number = self._number(source)
        if number is not None:
            self.numbers[var] = number
        elif ready:
            raise NotAChain("a scalar that no program makes")
        else:
            stack.append((var, True))
            stack.append((source, False))

    def _constant(self, var: Any):
        try:
            value = self.host.value(var)
        except Unknown:
            raise NotAChain("depends on an argument") from None
        if value.size != 1:
            raise NotAChain("mixes draws with an array of constants")
        # An argument is a number that the reference meets at run time only.
        raise NotAChain("depends on an argument")

    def _bits(self, var: Any, eqn: Any):
        key = eqn.invars[0]
        if not is_threefry(key.aval):
            raise NotAChain(f"{key.aval.dtype} has no random access")
        if not setting("jax_threefry_partitionable"):
            raise NotAChain("jax_threefry_partitionable is off")
        if var.aval.size != self.size:
            raise NotAChain("draws another number of bits than the leaf has elements")
        try:
            data = self.host.value(key).reshape(-1, 2)
        except Unknown:
            raise NotAChain("its key is computed by a program") from None
        if self.copies not in (None, len(data)):
            raise NotAChain("mixes draws of different batches of keys")
        self.copies = len(data)
        self.keys.append(data.astype(np.uint32))
        width = eqn.params["bit_width"]
        step = Step("bits", (), (("width", str(width)),), name_of(var.aval.dtype), True)
        self._add(var, step, None)

    def _elementwise(self, var: Any, eqn: Any, hoisted: Hoisted | None, random: bool):
        operands = []
        for operand in eqn.invars:
            if hoisted is not None and operand is hoisted.scalar:
                number = len(self.steps)
                dtype = name_of(operand.aval.dtype)
                self._add(object(), Step("hoisted", (), (), dtype, True), None)
            else:
                if hoisted is not None:
                    operand = hoisted.random
                number = self._number(self.behind.unshaped(operand))
                assert number is not None
            operands.append(number)
        params, name = self.host.params_text(eqn), name_of(var.aval.dtype)
        step = Step(eqn.primitive.name, tuple(operands), params, name, random)

        def bind(*values: Any) -> Any:
            return eqn.primitive.bind(*values, **eqn.params)

        self._add(var, step, bind)
