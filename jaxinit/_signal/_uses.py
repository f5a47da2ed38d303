"""How a function uses its parameters: `trace_uses`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.extend.core import Literal as Constant

from jaxinit import _jaxpr
from jaxinit._collector import collector_paused
from jaxinit._signal._following import following
from jaxinit._signal._program import Signal, trace_signal
from jaxinit._signal._record import Note, Record, by_leaf, leftover
from jaxinit._signal._use import Use
from jaxinit._signal._walk import Walk
from jaxinit._signal._weights import Value, Weight, dims_of


@collector_paused()
def trace_uses(
    f: Callable[..., Any], params: Any, *args: Any
) -> dict[str, tuple[Use, ...]]:
    r"""Tell for every parameter how ``f(params, *args)`` uses it.

    .. math:: fan_{in} = \text{products summed into one output}, \quad
        fan_{out} = \text{outputs that one input contributes to}

    Read from the traced program, not from shapes or layers: through jit, remat, scan,
    while, cond, custom derivatives, vmap and shard_map. Nothing is run, and what is not
    understood is listed as "unknown", never guessed.

    Args:
      f: any JAX function of parameters and data; :func:`from_linen` and
        :func:`from_nnx` make one of a model.
      params: a tree of arrays, or of ShapeDtypeStructs.
      args: further arguments. Whatever is computed from them is the signal.

    Returns:
      For the path of every leaf its uses, in the order of the program, at least one: a
      :class:`Use` says kind, fans, axes, and where in the user's code it happens.

    Raises:
      TypeError: an argument holds something that is no array.

    Example:
      >>> import jax, jaxinit
      >>> def attend(params, x):
      ...     return jax.numpy.einsum("btd,dnh->btnh", x, params["query"])
      >>> params = {"query": jax.ShapeDtypeStruct((512, 8, 64), "float32")}
      >>> uses = jaxinit.trace_uses(attend, params, jax.numpy.ones((2, 5, 512)))
      >>> (use,) = uses["query"]
      >>> use.kind, use.fan_in, use.fan_out, use.in_axis, use.out_axis
      ('dot', 512.0, 512.0, (0,), (1, 2))
    """
    signal = trace_signal(f, params, *args)
    return uses_of(signal)


def uses_of(signal: Signal) -> dict[str, tuple[Use, ...]]:
    """The uses of every parameter of a traced function, by its full name."""
    leaves = len(signal.names)
    variables = signal.program.jaxpr.invars
    inputs = [
        Value((Weight(leaf, dims_of(var.aval.shape)),), 1 << leaf, smooth=1 << leaf)
        if leaf < leaves
        else Value(data=True)
        for leaf, var in enumerate(variables)
    ]
    record = Record()
    walk = Walk(record, constants_are_data=len(variables) == leaves)
    outputs = walk.enter(signal.program, (), (), inputs)
    found = by_leaf(record.notes.items(), leaves)
    needed, smooth = _needed(signal), 0
    for value in outputs:
        smooth |= value.smooth
    uses = {}
    for leaf, name in enumerate(signal.names):
        shape = variables[leaf].aval.shape
        own = [_finished(note, walk, shape) for note in found[leaf]]
        if not needed[leaf]:
            own = [Use("unused")]
        elif any(_shows(value, leaf) for value in outputs):
            own.append(Use("output"))
        elif not own:
            own = [Use("unknown", detail="no equation in which it meets the signal")]
        uses[name.full] = tuple(
            dataclasses.replace(
                use, tied=len(own) > 1, stopped=needed[leaf] and not smooth >> leaf & 1
            )
            for use in own
        )
    return uses


def _finished(note: Note, walk: Walk, stored: tuple[int, ...]) -> Use:
    """The use, with the axes that are left over, and what follows a product."""
    use = leftover(note.use, len(stored))
    if not use.is_product:
        return use
    after = following(note.frame, note.number, walk.values, use.part)
    fields = {f.name: getattr(after, f.name) for f in dataclasses.fields(after)}
    # Only an axis that is the last dimension of the product is split with it.
    last = note.frame.eqns[note.number].outvars[0].aval.shape[-1:]
    if tuple(stored[axis] for axis in use.out_axis) != tuple(last):
        fields["blocks"] = 1
    return dataclasses.replace(use, **fields)


def _shows(value: Value, leaf: int) -> bool:
    return value.is_parameter and any(w.leaf == leaf for w in value.weights)


def _needed(signal: Signal) -> list[bool]:
    """For each parameter whether any output depends on it."""
    sliced = _jaxpr.slice_backward(signal.program).jaxpr
    read = {
        var
        for atoms in (sliced.outvars, *(eqn.invars for eqn in sliced.eqns))
        for var in atoms
        if not isinstance(var, Constant)
    }
    return [var in read for var in sliced.invars[: len(signal.names)]]
