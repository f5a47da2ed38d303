"""The tokens of a msgpack file, one after the other, without building what they say.

The format: https://github.com/msgpack/msgpack/blob/master/spec.md. A token is checked
to lie inside the file before it is returned.
"""

from __future__ import annotations

import struct
from typing import Any, Literal, NamedTuple

from jaxinit.transfer._limits import Budget

Kind = Literal["nil", "bool", "int", "float", "str", "bin", "ext", "array", "map"]


class Token(NamedTuple):
    """What stands at one place.

    `value` is that of a number, the count of an array or map, the code of an extension;
    `start` and `end` bound the content of what has one.
    """

    kind: Kind
    value: Any
    start: int
    end: int


# The first byte of numbers: kind, and how to unpack what follows.
_NUMBERS: dict[int, tuple[Kind, struct.Struct]] = {
    0xCA: ("float", struct.Struct(">f")),
    0xCB: ("float", struct.Struct(">d")),
    0xCC: ("int", struct.Struct(">B")),
    0xCD: ("int", struct.Struct(">H")),
    0xCE: ("int", struct.Struct(">I")),
    0xCF: ("int", struct.Struct(">Q")),
    0xD0: ("int", struct.Struct(">b")),
    0xD1: ("int", struct.Struct(">h")),
    0xD2: ("int", struct.Struct(">i")),
    0xD3: ("int", struct.Struct(">q")),
}
# The first byte of what has a length: kind, and how to unpack that length.
_BYTE, _SHORT, _LONG = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I")
_LENGTHS: dict[int, tuple[Kind, struct.Struct]] = {
    0xC4: ("bin", _BYTE),
    0xC5: ("bin", _SHORT),
    0xC6: ("bin", _LONG),
    0xC7: ("ext", _BYTE),
    0xC8: ("ext", _SHORT),
    0xC9: ("ext", _LONG),
    0xD9: ("str", _BYTE),
    0xDA: ("str", _SHORT),
    0xDB: ("str", _LONG),
    0xDC: ("array", _SHORT),
    0xDD: ("array", _LONG),
    0xDE: ("map", _SHORT),
    0xDF: ("map", _LONG),
}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_CONSTANTS: dict[int, tuple[Kind, Any]] = {
    0xC0: ("nil", None),
    0xC2: ("bool", False),
    0xC3: ("bool", True),
}


class Tokens:
    """A position in a file that moves from token to token, up to `end`."""

    def __init__(self, content: Any, start: int, end: int, budget: Budget) -> None:
        self.content, self.at, self.end, self.budget = content, start, end, budget
        self.count = 0

    def next(self) -> Token:
        """The token at this position, which moves on."""
        self.count += 1
        if self.count > 16 * self.budget.limits.max_leaves + 1024:
            raise self.budget.exceeded("too many tokens", self.count, "max_leaves")
        first = self._unpack(_BYTE)
        if first in _CONSTANTS:
            kind, value = _CONSTANTS[first]
            return Token(kind, value, self.at, self.at)
        if first in _NUMBERS:
            kind, layout = _NUMBERS[first]
            return Token(kind, self._unpack(layout), self.at, self.at)
        if first <= 0x7F or first >= 0xE0:
            return Token("int", first - 256 * (first >= 0xE0), self.at, self.at)
        if first in _FIXED_EXT:
            return self._sized("ext", _FIXED_EXT[first])
        if first in _LENGTHS:
            kind, layout = _LENGTHS[first]
            return self._sized(kind, self._unpack(layout))
        if first <= 0x8F:
            return self._sized("map", first - 0x80)
        if first <= 0x9F:
            return self._sized("array", first - 0x90)
        if first <= 0xBF:
            return self._sized("str", first - 0xA0)
        raise self.budget.refuse(f"byte {self.at - 1} is no msgpack token: {first:#x}")

    def content_of(self, token: Token) -> bytes:
        """The content of a token that has one."""
        return bytes(self.content[token.start : token.end])

    def _unpack(self, layout: struct.Struct) -> Any:
        self._need(layout.size)
        (value,) = layout.unpack_from(self.content, self.at)
        self.at += layout.size
        return value

    def _sized(self, kind: Kind, length: int) -> Token:
        if kind in ("map", "array"):
            # Each element takes a byte at least: a count that cannot be true is a lie.
            self._need(length * (2 if kind == "map" else 1))
            return Token(kind, length, self.at, self.at)
        code = self._unpack(struct.Struct(">b")) if kind == "ext" else None
        self._need(length)
        self.at += length
        return Token(kind, code, self.at - length, self.at)

    def _need(self, length: int) -> None:
        if self.at + length > self.end:
            raise self.budget.refuse(
                f"is truncated: {length} bytes are claimed at byte {self.at}, and "
                f"{self.end - self.at} are left"
            )
