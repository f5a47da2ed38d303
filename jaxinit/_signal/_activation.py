"""The elementwise function that follows a product, cut out of the program."""

from __future__ import annotations

import dataclasses
import functools
import heapq
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Literal as Constant

from jaxinit._primitives import ELEMENTWISE, ELEMENTWISE_UNCHUNKED, NEWER, TRANSPARENT
from jaxinit._signal._frames import Frame

ALIKE = ELEMENTWISE | ELEMENTWISE_UNCHUNKED | NEWER | TRANSPARENT
_SPREADING = frozenset({"broadcast_in_dim", "reshape", "squeeze", "transpose"})


def identity(x: Any) -> Any:
    """The activation of a layer that has none."""
    return x


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """An elementwise function cut out of a program; equal for equal equations.

    Attributes:
      steps: for each equation its primitive, parameters and operands; an operand is the
        number of an earlier value, the argument being 0, or a number and its dtype.
      result: the number of the value that is returned.
      dtype: of the argument in the program.
    """

    steps: tuple[tuple[Any, tuple[tuple[str, Any], ...], tuple[Any, ...]], ...]
    result: int
    dtype: str

    def __call__(self, x: Any) -> Any:
        x = jnp.asarray(x)
        wanted = jnp.dtype(self.dtype)
        found = [x.astype(wanted) if x.dtype != wanted else x]
        for primitive, params, operands in self.steps:
            arrays = [
                jnp.asarray(operand[0], operand[1])
                if isinstance(operand, tuple)
                else found[operand]
                for operand in operands
            ]
            if primitive.name in _SPREADING:
                found.append(arrays[0])
                continue
            shape = jnp.broadcast_shapes(*(array.shape for array in arrays))
            arrays = [jnp.broadcast_to(array, shape) for array in arrays]
            found.append(primitive.bind(*arrays, **dict(params)))
        return found[self.result]


_LINEAR = frozenset({"mul", "div", "neg", "add", "sub", "convert_element_type"})


def activation_after(
    frame: Frame, start: Any
) -> tuple[Callable[[Any], Any] | None, str]:
    whole: list[int] = []
    end = start
    while True:
        region, ends = _region(frame, end)
        if _is_linear(frame, region):
            break  # a factor, as that of dropout or of attention's logits
        if len(ends) != 1:
            if whole:
                break
            whole, ends = _neck(frame, start, region)
            if not whole:
                return None, ""
            end = ends[0]
            break
        whole += region
        end = ends[0]
    if not whole:
        return identity, "identity"
    function = _cut_out(frame, whole, start, end)
    if function is None:
        return None, ""
    return _interned(function), _name(frame, whole)


@functools.lru_cache(maxsize=4096)
def _interned(function: Elementwise) -> Elementwise:
    """One object for equal functions, so that their gain is computed once."""
    return function


def _region(frame: Frame, start: Any) -> tuple[list[int], list[Any]]:
    """The equations that compute functions of this variable alone, and what leaves."""
    readers = frame.readers.get(start, [])
    call = _call(frame, readers, start)
    inside, region = {start}, []
    ahead, seen = list(readers), set(readers)
    heapq.heapify(ahead)
    while ahead:
        number = heapq.heappop(ahead)
        eqn = frame.eqns[number]
        if call is not None and call not in frame.calls[number]:
            continue
        if _belongs(frame, eqn, inside, start):
            inside.update(eqn.outvars)
            region.append(number)
            more = {n for v in eqn.outvars for n in frame.readers.get(v, [])} - seen
            seen |= more
            for other in more:
                heapq.heappush(ahead, other)
    return _without_dropout(frame, region, _ends(frame, start, region))


def _ends(frame: Frame, start: Any, region: list[int]) -> list[Any]:
    """What is read outside of a region, of that and of what it starts from."""
    members = set(region)
    outputs = set(v for v in frame.program.jaxpr.outvars if not isinstance(v, Constant))
    return [
        var
        for var in (start, *(v for n in region for v in frame.eqns[n].outvars))
        if var in outputs or any(n not in members for n in frame.readers.get(var, []))
    ]


