"""The kernels and biases of LSTM gates, fused or one leaf each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxinit import initializers
from jaxinit._keys import require_key
from jaxinit.groups._gather import Group, gather
from jaxinit.groups._setting import GroupReport, Like, Said, draw, finished, likes


def lstm_gates(
    params: Any,
    rules: Any,
    *,
    key: Any,
    forget_bias: float = 1.0,
    max_steps: float | None = None,
    order: str = "ifgo",
    out_axis: int = -1,
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Draw the gates of an LSTM: each orthogonal, with a memory from the start.

    .. math:: U_k^T U_k = I, \qquad b_f = 1, \quad b_i = b_g = b_o = 0

    for every gate k by itself: a fused (H, 4 H) kernel drawn as one matrix has no
    orthogonal gate. With `max_steps` the biases are those of ``initializers.chrono``,

    .. math:: b_f = \log u, \quad b_i = -b_f, \quad u \sim U(1, T_{max} - 1)

    so that memories last from 2 to T_max steps. Kernels of the inputs, where the rules
    name them, are drawn gate by gate from ``glorot_uniform``.

    Args:
      params: the tree, with the gates fused along one axis (``nnx.OptimizedLSTMCell``,
        Keras, torch), or a leaf for each gate (both LSTM cells of linen,
        ``nnx.LSTMCell``).
      rules: pairs of a pattern and one of the roles "recurrent", "bias",
        "second_bias", which becomes zero (torch adds two), and "input"; leaves with
        equal named groups belong together. A named group ``(?P<gate>...)`` holds the
        letter of the gate where each gate has leaves of its own:
        ``("(?P<cell>.*)/h(?P<gate>[ifgo])/kernel", "recurrent")``.
      key: a JAX random key.
      forget_bias: b_f.
      max_steps: T_max, in place of `forget_bias`.
      order: the letters of the gates as they are fused, with "i" and "f" among them.
      out_axis: the axis along which gates are fused; 0 for torch's (4 H, H).
      stacked_axis: the axis of stacked layers, in all leaves alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing (the bias, or one of
        the gates), or the gates do not fill a leaf.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {"kernel": jnp.zeros((4, 16)), "bias": jnp.zeros(16)}
      >>> rules = [("kernel", "recurrent"), ("bias", "bias")]
      >>> new, _ = groups.lstm_gates(params, rules, key=jax.random.key(0))
      >>> print(new["bias"])
      [0. 0. 0. 0. 1. 1. 1. 1. 0. 0. 0. 0. 0. 0. 0. 0.]

    Source: Saxe et al. 2014 (arXiv:1312.6120); Jozefowicz, Zaremba & Sutskever 2015,
    section 2.2, for the forget gate; Tallec & Ollivier 2018 (arXiv:1804.11188).
    """
    key = require_key(key, "to draw gates")
    if len(set(order)) != len(order) or not {"i", "f"} <= set(order):
        raise ValueError(
            f"order must be letters, all different, 'i' and 'f' among them, got "
            f"{order!r}"
        )
    if out_axis not in (-2, -1, 0, 1):
        raise ValueError(
            f"out_axis must be one of the two axes of a kernel, -2 to 1, got {out_axis}"
        )
    if not math.isfinite(forget_bias):
        raise ValueError(f"forget_bias must be a finite number, got {forget_bias!r}")
    if max_steps is not None:
        initializers.chrono(max_steps)  # checks it
    flat, groups = gather(
        params,
        rules,
        required=(),
        optional=("recurrent", "bias", "second_bias", "input"),
        selector="gate",
    )
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        apart = any("gate" in pattern.groupindex for pattern, _ in group.rules)
        for plain in ("recurrent", "bias"):
            gates = [f"{plain}[{gate}]" for gate in order]
            group.need(*(gates if apart else [plain]))
        _check(group, like, order, out_axis)
        options = (order, out_axis, forget_bias, max_steps)
        new |= draw(_gated, group, like, options, key=key, stacked_axis=stacked_axis)
        texts = {
            "recurrent": Said("orthogonal, gate by gate", 1.0),
            "input": Said("glorot_uniform, gate by gate"),
            "second_bias": Said("zeros", 0.0),
        }
        for role, name in group.names.items():
            plain, gate = _split(role)
            said[name] = texts.get(plain) or _said(gate, forget_bias, max_steps)
    return finished("lstm_gates", flat, [g.names.values() for g in groups], new, said)


def _said(gate: str, forget_bias: float, max_steps: float | None) -> Said:
    if max_steps is not None and gate in ("", "f", "i"):
        return Said(f"chrono, up to {max_steps:g} steps", max_steps)
    if gate in ("", "f"):
        return Said("forget gate", forget_bias)
    return Said("zeros", 0.0)


def _split(role: str) -> tuple[str, str]:
    plain, _, rest = role.partition("[")
    return plain, rest.rstrip("]")


def _check(group: Group, like: Mapping[str, Like], order: str, out_axis: int) -> None:
    units: dict[str, int] = {}
    for role, kind in like.items():
        plain, gate = _split(role)
        axes = 1 if plain.endswith("bias") else 2
        if len(kind.shape) != axes:
            group.refuse(role, f"has shape {kind.shape} and not {axes} axes")
        size = kind.shape[0 if axes == 1 else out_axis]
        if gate and gate not in order:
            group.refuse(role, f"is of no gate of the order {order!r}")
        if not gate and size % len(order):
            group.refuse(
                role, f"of shape {kind.shape} is not filled by {len(order)} gates"
            )
        units[role] = size if gate else size // len(order)
        lead = next(iter(units))
        if units[role] != units[lead]:
            group.refuse(
                role,
                f"of shape {kind.shape} has {units[role]} units a gate, and "
                f"{group.names[lead].full!r} has {units[lead]}",
            )


def _gated(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    order, out_axis, forget_bias, max_steps = options
    kernels = {
        "recurrent": initializers.orthogonal(column_axis=out_axis),
        "input": initializers.glorot_uniform(
            in_axis=1 - out_axis % 2, out_axis=out_axis % 2
        ),
    }
    new = {}
    for role, kind in like.items():
        plain, gate = _split(role)
        if plain in kernels:
            init = kernels[plain]
            if not gate:
                init = initializers.blocked(init, blocks=len(order), axis=out_axis)
            new[role] = init(keys[role], *kind)
        elif plain == "second_bias":
            new[role] = jnp.zeros(*kind)
    return new | _biases(keys, like, order, forget_bias, max_steps)


def _biases(
    keys: Mapping[str, Any],
    like: Mapping[str, Like],
    order: str,
    forget_bias: float,
    max_steps: float | None,
) -> dict[str, Any]:
    places = {"gates": len(order), "forget_gate": order.index("f")}
    if max_steps is None:
        init = initializers.forget_gates(forget_bias, **places)
    else:
        init = initializers.chrono(max_steps, input_gate=order.index("i"), **places)
    if "bias" in like:
        return {"bias": init(keys["bias"], *like["bias"])}
    # Input and forget gate have opposite biases, so that all gates are drawn as one.
    one = like["bias[f]"]
    whole = init(keys["bias[f]"], (len(order) * one.shape[0],), one.dtype)
    parts = jnp.split(whole, len(order))
    return {f"bias[{gate}]": parts[place] for place, gate in enumerate(order)}
