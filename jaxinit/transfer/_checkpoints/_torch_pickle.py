"""The pickles inside torch files, read by an interpreter that can build four things.

A pickle is a program. The standard library's interpreter calls what the program names,
and even a restricted subclass of it makes room for as much memo or text as the program
claims to have. This one has no call in it: it knows tuples, lists, dictionaries and
tensors, and refuses every other global by name. `pickletools.genops` of the standard
library takes the program apart, and builds nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxinit._errors import CheckpointError
from jaxinit.transfer._limits import Budget

_MARK = object()
_CODES_OF_A_LEAF = 100  # a tensor takes about 40 in the files of torch


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Described:
    """What a pickle describes in two instructions: by a call, and then by its state."""

    def set_state(self, state: Any) -> None:
        """Take the state in; ValueError where it is none."""


Build = Callable[[Global, Any], Any]


class Machine:
    """Runs one pickle. `build` answers REDUCE, `persistent` the ids of storages."""

    def __init__(
        self,
        *,
        allowed: Callable[[Global], bool],
        build: Build,
        persistent: Callable[[Any], Any],
        budget: Budget,
    ) -> None:
        self.allowed, self.build, self.persistent = allowed, build, persistent
        self.budget = budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Any) -> Any:
        """The object of the pickle at the position of the stream, which moves on."""
        most = _CODES_OF_A_LEAF * self.budget.limits.max_leaves + 1024
        try:
            for count, (code, argument, at) in enumerate(pickletools.genops(stream)):
                if count > most:
                    raise self.budget.exceeded(
                        "the pickle has too many instructions", count, "max_leaves"
                    )
                if code.name == "STOP":
                    return self._pop()
                self._step(code.name, argument, at)
        except CheckpointError:
            raise
        except _DAMAGE as error:
            reason = f"its pickle is damaged: {type(error).__name__}: {error}"
            raise self.budget.refuse(reason) from error
        raise self.budget.refuse("its pickle does not end")

    def _step(self, code: str, argument: Any, at: int | None) -> None:
        if code in _VALUES:
            self.stack.append(argument)
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code]())
        elif code in _IGNORED:
            return
        elif (step := getattr(self, f"op_{code.lower()}", None)) is not None:
            step(argument)
        else:
            raise self.budget.refuse(
                f"its pickle has the instruction {code} at byte {at}, which no file of "
                "tensors and plain containers needs"
            )

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _top(self, kind: type) -> Any:
        top = self.stack[-1]
        if type(top) is not kind:
            raise ValueError(f"{type(top).__name__} where {kind.__name__} should be")
        return top

    # Each instruction that does more than to push its argument, by its name.

    def op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def op_pop(self, _: Any) -> None:
        self.stack.pop()

    def op_pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_mark()))

    def op_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def op_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def op_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def op_list(self, _: Any) -> None:
        self.stack.append(self._pop_mark())

    def op_dict(self, _: Any) -> None:
        items = self._pop_mark()
        self.stack.append({})
        self._set(items)

    def op_append(self, _: Any) -> None:
        item = self._pop()
        self._top(list).append(item)

    def op_appends(self, _: Any) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def op_additems(self, _: Any) -> None:
        self.op_appends(None)

    def op_setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def op_setitems(self, _: Any) -> None:
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, float):
                raise self.budget.refuse(f"a key is of type {type(key).__name__}")
            if key in target:
                raise self.budget.refuse(f"the key {str(key)[:200]!r} stands twice")
            target[key] = value

    def op_put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    op_binget = op_long_binget = op_get

    def op_global(self, argument: str) -> None:
        self._find(*argument.split(" ", 1))

    def op_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._find(str(module), str(name))

    def _find(self, module: str, name: str) -> None:
        found = Global(module, name)
        if not self.allowed(found):
            raise self.budget.refuse(
                f"its pickle refers to {str(found)[:200]}; only tensors and plain "
                "containers are read, so save the state_dict of the model alone, "
                "torch.save(model.state_dict(), path)"
            )
        self.stack.append(found)

    def op_reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        self.stack.append(self.build(function, arguments))

    def op_build(self, _: Any) -> None:
        # The attributes of an OrderedDict (torch keeps versions of modules there) and
        # of tensors: nothing that a leaf is made of.
        state = self._pop()
        if isinstance(described := self.stack[-1], Described):
            described.set_state(state)

    def op_binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self._pop()))


# What taking a pickle apart, or a machine without operands, ends in. Python warns of
# texts that no pickle has, and where warnings are errors that is one too.
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, Warning)
_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES"),
        *("SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
_IGNORED = frozenset({"PROTO", "FRAME"})
