"""Starts of networks whose residual branches have a multiplier of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._report import Finding, Report
from jaxinit._signal._reinit import ByUse
from jaxinit.presets._anatomy import Anatomy, Part, anatomy
from jaxinit.presets._depth import (
    checked_depth,
    depth_of,
    require_branches,
)
from jaxinit.presets._language import depth_notes
from jaxinit.presets._starts import Start, by_name, started


def skipinit(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start the scalar in front of each residual sum at 0: x + α F(x), α = 0.

    .. math:: y = x + α F(x), \qquad α = 0

    At step 0 every block is the identity, and a normalization is not needed. The
    model must have one scalar parameter for each branch. Nothing else changes, and
    `depth` and `key` are not used; arguments and results are those of :func:`gpt2`.

    Raises:
      RuleError: a branch has no scalar; its last weight is named.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     return x + params["alpha"] * (jnp.tanh(x @ params["w"]) @ params["v"])
      >>> params = {"alpha": jnp.ones(()), "w": jnp.eye(4), "v": jnp.eye(4)}
      >>> params, report = presets.skipinit(f, params, jnp.ones((2, 4)))
      >>> float(params["alpha"]), float(params["w"].sum())
      (0.0, 4.0)

    Source: De & Smith 2020 (arXiv:2002.10444), section 3.
    """
    return _scalars("skipinit", 0.0, f, params, args, depth, roles)


