"""Starts of deep transformers: DeepNorm and Sub-LN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxinit._errors import RuleError
from jaxinit._report import Report
from jaxinit.presets._anatomy import Anatomy, Part, anatomy
from jaxinit.presets._blocks import Stream
from jaxinit.presets._branches import signal_input
from jaxinit.presets._chains import back
from jaxinit.presets._depth import checked_depth, independent_outputs, require_branches
from jaxinit.presets._gates import some
from jaxinit.presets._language import depth_notes
from jaxinit.presets._starts import Start, started

# Their weights carry the size of a branch.
_SIZED = frozenset(
    {
        "value",
        "attention_out",
        "feed_forward_in",
        "feed_forward_up",
        "feed_forward_out",
        "hidden",
    }
)
_CLOSE = 0.01  # constants are printed with two digits


def deepnorm(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start a transformer with x ← LN(α x + F(x)) so that its updates are bounded.

    .. math:: \mathrm{Var}(w) = \frac{2 β^2}{fan_{in} + fan_{out}}

    for values, attention's output and the feed-forward layers, the same with β = 1 for
    queries and keys; the rest is kept. For a stack of N blocks, or M of a decoder:

    ==================  ==================  ==================
    stack               α                   β
    ==================  ==================  ==================
    encoder or decoder  (2N)^(1/4)          (8N)^(-1/4)
    encoder of both     0.81 (N⁴M)^(1/16)   0.87 (N⁴M)^(-1/16)
    decoder of both     (3M)^(1/4)          (12M)^(-1/4)
    ==================  ==================  ==================

    The model must multiply x by α: by a parameter, which is then set, or by a constant
    of the program, which is then compared. For an encoder with a decoder, `depth` is
    the pair of both in the order of the program. Arguments and results are those of
    :func:`gpt2`.

    Raises:
      RuleError: the stream is multiplied by another number; the last weight of the
        branch is named.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> alpha = (2 * 2) ** 0.25
      >>> def f(params, x):
      ...     for inner, outer in params:
      ...         x = jax.nn.standardize(alpha * x + jax.nn.relu(x @ inner) @ outer)
      ...     return x
      >>> params = [(jnp.zeros((32, 96)), jnp.zeros((96, 32)))] * 2
      >>> key, x = jax.random.key(0), jnp.ones((2, 32))
      >>> params, report = presets.deepnorm(f, params, x, key=key)
      >>> round(report.records()[0]["factor"], 6)  # 16 ** (-1 / 4)
      0.5

    Source: Wang et al. 2022 (arXiv:2203.00555), figure 2 and section 4; torchscale's
    code has the encoder's β upside down (1.15 times as large instead of 0.87).
    """
    network = anatomy(f, params, *args, roles=roles)
    require_branches("deepnorm", network)
    said = checked_depth("deepnorm", depth, network)
    numbers = _by_stream("deepnorm", network, said, _alpha_beta)
    alphas = {stream: alpha for stream, (alpha, _) in numbers.items()}
    skips = _check_alphas(network, alphas, said)

    def says(part: Part, role: str) -> Start | None:
        if part.name.full in skips:
            return Start(value=skips[part.name.full])
        if part.stream is None:
            return None
        return _xavier("deepnorm", part, role, numbers[part.stream][1])

    return started("deepnorm", network, says, key, notes=depth_notes(network, said))


