"""Gains and biases of weight normalization from one batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._paths import Name
from jaxinit._report import Finding
from jaxinit._signal._interpret import interpret
from jaxinit._signal._program import Signal, trace_signal
from jaxinit._signal._sites import equation
from jaxinit._signal._taps import wide
from jaxinit._signal._use import Site
from jaxinit._signal._uses import uses_of
from jaxinit.groups._gather import Group, gather
from jaxinit.groups._setting import GroupReport, Said, finished, placed

# Means and deviations that miss their goal by more than this were not reached.
_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """A group, and the equation that adds its bias."""

    group: Group
    site: Site


def weight_norm(
    f: Callable[..., Any], params: Any, rules: Any, *args: Any, scale: float = 1.0
) -> tuple[Any, GroupReport]:
    r"""Set gains and biases so that on one batch every channel has a unit variance.

    For a layer y = g t + b, with t = v x / ‖v‖ in the case of weight normalization,

    .. math:: g \leftarrow g \frac{s}{σ[y]}, \qquad
        b \leftarrow (b - μ[y]) \frac{s}{σ[y]}

    over the batch and all positions, for every channel by itself. From g = 1 and b = 0
    that is g = s / σ[t] and b = -s μ[t] / σ[t]. One pass sets all layers: each sees
    what the layers before it give with their new gains. In the program the sum with
    the bias is found by how it uses the bias, so f may be any function; g only has to
    multiply the channels of what is summed, as the columns of a kernel do as well.

    Args:
      f: any JAX function of parameters and data; see :func:`jaxinit.from_linen`.
      params: the tree. Channels are the last axis; scanned layers come first, (layers,
        channels), in gain and bias.
      rules: pairs of a pattern and one of the roles "gain" and "bias"; leaves with
        equal named groups belong together.
      args: the batch, and whatever else f takes.
      scale: s, the standard deviation of every channel.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf. The
      report warns of channels that do not vary and of goals that were not reached,
      which a second pass has looked at.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, or the bias of a group
        is not added once to channels along the last axis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> def f(p, x):
      ...     unit = p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True)
      ...     return x @ unit * p["g"][None] + p["b"][None]
      >>> v = jax.random.normal(jax.random.key(0), (64, 8))
      >>> x = jax.random.normal(jax.random.key(1), (32, 64))
      >>> params = {"v": v, "g": jnp.ones(8), "b": jnp.zeros(8)}
      >>> new, _ = groups.weight_norm(f, params, [("g", "gain"), ("b", "bias")], x)
      >>> print(f(new, x).std(0).round(3))
      [1. 1. 1. 1. 1. 1. 1. 1.]

    Source: Salimans & Kingma 2016 (arXiv:1602.07868), equations 4 to 6.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, got {scale!r}")
    flat, groups = gather(params, rules, required=("gain", "bias"))
    signal = trace_signal(f, params, *args)
    uses = uses_of(signal)
    layers = [_layer(signal, uses, group) for group in groups]
    inputs = [jnp.asarray(leaf) for leaf in signal.leaves]
    run = _passes(signal, layers, scale)
    found, after = run(inputs)
    new: dict[Name, Any] = {}
    said: dict[Name, Said] = {}
    findings = []
    for layer in layers:
        records = found[layer.site]
        names = layer.group.names
        for role in ("gain", "bias"):
            old = layer.group.leaves[role]
            new[names[role]] = placed(records[role].astype(jnp.result_type(old)), old)
        said[names["gain"]] = Said("gain s / std", scale)
        said[names["bias"]] = Said("(bias - mean) s / std", scale)
        findings += _findings(layer, records, after[layer.site], scale)
    families = [group.names.values() for group in groups]
    return finished("weight_norm", flat, families, new, said, findings=findings)


