"""What the pickles of torch hold besides tensors: dictionaries, sets, lone numbers.

Each is made here from what the pickle says of it; nothing that it names is called. The
factory of a defaultdict is only a name, and a number of NumPy is taken from its bytes
if it has one of the few types that have no parts and no metadata.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from jaxinit.transfer._checkpoints._torch_pickle import Described, Global

_DICTS = {Global("collections", "OrderedDict"), Global("collections", "Counter")}
_DEFAULTDICT = Global("collections", "defaultdict")
_BUILTINS = ("builtins", "__builtin__")
_OLD = ("long", "unicode")  # int and str, as protocol 2 writes them
_SETS = {Global(module, "set") for module in _BUILTINS}
_FACTORIES = {
    *_DICTS,
    *_SETS,
    *(
        Global(module, name)
        for module in _BUILTINS
        for name in (*("bool", "dict", "float", "int", "list", "str", "tuple"), *_OLD)
    ),
}
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_SCALARS = {Global(module, "scalar") for module in _ARRAYS}
_DTYPE = Global("numpy", "dtype")
_ENCODE = Global("_codecs", "encode")
_WIDTHS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_ORDER = {"<": "little", ">": "big"}
# What may be named; what of it may be called, `build` sees to.
PLAIN = {*_FACTORIES, _DEFAULTDICT, *_SCALARS, _DTYPE, _ENCODE}


class ScalarType(Described):
    """The type of a number of NumPy; its state is the byte order."""

    def __init__(self, text: Any) -> None:
        if text not in _WIDTHS:
            raise ValueError("a number of NumPy of another type than a plain one")
        self.dtype = np.dtype(text)

    def set_state(self, state: Any) -> None:
        """Refuse another byte order, and what plain types do not have."""
        match state:
            case (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
                if _ORDER.get(order, sys.byteorder) != sys.byteorder:
                    raise ValueError("a number of NumPy in another byte order")
            case _:
                raise ValueError("a number of NumPy of a type with parts")


def build(function: Global, arguments: tuple[Any, ...]) -> Any:
    """What a call of one of these globals gives; ValueError where it may not be."""
    if function == _DEFAULTDICT:
        factory, *content = arguments or (None,)
        if factory is not None and factory not in _FACTORIES:
            raise ValueError("a defaultdict of what is no plain type")
        return _dictionary(tuple(content))
    if function in _DICTS:
        return _dictionary(arguments)
    if function in _SETS:
        (content,) = arguments[:1]
        return content
    if function == _ENCODE:
        match arguments:
            case (str() as text, "latin1" | "latin-1"):  # bytes, before protocol 3
                return text.encode("latin-1")
    if function == _DTYPE:
        return ScalarType(arguments[0])
    if function in _SCALARS:
        match arguments:
            case (ScalarType() as kind, bytes() as content):
                if len(content) == kind.dtype.itemsize:
                    return np.frombuffer(content, kind.dtype)[0].item()
        raise ValueError("a number of NumPy without its bytes")
    raise ValueError(f"a call of {function}")


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    (content,) = arguments
    pairs = list(content.items()) if isinstance(content, dict) else content
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if type(key) not in (str, int, float) or key in found:
            raise ValueError("a dictionary has a key of another type, or one twice")
        found[key] = value
    return found
