"""Starts by the width of the model: small init, Wang's, T5's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxinit._report import Finding, Report
from jaxinit.presets._anatomy import Anatomy, Part
from jaxinit.presets._depth import Depth
from jaxinit.presets._language import language, width_of
from jaxinit.presets._starts import Start


def small_init(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start every weight smaller than Glorot would, by the width of the model.

    .. math:: w \sim N\Bigl(0, \frac{2}{5 d}\Bigr)

    d is what the weight reads; for a product that ends in the residual stream what it
    writes, and for a table the length of a row: the width of the model each time.
    `depth` changes nothing here; arguments, results and errors are those of
    :func:`gpt2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     return x + jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.zeros((40, 160)), "out": jnp.zeros((160, 40))}
      >>> key, x = jax.random.key(0), jnp.ones((2, 40))
      >>> params, report = presets.small_init(f, params, x, key=key)
      >>> [round(row["stddev"], 6) for row in report.records()]
      [0.1, 0.1]

    Source: Nguyen & Salazar 2019 (arXiv:1910.05895), section 2.2.
    """

    def formula(part: Part, role: str, depth: Depth | None) -> Start:
        return Start((2 / (5 * width_of(part, role))) ** 0.5)

    return language("small_init", formula, f, params, args, depth, roles, key)


def wang(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start as GPT-J and GPT-NeoX do: small, and by depth what ends in the stream.

    .. math:: w \sim N\Bigl(0, \frac{2}{5 d}\Bigr), \qquad
        w_{out} \sim N\Bigl(0, \frac{4}{L^2 d}\Bigr)

    with d the width of the model and L the number of blocks. Arguments, results and
    errors are those of :func:`gpt2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     return x + jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.zeros((100, 400)), "out": jnp.zeros((400, 100))}
      >>> key, x = jax.random.key(0), jnp.ones((2, 100))
      >>> params, report = presets.wang(f, params, x, depth=4, key=key)
      >>> round(report.records()[1]["stddev"], 6)  # 2 / (4 * 10)
      0.05

    Source: Wang & Komatsuzaki 2021 (GPT-J); Black et al. 2022 (arXiv:2204.06745),
    section 2.1.3.
    """

    def formula(part: Part, role: str, depth: Depth | None) -> Start:
        width = width_of(part, role)
        if depth is None:
            return Start((2 / (5 * width)) ** 0.5)
        return Start(2 / (depth.blocks * width**0.5), 2 / depth.blocks)

    return language("wang", formula, f, params, args, depth, roles, key)


def t5(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    depth: Any = None,
    roles: Sequence[Any] | dict[Any, Any] = (),
    key: Any = None,
) -> tuple[Any, Report]:
    r"""Start as T5 does: by fan, with the scale of attention in the queries.

    .. math:: σ_q = \frac{1}{\sqrt{d\, d_k}}, \qquad
        σ = \frac{1}{\sqrt{fan_{in}}}, \qquad σ_{embedding} = 1

    T5 does not divide its scores by √d_k; where the program does, a warning says so.
    The bias that is added to scores by distance has 1/√d. A head of its own gets 1/√d,
    which makes logits of second moment 1; Hugging Face gives it 1, and logits of
    variance d. A tied table is an embedding, and T5 divides the signal by √d in front
    of it. `depth` changes nothing here; arguments, results and errors are those of
    :func:`gpt2`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import presets
      >>> def f(params, x):
      ...     return x + jax.nn.relu(x @ params["wi"]) @ params["wo"]
      >>> params = {"wi": jnp.zeros((64, 256)), "wo": jnp.zeros((256, 64))}
      >>> key, x = jax.random.key(0), jnp.ones((2, 64))
      >>> params, report = presets.t5(f, params, x, key=key)
      >>> [row["stddev"] for row in report.records()]
      [0.125, 0.0625]

    Source: Raffel et al. 2020 (arXiv:1910.10683) and its code; Shazeer's Mesh
    TensorFlow for the queries.
    """
    network: list[Anatomy] = []

    def findings(found: Anatomy) -> list[Finding]:
        network.append(found)
        return _scaled_twice(found) + _large_logits(found)

    def formula(part: Part, role: str, depth: Depth | None) -> Start:
        if role == "embedding":
            return Start(1.0)
        if role == "attention_bias":
            reads = [p.use.fan_in for p in network[0].having("query")]
            return Start(float(reads[0] or 1) ** -0.5 if reads else 1.0)
        if role in ("position", "token"):
            return Start(1.0)
        fan_in = float(part.use.fan_in or 1)
        if role == "query":
            factor = _key_width(network[0], part) ** -0.5
            return Start(fan_in**-0.5 * factor, factor)
        return Start(fan_in**-0.5)

    return language("t5", formula, f, params, args, depth, roles, key, findings)


def _key_width(network: Anatomy, part: Part) -> float:
    """d_k, from the scores that the queries are for."""
    for attention in network.attentions:
        for step in attention.queries:
            if part.name in network.products[step]:
                return float(attention.width)
    return 1.0


def _scaled_twice(network: Anatomy) -> list[Finding]:
    found = []
    for attention in network.attentions:
        if attention.softmax and attention.width > 1 and attention.scale != 1.0:
            (leaf, *_) = network.leaves_of([*attention.queries])
            found.append(
                Finding(
                    "warning",
                    leaf,
                    f"The program multiplies its scores by {attention.scale:.4g}, and "
                    "T5's start divides the queries by the root of "
                    f"{attention.width} once more.",
                    "Leave the scale of the scores out of the model, as T5 does.",
                    "scaled-twice",
                )
            )
    return found


def _large_logits(network: Anatomy) -> list[Finding]:
    found = []
    for part in network.parts.values():
        if {"embedding", "head"} <= set(part.roles):
            use = next(use for use in part.uses if use.is_product)
            found.append(
                Finding(
                    "note",
                    part.name.full,
                    "The table is the head as well, and its deviation of 1 gives "
                    f"logits of variance {use.fan_in:g} unless the signal is divided "
                    "by the root of that in front of it, as T5 does.",
                    "Look whether the model does.",
                    "tied",
                )
            )
    return found