def _layer(signal: Signal, uses: Mapping[str, Any], group: Group) -> _Layer:
    own = [use for use in uses[group.names["bias"].full] if use.kind == "bias"]
    if len(own) != 1:
        kinds = ", ".join(use.kind for use in uses[group.names["bias"].full])
        group.refuse("bias", f"is not added once in the program but used as: {kinds}")
    (use,) = own
    shapes = {role: tuple(np.shape(leaf)) for role, leaf in group.leaves.items()}
    channels = equation(signal.program, use.site).outvars[0].aval.shape[-1:]
    if shapes["bias"][-1:] != channels or shapes["gain"] != shapes["bias"]:
        group.refuse(
            "bias",
            f"has shape {shapes['bias']}, the gain has {shapes['gain']}, and the sum "
            f"has {channels} channels along its last axis; all three must agree",
        )
    return _Layer(group, use.site)


def _passes(signal: Signal, layers: list[_Layer], scale: float) -> Callable[..., Any]:
    """A compiled pass that sets, and another that looks at what was set."""
    numbers = {name: number for number, name in enumerate(signal.names)}

    def change(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        (total,) = results
        mean, sigma = _moments(wide(total))
        usable = jnp.isfinite(sigma) & (sigma > 0)
        factor = jnp.where(usable, scale / jnp.where(usable, sigma, 1.0), 1.0)
        shift = jnp.where(usable, mean, 0.0)
        lead = (1,) * (total.ndim - 1)
        value = (wide(total) - shift.reshape(*lead, -1)) * factor.reshape(*lead, -1)
        record = {"factor": factor, "shift": shift, "still": ~usable}
        return [value.astype(total.dtype)], record

    def look(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        mean, sigma = _moments(wide(results[0]))
        return results, {"mean": mean, "sigma": sigma}

    @jax.jit
    def run(inputs: list[Any]) -> Any:
        program, sites = signal.program, [layer.site for layer in layers]
        _, found = interpret(
            program, inputs, dict.fromkeys(sites, change), keep_rules=False
        )
        leaves = list(inputs)
        for layer in layers:
            record = found[layer.site]
            names = layer.group.names
            gain, bias = (numbers[names[role]] for role in ("gain", "bias"))
            factor, shift = record["factor"], record["shift"]
            if factor.shape != leaves[bias].shape:
                layer.group.refuse(
                    "bias",
                    f"has shape {leaves[bias].shape}, and the program adds it as "
                    f"{factor.shape}; give every layer a row of its own",
                )
            record["gain"] = wide(leaves[gain]) * factor
            record["bias"] = (wide(leaves[bias]) - shift) * factor
            for role, number in (("gain", gain), ("bias", bias)):
                leaves[number] = record[role].astype(leaves[number].dtype)
        _, after = interpret(program, leaves, dict.fromkeys(sites, look))
        return found, after

    return run


def _moments(value: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of every channel."""
    axes = tuple(range(value.ndim - 1))
    return jnp.mean(value, axes), jnp.std(value, axes)


def _findings(layer: _Layer, records: Any, after: Any, scale: float) -> list[Finding]:
    name = layer.group.names["gain"].full
    still = np.asarray(records["still"])
    found = []
    if still.any():
        cause = (
            f"{int(still.sum())} of {still.size} channels do not vary on this batch."
        )
        remedy = "Give more examples, or look for dead units with jaxinit.audit."
        found.append(Finding("warning", name, cause, remedy, "still-channels"))
    misses = (
        np.abs(np.asarray(after["mean"])),
        np.abs(np.asarray(after["sigma"]) - scale),
    )
    worst = float(np.max(np.where(still, 0.0, np.maximum(*misses)), initial=0.0))
    if not worst <= _TOLERANCE * scale:
        cause = f"After it, a channel misses its mean or deviation by {worst:.3g}."
        remedy = (
            "Name the leaf that multiplies the channels of this sum as its gain; one "
            "that is not linear in them cannot be set in a single pass."
        )
        found.append(Finding("warning", name, cause, remedy, "not-reached"))
    return found
