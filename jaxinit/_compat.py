"""The few private JAX names that have no public equivalent, one function for each."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
from jax._src import source_info_util as _source_info
from jax._src.interpreters.partial_eval import DynamicJaxprTracer as _Tracer
from jax._src.interpreters.partial_eval import dce_jaxpr as _dce_jaxpr
from jax._src.sharding_impls import canonicalize_sharding as _canonicalize_sharding
from jax.extend.core import Var
from jax.sharding import NamedSharding


def canonicalize_sharding(out_sharding: Any, name: str) -> NamedSharding | None:
    """The NamedSharding that `out_sharding` means here, with the errors of jax.random.

    Private, because jax.random resolves its own argument with it and exports nothing:
    written again it would drift from the messages that JAX gives.
    """
    return _canonicalize_sharding(out_sharding, name)


def varying_axes(array: Any) -> tuple[Any, ...]:
    """The mesh axes along which `array` may differ, inside a `jax.shard_map`.

    Private, because the type of an array shows its manual axes only through an
    attribute that JAX has renamed; `jax.lax.pcast` needs them said.
    """
    kind = jax.typeof(array)
    manual = getattr(kind, "manual_axis_type", None)
    varying = kind.vma if manual is None else manual.varying
    return tuple(name for name in kind.sharding.mesh.axis_names if name in varying)


def setting(name: str) -> Any:
    """The value of a JAX option here and now, what context managers set included.

    `jax.config` declares none of its options, so a type checker knows none of them.
    """
    return getattr(jax.config, name)


def merges_factors() -> bool:
    """Whether XLA makes one constant of two that an array is multiplied by in turn.

    That of jax 0.10 does, that of 0.12 does not; of those between nothing is known
    here.
    """
    return jax.__version_info__ < (0, 11)


def slice_backward(jaxpr: Any, wanted: Sequence[bool]) -> Any:
    """The equations that the wanted outputs depend on, inner programs sliced too.

    Private, because JAX slices programs for its own transformations only; each
    primitive with inner programs brings the rule by which they are sliced.
    """
    sliced, _ = _dce_jaxpr(jaxpr, list(wanted), instantiate=True)
    return sliced


def variables() -> Callable[[Any], Any]:
    """A function from a type to a variable of it that no program has yet.

    Private, because `jax.extend.core` exports the class of variables alone.
    """
    return lambda aval: Var(aval)


def frames(eqn: Any) -> list[tuple[str, int, str]]:
    """File, line and function of the frames outside JAX behind an equation.

    The innermost comes first. Private, because the traceback that JAX keeps is readable
    by its own tools alone.
    """
    found = _source_info.user_frames(eqn.source_info.traceback)
    return [(frame.file_name, frame.start_line, frame.function_name) for frame in found]


_brief = contextvars.ContextVar("brief", default=False)


@contextlib.contextmanager
def brief_tracer_errors() -> Generator[None]:
    """While this lasts, errors about tracers do not tell where a tracer comes from.

    Private, because JAX composes that sentence from the whole program traced so far,
    also for an AttributeError that nobody will read: code that asks each tracer for an
    attribute that it may lack traces in quadratic time. Trace again without this to
    have the sentence.
    """
    original = _Tracer._origin_msg
    if not hasattr(original, "__wrapped__"):

        @functools.wraps(original)
        def origin(tracer: Any) -> str:
            return "" if _brief.get() else original(tracer)

        setattr(_Tracer, "_origin_msg", origin)  # noqa: B010 - not ours, by its type
    token = _brief.set(True)
    try:
        yield
    finally:
        _brief.reset(token)


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried.

    Private, because the parameters of a primitive are nobody's contract: JAX 0.12
    holds a tree of the operands where there were two numbers before.
    """
    if "ft_in" in params:
        constants, carried, _ = map(len, params["ft_in"].unpack())
        return constants, carried
    return params["num_consts"], params["num_carry"]


def shard_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `jax.shard_map` from the parameters of its equation.

    Private, because the parameters of a primitive are nobody's contract.
    """
    axes = params.get("newly_manual_axes", params.get("manual_axes"))
    return {
        "mesh": params["mesh"],
        "in_specs": tuple(params["in_specs"]),
        "out_specs": tuple(params["out_specs"]),
        "check_vma": params["check_vma"],
        "axis_names": frozenset(axes),
    }