def subln(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start a transformer whose branches are normalized twice (Sub-LN, Magneto).

    .. math:: \mathrm{Var}(w) = \frac{2 γ^2}{fan_{in} + fan_{out}}

    for values, attention's output and the feed-forward layers, the same with γ = 1 for
    queries and keys; the rest is kept. γ is √(log 2N) for a stack of N blocks; of an
    encoder with a decoder of M it is √(⅓ log 3M log 2N) and √(log 3M). The model must
    have a normalization in front of the last product of each branch. For an encoder
    with a decoder, `depth` is the pair of both in the order of the program. Arguments
    and results are those of :func:`gpt2`.

    Raises:
      RuleError: a branch has no normalization in front of its last weight, which is
        named.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> norm = jax.nn.standardize
      >>> def f(params, x):
      ...     for inner, outer in params:
      ...         x = x + norm(jax.nn.relu(norm(x) @ inner)) @ outer
      ...     return x
      >>> params = [(jnp.zeros((32, 96)), jnp.zeros((96, 32)))] * 2
      >>> key, x = jax.random.key(0), jnp.ones((2, 32))
      >>> params, report = presets.subln(f, params, x, key=key)
      >>> round(report.records()[0]["factor"], 4)  # sqrt(log 4)
      1.1774

    Source: Wang et al. 2022 (arXiv:2210.06423), figure 2 and section 3.
    """
    network = anatomy(f, params, *args, roles=roles)
    require_branches("subln", network)
    said = checked_depth("subln", depth, network)
    lacking = [
        step
        for branch in network.branches
        for step in branch.writers
        if not _normalized(network, step)
    ]
    if lacking:
        raise RuleError(
            "subln: no normalization stands in front of the last product of "
            f"{len(lacking)} residual branches: {some(network.leaves_of(lacking))}; "
            "add one there, x + norm(...) @ w"
        )
    numbers = _by_stream("subln", network, said, _gammas)

    def says(part: Part, role: str) -> Start | None:
        if part.stream is None:
            return None
        return _xavier("subln", part, role, numbers[part.stream])

    return started("subln", network, says, key, notes=depth_notes(network, said))


def _xavier(preset: str, part: Part, role: str, factor: float) -> Start | None:
    if role == "attention_in":
        full = part.name.full
        raise RuleError(
            f"{preset}: whether {full!r} makes queries, keys or values is not known, "
            f"since its attention has no softmax; say so, roles=[({full!r}, 'value')]"
        )
    if role not in _SIZED and role not in ("query", "key"):
        return None
    gain = factor if role in _SIZED else 1.0
    fans = float(part.use.fan_in or 1) + independent_outputs(part.use)
    return Start(gain * (2 / fans) ** 0.5, gain)


def _by_stream(
    preset: str,
    network: Anatomy,
    said: tuple[int, ...] | None,
    numbers: Callable[[int, int | None, bool], Any],
) -> dict[Stream, Any]:
    """What the formula gives for each stream, from the depth of both."""
    streams = network.streams
    depths = said or tuple(stream.depth for stream in streams)
    of = dict(zip(streams, depths, strict=True))
    encoders = [stream for stream in streams if not stream.crosses]
    decoders = [stream for stream in streams if stream.crosses]
    paired = len(encoders) == 1 and len(decoders) == 1
    if len(streams) > 1 and not paired:
        raise RuleError(
            f"{preset}: the model has {len(streams)} residual streams, and the formula "
            "is for one, or for an encoder and the decoder that attends to it; call it "
            "for each part of the model"
        )
    found = {}
    for stream in streams:
        other = None
        if paired:
            other = of[encoders[0] if stream.crosses else decoders[0]]
        found[stream] = numbers(of[stream], other, stream.crosses)
    return found


def _alpha_beta(own: int, other: int | None, crosses: bool) -> tuple[float, float]:
    if other is None and not crosses:
        return (2 * own) ** 0.25, (8 * own) ** -0.25
    if crosses:  # also where the encoder's features are data
        return (3 * own) ** 0.25, (12 * own) ** -0.25
    both = own**4 * (other or 1)
    return 0.81 * both ** (1 / 16), 0.87 * both ** (-1 / 16)


def _gammas(own: int, other: int | None, crosses: bool) -> float:
    if crosses:
        return math.log(3 * own) ** 0.5
    if other is None:
        return math.log(2 * own) ** 0.5
    return (math.log(3 * other) * math.log(2 * own) / 3) ** 0.5


def _check_alphas(
    network: Anatomy, alphas: dict[Stream, float], said: tuple[int, ...] | None
) -> dict[str, float]:
    """The leaves that multiply the stream, with their α; RuleError for constants."""
    depths = said or tuple(stream.depth for stream in alphas)
    leaves = {}
    sites = {use.site: p for p in network.having("skip_scale") for use in p.uses}
    for (stream, alpha), depth in zip(alphas.items(), depths, strict=True):
        for branch in stream.branches:
            own = [sites[s.site] for s in branch.skip_way.scales if s.site in sites]
            if own:
                leaves[own[0].name.full] = alpha / branch.skip_way.factor
                continue
            found = branch.skip_way.factor
            if abs(found / alpha - 1) > _CLOSE:
                ends = network.leaves_of([*branch.writers])
                raise RuleError(
                    f"deepnorm: with {depth} blocks the stream has to be "
                    f"multiplied by alpha = {alpha:.4g} in front of the branch that "
                    f"ends in {some(ends)}, and the program multiplies it by "
                    f"{found:.4g}; "
                    "write norm(alpha * x + F(x)), or pass the depth that alpha is for"
                )
    return leaves


def _normalized(network: Anatomy, step: Any) -> bool:
    way = back(network.flow, signal_input(network.flow, step))
    chains = [*way.nodes.values(), *way.stops.values()]
    return any(chain.normalized for chain in chains)
