"""The inputs of a model, from the options `--input` and `--call`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxinit.cli._outcome import Failure

_DTYPES = (
    *("float32", "float16", "bfloat16", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_EXAMPLE = "write --input 8,224,224,3 or --input 8,128:int32:50257"


@dataclass(frozen=True)
class Input:
    """One input: floats are standard normal, whole numbers uniform below `high`."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    high: int | None = None

    @property
    def limit(self) -> int:
        """The bound of whole numbers: 0 and 1 are tokens of every vocabulary."""
        return self.high or (256 if self.dtype == "uint8" else 2)

    @property
    def guessed(self) -> bool:
        """Whether its bound is a guess that its user may want to hear about."""
        return "int" in self.dtype and self.high is None and self.dtype != "uint8"

    def draw(self, key: Any) -> Any:
        """The values, also inside of a trace."""
        import jax
        import jax.numpy as jnp

        dtype = jnp.dtype(self.dtype)
        if jnp.issubdtype(dtype, jnp.bool_):
            return jax.random.bernoulli(key, shape=self.shape)
        if jnp.issubdtype(dtype, jnp.integer):
            return jax.random.randint(key, self.shape, 0, self.limit, dtype)
        wide = dtype if dtype.itemsize >= 4 else jnp.dtype("float32")
        return jax.random.normal(key, self.shape, wide).astype(dtype)

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def parsed(texts: Sequence[str] | None) -> tuple[Input, ...]:
    """The inputs that the options name."""
    return tuple(map(_parsed, texts or ()))


def _parsed(text: str) -> Input:
    shape, *rest = text.split(":")
    sizes = [size for size in shape.strip(" ()[]").split(",") if size.strip()]
    if len(rest) > 2 or not all(re.fullmatch(r"\s*\d+\s*", size) for size in sizes):
        raise Failure(f"--input {text!r} is not SHAPE[:DTYPE[:HIGH]]; {_EXAMPLE}")
    dtype = rest[0] if rest and rest[0] else "float32"
    if dtype not in _DTYPES:
        close = difflib.get_close_matches(dtype, _DTYPES, n=2, cutoff=0.5)
        meant = f"did you mean {' or '.join(close)}?" if close else "it is one of "
        known = "" if close else ", ".join(_DTYPES)
        raise Failure(f"--input {text!r}: there is no dtype {dtype!r}; {meant}{known}")
    high = rest[1] if len(rest) == 2 else None
    if high is not None and (
        "int" not in dtype or not re.fullmatch(r"0*[1-9]\d*", high)
    ):
        raise Failure(
            f"--input {text!r}: HIGH is the bound of whole numbers, a positive one, "
            f"got {high!r} for {dtype}"
        )
    bound = None if high is None else int(high)
    made = Input(tuple(map(int, sizes)), dtype, bound)
    _check_width(text, made)
    return made


def _check_width(text: str, made: Input) -> None:
    import jax
    import jax.numpy as jnp

    held = jax.dtypes.canonicalize_dtype(made.dtype)
    if held != jnp.dtype(made.dtype):
        raise Failure(
            f"--input {text!r}: JAX holds {made.dtype} as {held} unless 64-bit types "
            f"are on; say {held}, or set JAX_ENABLE_X64=1"
        )
    if "int" in made.dtype and made.limit - 1 > jnp.iinfo(made.dtype).max:
        raise Failure(f"--input {text!r}: {made.limit - 1} does not fit {made.dtype}")


def drawn(inputs: Sequence[Input], seed: int) -> tuple[Any, ...]:
    """Values of all inputs; those of one do not depend on the others."""
    import jax

    key = jax.random.fold_in(jax.random.key(seed), 0x1A9)  # not the parameters' key
    return tuple(
        given.draw(jax.random.fold_in(key, i)) for i, given in enumerate(inputs)
    )


def hints(inputs: Sequence[Input]) -> tuple[str, ...]:
    """What was guessed about the inputs."""
    return tuple(
        f"input {i + 1} holds 0 and 1 only; for tokens below 50257 write --input "
        f"{','.join(map(str, given.shape))}:{given.dtype}:50257"
        for i, given in enumerate(inputs)
        if given.guessed
    )


def options(texts: Sequence[str] | None) -> dict[str, Any]:
    """The keyword arguments that `--call` names."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (equals and name.strip().isidentifier()):
            raise Failure(
                f"--call {text!r} is not NAME=VALUE; write --call train=false"
            )
        try:
            found[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            close = {"True": "true", "False": "false", "None": "null"}.get(value)
            hint = (
                f"write {close}" if close else f"a text is written {json.dumps(value)}"
            )
            raise Failure(f"--call {text!r}: {value!r} is not JSON; {hint}") from None
    return found
