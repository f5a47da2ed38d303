"""materialize: the values of ``jax.jit(init_fn)``, bit for bit, without its compile."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from jaxinit import _paths, _rules
from jaxinit._collector import collector_paused
from jaxinit._compat import brief_tracer_errors, setting
from jaxinit._materialize._ahead import KernelCompiler
from jaxinit._materialize._explain import explain
from jaxinit._materialize._leaves import make_leaves
from jaxinit._materialize._plan import Making, plan
from jaxinit._report import Report

Progress = Callable[[int, int], None]


def materialize(
    init_fn: Callable[..., Any],
    *,
    out_shardings: Any = None,
    only: str | Iterable[str] | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Iterable[str] = (),
    progress: Progress | None = None,
) -> Materialize:
    """Make what an init function returns, as ``jax.jit`` would, sooner.

    The function is traced once, as jit traces it. Every leaf is then sliced out of the
    program, so that a model's forward pass is never compiled. Leaves that are random
    bits through elementwise operations are filled in chunks, by one small kernel for
    each distinct chain, whatever their shapes; anything else is compiled, equal
    programs once. Every leaf is equal to that of ``jax.jit(init_fn)``, bit for bit.

    Args:
      init_fn: ``model.init``, ``lambda key: nnx.state(Model(rngs=nnx.Rngs(key)))``, or
        any function whose outputs derive from keys, constants and arguments.
      out_shardings: as for ``jax.jit``: a sharding, or a tree of them that is a prefix
        of the result. Each process makes only its own shards of elementwise leaves;
        others are computed whole, then cut, so that the values never depend on it.
      only: a pattern or several (regular expressions that match a whole path); leaves
        not named come back as ``jax.ShapeDtypeStruct``, and cost nothing.
      static_argnums: as for ``jax.jit``.
      static_argnames: as for ``jax.jit``.
      progress: called as ``progress(done, total)``, in elements.

    Returns:
      A function of the arguments of `init_fn`, with a method ``explain`` that tells how
      each leaf is made. Arguments whose values no leaf needs may be ShapeDtypeStructs.

    Raises:
      RuleError: a pattern of `only` matches no leaf.
      ValueError: a leaf needs the values of an argument that has only a shape.

    Example:
      >>> import jax
      >>> from jaxinit import materialize
      >>> def init(key):
      ...     kernel = jax.random.normal(key, (3, 2))
      ...     return {"kernel": kernel, "bias": jax.numpy.zeros(2)}
      >>> params = materialize(init)(jax.random.key(0))
      >>> expected = jax.jit(init)(jax.random.key(0))
      >>> all(bool((params[name] == expected[name]).all()) for name in expected)
      True
    """
    if not callable(init_fn):
        raise TypeError(f"init_fn must be a function, got {init_fn!r}")
    return Materialize(
        init_fn,
        out_shardings,
        only,
        {"static_argnums": static_argnums, "static_argnames": static_argnames},
        progress,
    )


class Materialize:
    """An init function that is carried out leaf by leaf; see :func:`materialize`."""

    def __init__(
        self,
        init_fn: Callable[..., Any],
        out_shardings: Any,
        only: Any,
        static: dict[str, Any],
        progress: Progress | None,
    ):
        self._init_fn, self._static = init_fn, static
        # jit infers one from the other where that is not given: () would be given.
        said = {name: value for name, value in static.items() if value != ()}
        self._traced = jax.jit(init_fn, **said)
        self._out_shardings = out_shardings
        self._only = only
        self._progress = progress
        functools.update_wrapper(self, init_fn, updated=())

    @collector_paused()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        compiling = KernelCompiler()
        try:
            flat, makings, shardings, wanted = self._plan(args, kwargs)
            avals = flat.leaves
            sizes = [
                aval.size for aval, want in zip(avals, wanted, strict=True) if want
            ]
            report = _counter(self._progress, sum(sizes))
            # What goes to the device here is ours: the user's guard is for their data.
            with jax.transfer_guard("allow"):
                leaves = make_leaves(avals, makings, shardings, compiling, report)
        finally:
            compiling.close()
        return flat.unflatten(leaves)

    @collector_paused()
    def explain(self, *args: Any, **kwargs: Any) -> Report:
        """Per leaf: its shape, how it is made, and why not faster where it is not."""
        flat, makings, _, _ = self._plan(args, kwargs)
        return explain(flat, dict(makings))

    def _plan(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[_paths.Flat, Iterator[tuple[int, Making]], list[Any], list[bool]]:
        traced = _trace(self._traced, args, kwargs)
        flat = _paths.flatten(traced.out_info, argument="init_fn's result")
        named = set(_rules.select(self._only, flat.names, argument="only"))
        wanted = [name in named for name in flat.names]
        arguments = _dynamic_arguments(
            self._init_fn, self._static, traced, args, kwargs
        )
        shardings = _leaf_shardings(self._out_shardings, flat)
        makings = plan(
            traced.jaxpr,
            arguments,
            wanted,
            in_chunks=_platform(shardings) == "cpu",
        )
        return flat, makings, shardings, wanted


def _trace(jitted: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Trace, in linear time; what fails is traced again for the whole message."""
    try:
        with brief_tracer_errors():
            return jitted.trace(*args, **kwargs)
    except Exception:
        return jitted.trace(*args, **kwargs)


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    count = 0

    def more(number: int):
        nonlocal count
        count += number
        if progress is not None:
            progress(count, total)

    return more


def _platform(shardings: list[Any]) -> str:
    """Where the leaves will lie."""
    for sharding in shardings:
        if sharding is not None:
            return next(iter(sharding.device_set)).platform
    device = setting("jax_default_device")
    return (
        jax.default_backend() if device is None else getattr(device, "platform", device)
    )


def _dynamic_arguments(
    init_fn: Callable[..., Any],
    static: dict[str, Any],
    traced: Any,
    args: Any,
    kwargs: Any,
) -> list[Any]:
    """The leaves of the arguments that jit traced, in the order of its program."""
    numbers, names = _static_places(init_fn, len(args), **static)
    positional = tuple(a for place, a in enumerate(args) if place not in numbers)
    keyword = {name: value for name, value in kwargs.items() if name not in names}
    leaves, tree = jax.tree.flatten((positional, keyword))
    assert tree == traced.in_tree, "static arguments were resolved unlike jit's"
    return leaves


def _static_places(
    init_fn: Callable[..., Any], count: int, static_argnums: Any, static_argnames: Any
) -> tuple[set[int], set[str]]:
    """Which positions and names are static: jit infers each from the other."""
    several = isinstance(static_argnums, Iterable)
    numbers = set(static_argnums if several else (static_argnums,))
    one = isinstance(static_argnames, str)
    names = {static_argnames} if one else set(static_argnames)
    try:
        parameters = list(inspect.signature(init_fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    placed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if names and not numbers:
        numbers = {place for place, name in enumerate(placed) if name in names}
    elif numbers and not names:
        names = {placed[n] for n in numbers if -len(placed) <= n < len(placed)}
    return {number % count if count else number for number in numbers}, names


def _leaf_shardings(out_shardings: Any, flat: _paths.Flat) -> list[Any]:
    if out_shardings is None:
        return [None] * len(flat.names)
    tree = flat.unflatten(flat.leaves)
    spread = jax.tree.broadcast(out_shardings, tree, is_leaf=lambda x: x is None)
    return jax.tree.leaves(spread, is_leaf=lambda x: x is None)
