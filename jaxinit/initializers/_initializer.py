"""What every initializer shares: the contract, value semantics, wide drawing, sharding.

A builder such as ``he_normal`` is a function marked with :func:`initializer`. It checks
its options and returns a :class:`Recipe`: how to draw at full precision, and what the
shape must be. The mark wraps the recipe into an :class:`Initializer`, which knows the
builder and the options that made it; equality, hash, repr and pickling follow.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit import _compat
from jaxinit.initializers._options import (
    Accepts,
    checked_dtype,
    checked_shape,
    drawing_dtype,
    freeze,
    identity_of,
    is_key,
    shown,
)

Shape = tuple[int, ...]
OutSharding = NamedSharding | PartitionSpec | None
Draw = Callable[[Any, Shape, np.dtype, OutSharding], jax.Array]
_P = ParamSpec("_P")

# The public home of every builder: what pickles and error messages name.
_PUBLIC_MODULE = "jaxinit.initializers"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a builder returns: how to draw, and what may be drawn.

    Attributes:
      draw: ``(key, shape, dtype, out_sharding) -> array``, with a dtype of at least 32
        bits (constants: any) and a shape without zeros.
      check: raises ValueError for a shape that this initializer cannot fill.
      accepts: the dtypes that may be asked for: any, any floating or complex, or
        floating only.
      shards: whether `draw` honours ``out_sharding`` itself; otherwise it is drawn
        as without sharding, in the Auto view of the mesh, and laid out at the end.
      at_fans: the recipe for a weight whose fans are known and not told by its shape;
        None where fans do not matter, or are not all that does.
    """

    draw: Draw
    check: Callable[[Shape], object] = lambda shape: None
    accepts: Accepts = "inexact"
    shards: bool = True
    at_fans: Callable[[float, float], Recipe] | None = None


class Initializer:
    """A function ``(key, shape, dtype=None, out_sharding=None) -> Array`` with a value.

    Two initializers are equal, hash alike and print alike when the same builder made
    them from equal options; they pickle, and copying one returns it. So a Flax module
    that holds one stays equal to itself re-created, and ``jax.jit`` traces it once.
    Options that are arrays are compared by content, traced values by identity.

    Call arguments:
      key: a JAX random key, typed or legacy; constants ignore it.
      shape: the shape of the result; sizes of zero are legal.
      dtype: of the result. None means the builder's ``dtype``, then JAX's default.
        8- and 16-bit floats are drawn in float32, scaled, and cast last.
      out_sharding: as in :mod:`jax.random`: a NamedSharding, or a PartitionSpec under
        :func:`jax.set_mesh`, over Explicit mesh axes.
    """

    __slots__ = ("__weakref__", "_builder", "_identity", "_name", "_options", "_recipe")

    def __init__(
        self,
        builder: Any,
        options: Mapping[str, Any],
        recipe: Recipe,
        name: str | None = None,
    ):
        set_ = functools.partial(object.__setattr__, self)
        set_("_builder", builder)
        set_("_options", dict(options))
        set_("_recipe", recipe)
        set_("_name", name)
        identity = ((option, identity_of(value)) for option, value in options.items())
        set_("_identity", (builder.__name__, tuple(identity)))

    @property
    def accepts(self) -> Accepts:
        """The dtypes that it can be asked for, "any", "inexact" or "floating"."""
        return self._recipe.accepts

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype of its builder, or of the initializer that it is made from."""
        return self._options.get("dtype") or getattr(
            self._options.get("base"), "dtype", None
        )

    def at_fans(self, fan_in: float, fan_out: float) -> Initializer | None:
        """The same rule for known fans, whatever the shape; None if it has no fans."""
        if self._recipe.at_fans is None:
            return None
        recipe = self._recipe.at_fans(fan_in, fan_out)
        return Initializer(self._builder, self._options, recipe, self._name)

    def check_shape(self, shape: Sequence[int]) -> Shape:
        """Raise ValueError for a shape that a call would refuse."""
        sizes = checked_shape(shape, self._builder.__name__)
        self._recipe.check(sizes)
        return sizes

    def __call__(
        self,
        key: Any,
        shape: Sequence[int],
        dtype: Any = None,
        out_sharding: OutSharding = None,
    ) -> jax.Array:
        recipe, name = self._recipe, self._builder.__name__
        shape = self.check_shape(shape)
        dtype = self.dtype if dtype is None else dtype
        dtype = checked_dtype(dtype, recipe.accepts, name)
        if 0 in shape:
            return jnp.zeros(shape, dtype, out_sharding=out_sharding)
        constant = recipe.accepts == "any"
        wide = dtype if constant else drawing_dtype(dtype)
        # JAX's complex draws ignore out_sharding, so those are laid out by us.
        shards = recipe.shards and (constant or jnp.issubdtype(dtype, jnp.floating))
        if out_sharding is None or shards:
            values = recipe.draw(key, shape, wide, out_sharding)
        else:
            values = _laid_out(recipe.draw, key, shape, wide, out_sharding, name)
        return values if values.dtype == dtype else values.astype(dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Initializer):
            return NotImplemented
        return self is other or self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        if self._name is not None:
            return self._name
        arguments = []
        for option, parameter in inspect.signature(self._builder).parameters.items():
            value = self._options[option]
            required = parameter.default is inspect.Parameter.empty
            if required and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                arguments.append(shown(value))
            elif required or identity_of(value) != identity_of(parameter.default):
                arguments.append(f"{option}={shown(value)}")
        return f"{self._builder.__name__}({', '.join(arguments)})"

    @property
    def __name__(self) -> str:
        """What Flax, scopes and profiles show in the place of a function's name."""
        return repr(self)

    def __reduce__(self):
        return _rebuild, (self._builder, self._options)

    def __copy__(self) -> Initializer:
        return self

    def __deepcopy__(self, memo: object) -> Initializer:
        return self

    def __setattr__(self, name: str, value: object):
        raise AttributeError(
            f"{self!r} cannot be changed; build another one instead of setting {name!r}"
        )