def _neck(frame: Frame, start: Any, region: list[int]) -> tuple[list[int], list[Any]]:
    """The longest beginning of a region with one end: z, where z and 1 - z are used."""
    for size in range(len(region) - 1, 0, -1):
        ends = _ends(frame, start, region[:size])
        if len(ends) == 1 and not _is_linear(frame, region[:size]):
            return region[:size], ends
    return [], []


def _without_dropout(
    frame: Frame, region: list[int], ends: list[Any]
) -> tuple[list[int], list[Any]]:
    """Leave out the division that only makes up for a random mask behind it."""
    if len(ends) != 1 or not region:
        return region, ends
    last, readers = frame.eqns[region[-1]], frame.readers.get(ends[0], [])
    masked = [frame.eqns[n].primitive.name for n in readers] == ["select_n"]
    if masked and last.primitive.name in ("div", "mul") and ends[0] in last.outvars:
        signal = [v for v in last.invars if not _is_uniform(frame, v)]
        if len(signal) == 1:
            return region[:-1], signal
    return region, ends


def _call(frame: Frame, readers: list[int], start: Any) -> Any:
    """The call that is all that reads the variable, and begins with it: `relu(x)`."""
    if not readers:
        return None
    own = set(frame.calls[frame.makers[start]] if start in frame.makers else ())
    for call in frame.calls[readers[0]]:
        if call not in own and all(call in frame.calls[n] for n in readers):
            return call
    return None


def _belongs(frame: Frame, eqn: Any, inside: set[Any], start: Any) -> bool:
    name = eqn.primitive.name
    if name not in ALIKE and name not in _SPREADING:
        return False
    if len(eqn.outvars) != 1:
        return False
    of_signal = [v for v in eqn.invars if not isinstance(v, Constant) and v in inside]
    if not of_signal:
        return False
    if name in _SPREADING and eqn.outvars[0].aval.shape != start.aval.shape:
        return False
    return all(
        isinstance(v, Constant) or v in inside or _is_uniform(frame, v)
        for v in eqn.invars
    )


def _is_uniform(frame: Frame, atom: Any) -> bool:
    """Whether it is one number of the program, perhaps repeated."""
    if isinstance(atom, Constant):
        return True
    maker = frame.makers.get(atom)
    if maker is None:
        return False
    eqn = frame.eqns[maker]
    if eqn.primitive.name not in ALIKE and eqn.primitive.name not in _SPREADING:
        return False
    return all(_is_uniform(frame, v) for v in eqn.invars)


def _is_linear(frame: Frame, region: list[int]) -> bool:
    """Whether it only multiplies and shifts by numbers."""
    for number in region:
        eqn = frame.eqns[number]
        if eqn.primitive.name not in _LINEAR | TRANSPARENT | _SPREADING:
            return False
        if sum(not _is_uniform(frame, v) for v in eqn.invars) > 1:
            return False
    return True


def _cut_out(
    frame: Frame, region: list[int], start: Any, end: Any
) -> Elementwise | None:
    """The function from the variable to the end; None if it cannot stand alone."""
    numbers: dict[Any, int] = {start: 0}
    steps: list[Any] = []

    def operand(atom: Any) -> Any:
        if isinstance(atom, Constant):
            return (_scalar(atom.val), str(atom.aval.dtype))
        if atom in numbers:
            return numbers[atom]
        return add(frame.eqns[frame.makers[atom]])

    def add(eqn: Any) -> int:
        operands = tuple(operand(atom) for atom in eqn.invars)
        params = tuple(sorted(eqn.params.items(), key=lambda item: item[0]))
        if eqn.primitive.name in _SPREADING:
            params = ()
        steps.append((eqn.primitive, params, operands))
        numbers[eqn.outvars[0]] = len(steps)
        return len(steps)

    for number in region:
        add(frame.eqns[number])
    function = Elementwise(tuple(steps), numbers[end], str(start.aval.dtype))
    try:
        hash(function)
    except TypeError:
        return None
    return function


def _scalar(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _name(frame: Frame, region: list[int]) -> str:
    for call in reversed(frame.calls[region[0]]):
        if call[1].isidentifier() and all(
            call in frame.calls[number] for number in region
        ):
            return call[1]
    kinds = {frame.eqns[number].primitive.name for number in region}
    kinds -= _LINEAR | TRANSPARENT | _SPREADING
    return kinds.pop() if len(kinds) == 1 else "elementwise function"