def rezero(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start the residual weight of each branch at 0: x + α F(x), α = 0.

    .. math:: x_{i+1} = x_i + α_i F(x_i), \qquad α_i = 0

    The same start as :func:`skipinit`, found for networks with and without
    normalization; arguments, results and errors are the same.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     return x + params["alpha"] * (jnp.tanh(x @ params["w"]) @ params["v"])
      >>> params = {"alpha": jnp.ones(()), "w": jnp.eye(4), "v": jnp.eye(4)}
      >>> x = jnp.ones((2, 4))
      >>> params, report = presets.rezero(f, params, x)
      >>> bool((f(params, x) == x).all())
      True

    Source: Bachlechner et al. 2020 (arXiv:2003.04887), equation 5.
    """
    return _scalars("rezero", 0.0, f, params, args, depth, roles)


def layerscale(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start the vector that multiplies each residual branch small, by depth.

    .. math:: y = x + \mathrm{diag}(γ) F(x), \qquad
        γ = 0.1 \;(L \le 18), \quad 10^{-5} \;(L \le 24), \quad 10^{-6}

    with L the number of blocks. The model must have one vector of the width of the
    stream for each branch. Nothing else changes, and `key` is not used; arguments and
    results are those of :func:`gpt2`.

    Raises:
      RuleError: a branch has no vector; its last weight is named.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     branch = jnp.tanh(x @ params["w"]) @ params["v"]
      ...     return x + params["gamma"] * branch
      >>> params = {"gamma": jnp.ones(4), "w": jnp.eye(4), "v": jnp.eye(4)}
      >>> params, report = presets.layerscale(f, params, jnp.ones((2, 4)), depth=36)
      >>> round(float(params["gamma"][0]) * 1e6, 3)
      1.0

    Source: Touvron et al. 2021 (arXiv:2103.17239), section 2 and table 1.
    """
    network = anatomy(f, params, *args, roles=roles)
    said = checked_depth("layerscale", depth, network)
    gates = _gates("layerscale", network, scalar=False)
    starts = {}
    for part in gates:
        blocks = depth_of("layerscale", part, network, said).blocks
        value = 0.1 if blocks <= 18 else 1e-5 if blocks <= 24 else 1e-6
        starts[part.name] = Start(value=value)
    notes = depth_notes(network, said)
    return started("layerscale", network, by_name(starts), None, notes=notes)


def fixup(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start a residual network without normalization so that its updates are bounded.

    .. math:: w \sim L^{-\frac{1}{2m - 2}} \, N\Bigl(0, \frac{gain^2}{fan_{in}}\Bigr)

    for the weights inside of residual branches of m layers, L branches in all; the last
    layer of each branch and the head start at 0, other weights by He's rule with the
    gain of the activation behind them, biases at 0, multipliers at 1. One step of
    gradient descent then changes the outputs by as much as its learning rate says, at
    every depth. The model must have a scalar multiplier for each branch, and should
    have a bias in front of each product and activation. Arguments and results are
    those of :func:`gpt2`; `depth` is the number of blocks.

    Raises:
      RuleError: a branch has no multiplier; its last weight is named.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     for w, v, scale in params:
      ...         x = x + scale * (jax.nn.relu(x @ w) @ v)
      ...     return x
      >>> block = jnp.ones((128, 128)), jnp.ones((128, 128)), jnp.ones(())
      >>> key, x = jax.random.key(0), jnp.ones((2, 128))
      >>> params, report = presets.fixup(f, [block] * 4, x, key=key)
      >>> round(float(params[0][0].std()) * 16, 1)  # sqrt(2 / 128) / sqrt(4) is 1/16
      1.0

    Source: Zhang, Dauphin & Ma 2019 (arXiv:1901.09321), section 4.
    """
    network = anatomy(f, params, *args, roles=roles)
    require_branches("fixup", network)
    said = checked_depth("fixup", depth, network)
    _gates("fixup", network, scalar=True)
    inner = {
        name: branch
        for branch in network.branches
        for step in branch.members
        for name in network.products[step]
    }

    def says(part: Part, role: str) -> Start | None:
        if role in ("attention_out", "feed_forward_out", "head"):
            return Start(value=0.0)
        if role in ("gate", "norm_scale"):
            return None if part.use.transformed else Start(value=1.0)
        if role in ("bias", "norm_bias"):
            return Start(value=0.0)
        if not part.use.is_product:
            return None
        he = (ByUse().scale(part.use) / float(part.use.fan_in or 1)) ** 0.5
        branch = inner.get(part.name)
        if branch is None:
            return Start(he)
        # What ends in a branch inside of this one is counted there.
        layers = max(branch.members.get(step, 1) for step in branch.writers)
        branches = depth_of("fixup", part, network, said).branches
        factor = branches ** (-1 / (2 * layers - 2)) if layers > 1 else 1.0
        return Start(he * factor, factor)

    findings = _normalized(network)
    return started("fixup", network, says, key, findings, depth_notes(network, said))


def _scalars(
    preset: str,
    value: float,
    f: Callable[..., Any],
    params: Any,
    args: tuple[Any, ...],
    depth: Any,
    roles: Any,
) -> tuple[Any, Report]:
    network = anatomy(f, params, *args, roles=roles)
    said = checked_depth(preset, depth, network)
    gates = _gates(preset, network, scalar=True)
    starts: dict[Name, Start | None] = {g.name: Start(value=value) for g in gates}
    notes = depth_notes(network, said)
    return started(preset, network, by_name(starts), None, notes=notes)


def _gates(preset: str, network: Anatomy, *, scalar: bool) -> list[Part]:
    """The multiplier of every branch; RuleError for branches without one."""
    require_branches(preset, network)
    fitting = [p for p in network.having("gate") if _is_scalar(p) == scalar]
    sites = {use.site for part in fitting for use in part.uses}
    said = [part for part in fitting if part.said]
    lacking = [
        branch
        for branch in network.branches
        if not any(
            step.site in sites for way in branch.writers.values() for step in way.scales
        )
    ]
    if lacking and not said:
        kind = "scalar" if scalar else "vector of the width of the stream"
        ends = sorted({n for b in lacking for n in network.leaves_of([*b.writers])})
        raise RuleError(
            f"{preset}: {len(lacking)} of {len(network.branches)} residual branches "
            f"have no multiplier, a {kind}: those that end in {some(ends)}; add the "
            "parameter to the model, x + multiplier * F(x)" + _misfits(network, scalar)
        )
    return fitting


def _misfits(network: Anatomy, scalar: bool) -> str:
    others = [p.name.full for p in network.having("gate") if _is_scalar(p) != scalar]
    if not others:
        return ""
    what, rule = ("vectors", "layerscale") if scalar else ("scalars", "rezero")
    return f". Its multipliers {some(others)} are {what}: presets.{rule} is for these"


def _is_scalar(part: Part) -> bool:
    return np.prod(part.shape, dtype=int) == part.layers


def some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:4]))
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _normalized(network: Anatomy) -> list[Finding]:
    return [
        Finding(
            "warning",
            part.name.full,
            "It is the scale of a normalization, and Fixup is for networks without.",
            "Leave the normalization out, or keep the model's own start.",
            "normalized",
        )
        for part in network.having("norm_scale")[:1]
    ]