def initializer(build: Callable[_P, Recipe]) -> Callable[_P, Initializer]:
    """Turn a function from options to a :class:`Recipe` into a builder."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def builder(*args: _P.args, **kwargs: _P.kwargs) -> Initializer:
        if len(args) >= 2 and is_key(args[0]) and isinstance(args[1], (tuple, list)):
            raise TypeError(
                f"{name} builds an initializer and was given a key and a shape; write "
                f"{name}()(key, shape), or pass {name}() where an initializer is wanted"
            )
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        bound.apply_defaults()
        options = {
            option: freeze(option, value, name)
            for option, value in bound.arguments.items()
        }
        recipe = build(**options)  # ty: ignore[missing-argument]
        if options.get("dtype") is not None:
            checked_dtype(options["dtype"], recipe.accepts, name)
        return Initializer(builder, options, recipe)

    name = build.__name__  # ty: ignore[missing-attribute]
    builder.__module__ = _PUBLIC_MODULE
    builder.__signature__ = signature.replace(  # ty: ignore[missing-attribute]
        return_annotation=Initializer
    )
    return builder


def named(name: str, builder: Callable[[], Initializer], recipe: Recipe) -> Initializer:
    """An initializer that is itself a public name, such as ``zeros``."""
    return Initializer(builder, {}, recipe, name)


def _rebuild(
    builder: Callable[..., Initializer], options: dict[str, Any]
) -> Initializer:
    return builder(**options)


# --------------------------------------------------------------------------- drawing


def scaled_by(values: jax.Array, scale: Any) -> jax.Array:
    """``values * scale`` in the dtype of `values`."""
    return values * jnp.asarray(scale, values.dtype)


def drawn(
    base: Callable[..., Any], key: Any, shape: Shape, dtype: np.dtype
) -> jax.Array:
    """Draw from any initializer at full precision; the result has the given shape."""
    values = base(key, shape, dtype)
    if getattr(values, "shape", None) != shape:
        raise ValueError(
            f"base was asked for shape {shape} and returned "
            f"{getattr(values, 'shape', type(values).__name__)}"
        )
    return values.astype(dtype)


def _laid_out(
    draw: Draw,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
    name: str,
) -> jax.Array:
    sharding = _compat.canonicalize_sharding(out_sharding, name)
    if sharding is None:
        return draw(key, shape, dtype, None)
    lay_out = jax.sharding.auto_axes(
        lambda key: draw(key, shape, dtype, None),
        axes=sharding.mesh.explicit_axes,
        out_sharding=sharding,
    )
    return lay_out(key)
