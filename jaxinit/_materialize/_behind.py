"""What stands behind a leaf in an init function's program."""

from __future__ import annotations

from typing import Any

from jax.extend.core import Literal

from jaxinit._materialize._exact import Unknown
from jaxinit._materialize._host import Host
from jaxinit._primitives import RESHAPING


class Behind:
    """The variables behind a leaf, as they are walked through.

    Attributes:
      host: knows the program.
      size: of the leaf.
      last_axis: the shortest innermost loop of what was walked through.
    """

    def __init__(self, host: Host, leaf: Any):
        self.host, self.leaf = host, leaf
        self.size = self.last_axis = leaf.aval.size
        self._walked: set[Any] = set()
        self._unshaped: dict[Any, Any] = {}
        self._shapes: set[tuple[Any, ...]] = set()
        self._sizes: dict[tuple[Any, ...], int] = {}

    def unshaped(self, var: Any) -> Any:
        """Walk back through reshapes, which are the identity on the flat index."""
        if isinstance(var, Literal):
            return var
        if var not in self._unshaped:
            self._unshaped[var] = self._walk(var)
        return self._unshaped[var]

    def _walk(self, var: Any) -> Any:
        while not isinstance(var, Literal):
            eqn = self.host.producer.get(var)
            self._walked.add(var)
            shape = var.aval.shape
            if shape not in self._shapes:
                self._shapes.add(shape)
                self.last_axis = min(self.last_axis, _last_axis(var.aval, self.size))
            if eqn is None or eqn.primitive.name not in RESHAPING:
                return var
            if len(eqn.invars) != 1 or self.size_of(eqn.invars[0]) != self.size_of(var):
                return var
            if eqn.primitive.name == "reshape" and eqn.params.get("dimensions"):
                return var
            var = eqn.invars[0]
        return var

    def size_of(self, var: Any) -> int:
        """How many elements a variable has."""
        shape = var.aval.shape  # which counts its elements anew each time it is asked
        if shape not in self._sizes:
            self._sizes[shape] = var.aval.size
        return self._sizes[shape]

    def is_random(self, var: Any) -> bool:
        """Whether random bits lie behind a variable."""
        return not isinstance(var, Literal) and var in self.host.random

    def is_shared(self) -> bool:
        """Whether other leaves are made of draws of this one, or are it."""
        for var in self._walked:
            if not self.is_random(var):
                continue
            eqn = self.host.producer[var]
            if eqn.primitive.name == "random_bits" and self._is_drawn_again(eqn):
                return True
            users = self.host.users.get(var, [])
            if any(user.outvars[0] not in self._walked for user in users):
                return True
            if self.host.outputs[var] > (var is self.leaf):
                return True
        return False

    def _is_drawn_again(self, eqn: Any) -> bool:
        try:
            return self.host.draws[self.host.draw(eqn)] > 1
        except Unknown:
            return False


def _last_axis(aval: Any, size: int) -> int:
    """The length of an array's innermost loop; `size` for what is no such array."""
    sizes = [axis for axis in aval.shape if axis != 1]
    return sizes[-1] if aval.size == size and sizes else size
