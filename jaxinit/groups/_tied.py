"""One table for words that go in and for words that come out."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jaxinit import initializers
from jaxinit._keys import require_key
from jaxinit._report import Finding
from jaxinit.groups._gather import gather
from jaxinit.groups._setting import GroupReport, Said, draw, finished, likes

# Inputs this much smaller or larger than wanted are worth a warning.
_RANGE = 2.0


def tied_embedding(
    params: Any,
    rules: Any,
    *,
    key: Any,
    inputs: float = 1.0,
    logits: float = 1.0,
    input_multiplier: float = 1.0,
    output_multiplier: float = 1.0,
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Draw a table that is both embedding and head, with both signals sound.

    With the table E ~ N(0, σ²) of shape (words, d), m what the model multiplies looked
    up rows by, g the gain of the norm before the logits, whose output has the mean
    square g², and c what the model multiplies the logits by,

    .. math:: \mathrm{rms}(inputs) = m σ, \qquad \mathrm{std}(logits) = c g σ \sqrt d

    Where the rules name that gain ("norm"), both are met: σ = inputs / m and
    g = logits / (c σ √d). Where they do not, g is 1, σ = logits / (c √d), and the
    inputs are what they are; they are right where the model multiplies by m = √d,
    else the report warns.

    Args:
      params: the tree.
      rules: pairs of a pattern and one of the roles "embedding", of shape (words, d),
        and "norm", (d,); leaves with equal named groups belong together.
      key: a JAX random key.
      inputs: the root mean square that looked up rows shall have, times m.
      logits: the standard deviation that logits shall have. 1 makes the first loss
        about log(words) + 1/2.
      input_multiplier: m.
      output_multiplier: c.
      stacked_axis: the axis of stacked tables.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, or the shapes do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {"embedding": jnp.zeros((512, 64)), "scale": jnp.ones(64)}
      >>> rules = [("embedding", "embedding"), ("scale", "norm")]
      >>> new, _ = groups.tied_embedding(params, rules, key=jax.random.key(0))
      >>> round(float(new["embedding"].std()), 1), float(new["scale"][0])
      (1.0, 0.125)

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.4, for one table and the
    multiplier √d; Press & Wolf 2017 (arXiv:1608.05859). The formula is the variance of
    a sum of d independent products.
    """
    key = require_key(key, "to draw an embedding")
    numbers = {
        "inputs": inputs,
        "logits": logits,
        "input_multiplier": input_multiplier,
        "output_multiplier": output_multiplier,
    }
    for argument, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{argument} must be a positive number, got {value!r}")
    flat, groups = gather(params, rules, required=("embedding",), optional=("norm",))
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    findings, notes = [], []
    for group in groups:
        like = likes(group, stacked_axis)
        shape = like["embedding"].shape
        if len(shape) != 2 or not shape[1]:
            group.refuse("embedding", f"has shape {shape}, which is not (words, d)")
        if "norm" in like and like["norm"].shape != shape[1:]:
            group.refuse(
                "norm", f"has shape {like['norm'].shape}, which is not {shape[1:]}"
            )
        root = math.sqrt(shape[1])
        sigma, gain = logits / (output_multiplier * root), 1.0
        if "norm" in like:
            sigma = inputs / input_multiplier
            gain = logits / (output_multiplier * sigma * root)
        new |= draw(
            _tied, group, like, (sigma, gain), key=key, stacked_axis=stacked_axis
        )
        name = group.names["embedding"]
        said[name] = Said("normal", sigma)
        if "norm" in like:
            said[group.names["norm"]] = Said("constant", gain)
        found, wide = sigma * input_multiplier, gain * sigma * root * output_multiplier
        notes.append(f"{name.full}: inputs {found:.3g}, logits {wide:.3g}")
        if not inputs / _RANGE <= found <= inputs * _RANGE:
            findings.append(
                Finding(
                    "warning",
                    name.full,
                    f"Looked up rows have the root mean square {found:.3g} where "
                    f"{inputs:.3g} was wanted, since one table cannot serve both.",
                    "Name the gain of the norm before the logits in a rule with the "
                    "role 'norm', or multiply looked up rows in the model by "
                    f"{inputs / sigma:.4g} and say so with input_multiplier.",
                    code="tied-inputs",
                )
            )
    return finished(
        "tied_embedding",
        flat,
        [g.names.values() for g in groups],
        new,
        said,
        findings=findings,
        notes=notes,
    )


def _tied(keys: Any, like: Any, values: Any, options: Any) -> dict[str, Any]:
    sigma, gain = options
    init = initializers.normal(sigma)
    new = {"embedding": init(keys["embedding"], *like["embedding"])}
    if "norm" in like:
        new["norm"] = jnp.full(like["norm"].shape, gain, jnp.float32)
    return new
