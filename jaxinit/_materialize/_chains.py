"""Leaves that are random bits through an elementwise chain, and their canonical form.

Most leaves of an init function are: bits of one key, a chain of elementwise operations
with scalars, reshapes. Reshaping is the identity on the flat index, so that the chain
can be run on any stretch of the leaf, whatever its shape; two leaves with one chain can
be filled by one compiled kernel. What differs between them are the keys, the scalar of
the last operation (usually the standard deviation), and the size.

Only that one scalar may become an argument, and only where XLA has nothing to merge it
with: with two, or after another sum or product with a scalar, it reassociates, and the
last digit moves. Every other number stays a literal, and part of the chain's name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import Literal

from jaxinit._compat import setting
from jaxinit._materialize._host import Host, Unknown, is_threefry
from jaxinit._materialize._steps import Chain, Step, literal, name_of, runner
from jaxinit._primitives import ELEMENTWISE, RESHAPING

_HOISTING = frozenset(("mul", "div", "add", "sub"))
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
_TRANSPARENT = frozenset(("neg", "copy", "stop_gradient", "convert_element_type"))


class NotAChain(Exception):
    """Why a leaf cannot be filled in chunks; the text is shown by `explain`."""


def chain_of(host: Host, root: Any) -> Chain:
    """The chain that makes a variable, or NotAChain with the reason."""
    return _Builder(host, root).build()


class _Builder:
    def __init__(self, host: Host, root: Any):
        self.host, self.root = host, root
        self.size = root.aval.size
        self.last_axis = self.size
        self.shapes: set[tuple[Any, ...]] = set()  # of what was walked through
        self.sizes: dict[tuple[Any, ...], int] = {}
        self.steps: list[Step] = []
        self.binds: list[Callable[..., Any]] = []
        self.numbers: dict[Any, int] = {}
        self.keys: list[np.ndarray] = []
        self.copies: int | None = None
        self.random: dict[Any, bool] = {}

    def build(self) -> Chain:
        root = self._unshaped(self.root)
        if isinstance(root, Literal) or not self._is_random(root):
            raise NotAChain("draws nothing")
        scalar = self._hoist(root)
        last = self._visit(root, hoisted=scalar)
        flat = [step.operation for step in self.steps if step.flat]
        shortest = max(_SHORTEST.get(operation, 0) for operation in flat)
        if self.last_axis < shortest:
            raise NotAChain("its last axis is shorter than a vector")
        value = None if scalar is None else scalar[1]
        steps, binds = tuple(self.steps), tuple(self.binds)
        run = runner(steps, binds, last)
        dtype = np.dtype(self.root.aval.dtype)
        return Chain(steps, tuple(self.keys), value, dtype, self.copies or 1, run)

    # -- structure

    def _unshaped(self, var: Any) -> Any:
        """Walk back through reshapes, which are the identity on the flat index."""
        while not isinstance(var, Literal):
            eqn = self.host.producer.get(var)
            shape = var.aval.shape
            if shape not in self.shapes:
                self.shapes.add(shape)
                self.last_axis = min(self.last_axis, _last_axis(var.aval, self.size))
            if eqn is None or eqn.primitive.name not in RESHAPING:
                return var
            if len(eqn.invars) != 1 or self._size(eqn.invars[0]) != self._size(var):
                return var
            if eqn.primitive.name == "reshape" and eqn.params.get("dimensions"):
                return var
            var = eqn.invars[0]
        return var

    def _size(self, var: Any) -> int:
        shape = var.aval.shape  # which counts its elements anew each time it is asked
        if shape not in self.sizes:
            self.sizes[shape] = var.aval.size
        return self.sizes[shape]

    def _is_random(self, root: Any) -> bool:
        """Whether random bits lie behind a variable."""
        stack = [root]
        while stack:
            var = stack[-1]
            eqn = None if isinstance(var, Literal) else self.host.producer.get(var)
            if eqn is None or eqn.primitive.name == "random_bits":
                if not isinstance(var, Literal):
                    self.random[var] = eqn is not None
                stack.pop()
                continue
            if var in self.random:
                stack.pop()
                continue
            behind = [v for v in eqn.invars if not isinstance(v, Literal)]
            missing = [v for v in behind if v not in self.random]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            self.random[var] = any(self.random[v] for v in behind)
        return self.random.get(root, False)

    # -- the one scalar

    def _hoist(self, root: Any) -> tuple[Any, np.ndarray] | None:
        eqn = self.host.producer.get(root)
        if eqn is None or eqn.primitive.name not in _HOISTING:
            return None
        fixed = [
            v for v in eqn.invars if isinstance(v, Literal) or not self._is_random(v)
        ]
        if len(fixed) != 1 or root.aval.dtype not in (np.float32, np.float64):
            return None
        if self._folds(eqn, fixed[0]):
            return None
        try:
            return fixed[0], self._scalar_value(fixed[0])
        except Unknown:
            return None

    def _folds(self, eqn: Any, fixed: Any) -> bool:
        """Whether XLA may merge the last scalar with one before it.

        ``(x + a) + b`` becomes ``x + (a + b)`` for literals, and does not where b is an
        argument: so b stays a literal there, and likewise for products.
        """
        sums = ("add", "sub")
        (inner,) = (var for var in eqn.invars if var is not fixed)
        while True:
            before = self.host.producer.get(self._unshaped(inner))
            if before is None or before.primitive.name not in _TRANSPARENT:
                break
            inner = before.invars[0]
        if before is None or before.primitive.name not in _HOISTING:
            return False
        same = (before.primitive.name in sums) == (eqn.primitive.name in sums)
        return same and not all(
            not isinstance(v, Literal) and self._is_random(v) for v in before.invars
        )

    def _scalar_value(self, var: Any) -> np.ndarray:
        while not isinstance(var, Literal) and var.aval.size != 1:
            eqn = self.host.producer.get(var)
            if eqn is None or eqn.primitive.name not in RESHAPING:
                raise Unknown
            var = eqn.invars[0]
        return self.host.value(var).reshape(())

    # -- steps

    def _visit(self, root: Any, hoisted: tuple[Any, np.ndarray] | None) -> int:
        """Number the steps behind a variable in the order they are first needed."""
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            var, ready = stack.pop()
            var = self._unshaped(var)
            if self._number(var) is not None:
                continue
            if isinstance(var, Literal):
                self._add(var, literal(np.asarray(var.val, var.aval.dtype)), None)
                continue
            random = self._is_random(var)
            if var is not root and hoisted is not None and var is hoisted[0]:
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
            elif not random and self._size(var) != 1:
                raise NotAChain("mixes draws with an array of constants")
            elif random and self._size(var) != self.size:
                raise NotAChain("draws a scalar, or another size, on the way")
            elif ready:
                self._elementwise(var, eqn, hoisted if var is root else None, random)
            else:
                stack.append((var, True))
                skipped = hoisted[0] if hoisted is not None and var is root else None
                stack.extend(
                    (operand, False)
                    for operand in reversed(eqn.invars)
                    if operand is not skipped
                )
        number = self._number(self._unshaped(root))
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
        source = self._unshaped(source)
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

    def _elementwise(
        self, var: Any, eqn: Any, hoisted: tuple[Any, np.ndarray] | None, random: bool
    ):
        operands = []
        for operand in eqn.invars:
            if hoisted is not None and operand is hoisted[0]:
                number = len(self.steps)
                dtype = name_of(operand.aval.dtype)
                self._add(object(), Step("hoisted", (), (), dtype, True), None)
            else:
                number = self._number(self._unshaped(operand))
                assert number is not None
            operands.append(number)
        params = tuple((name, repr(value)) for name, value in eqn.params.items())
        name = name_of(var.aval.dtype)
        step = Step(eqn.primitive.name, tuple(operands), params, name, random)

        def bind(*values: Any) -> Any:
            return eqn.primitive.bind(*values, **eqn.params)

        self._add(var, step, bind)


def _last_axis(aval: Any, size: int) -> int:
    """The length of an array's innermost loop; `size` for what is no such array."""
    sizes = [axis for axis in aval.shape if axis != 1]
    return sizes[-1] if aval.size == size and sizes else size
