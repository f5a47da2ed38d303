"""Parametrizations by a smaller model: `mup`, `completep`, `standard`."""

from __future__ import annotations

from typing import Any

from jaxinit.presets._spec import Spec, make_spec


def mup(base: Any, target: Any) -> Spec:
    r"""The maximal update parametrization of a model, by a narrower one of its family.

    .. math:: σ_{hidden} = \frac{σ}{\sqrt{m}}, \quad σ_{output} = \frac{σ}{m}, \quad
        η_{hidden} = η_{output} = \frac{η}{m}, \quad σ_{input} = σ

    for Adam and a model m times as wide. Features then change by as much in a step at
    every width, so that the learning rate that is best for the base is so for the
    target. Which leaf is what, the program and the axes that grow tell; attention's
    scores get 1/d instead of 1/√d where the heads grow, and the logits of a tied table
    1/m: see :attr:`Spec.multipliers`.

    Args:
      base: a model as :func:`jaxinit.from_linen` or :func:`jaxinit.from_nnx` returns
        it, ``(f, params, *args)``, whose learning rate is known. With arrays their
        deviations are those of the base, with ShapeDtypeStructs they follow from fans.
      target: the same code, wider.

    Raises:
      TypeError: one of them is no such tuple.
      RuleError: a leaf of the target has no counterpart in the base.

    Example:
      >>> import jax, optax
      >>> from jaxinit import presets
      >>> def model(width):
      ...     def f(params, x):
      ...         x = jax.nn.relu(x @ params["in"])
      ...         return jax.nn.relu(x @ params["hidden"]) @ params["out"]
      ...     sizes = {"in": (8, width), "hidden": (width, width), "out": (width, 2)}
      ...     shape = lambda size: jax.ShapeDtypeStruct(size, "float32")
      ...     params = {name: shape(size) for name, size in sizes.items()}
      ...     return f, params, shape((4, 8))
      >>> spec = presets.mup(model(64), model(256))
      >>> [(row["leaf"], row["role"], row["rate"]) for row in spec.report.records()]
      [('hidden', 'hidden', 0.25), ('in', 'input', 1.0), ('out', 'output', 0.25)]
      >>> params, report = spec.init(jax.random.key(0))
      >>> tx = spec.optimizer(optax.adam(1e-3))

    Source: Yang & Hu 2021 (arXiv:2011.14522); Yang et al. 2022 (arXiv:2203.03466),
    table 3, definition 4.1 and appendix B.
    """
    return make_spec("mup", base, target, 1.0)


def completep(base: Any, target: Any, *, alpha: float = 1.0) -> Spec:
    r"""muP with depth: rates that are best for a base are so for a deeper target too.

    .. math:: x + m_L^{-α} F(x), \qquad η_{block} = η\, m_L^{α - 1} / m, \qquad
        ε_{block} = \frac{ε}{m\, m_L^{α}}

    for a target of m_L times as many blocks and m times the width; the rest is
    :func:`mup`'s. With α = 1 every layer keeps learning features of its own.

    Args:
      base: as for :func:`mup`.
      target: the same code, wider, deeper or both. Layers may be scanned, or stand in
        the tree one by one, numbered.
      alpha: α, from 1/2 to 1.

    Raises:
      ValueError: alpha lies outside.
      RuleError: base or target has no residual branches; and as for :func:`mup`.

    Example:
      >>> import jax
      >>> from jaxinit import presets
      >>> def model(depth):
      ...     def f(params, x):
      ...         for w, v in params:
      ...             x = x + jax.nn.relu(x @ w) @ v
      ...         return x
      ...     shape = jax.ShapeDtypeStruct((16, 16), "float32")
      ...     return f, [(shape, shape)] * depth, shape
      >>> spec = presets.completep(model(2), model(8))
      >>> {(m.kind, m.factor) for m in spec.multipliers}
      {('branch', 0.25)}

    Source: Dey et al. 2025 (arXiv:2505.01618), table 1; Yang et al. 2023
    (arXiv:2310.02244) and Bordelon et al. 2023 (arXiv:2309.16620) for α = 1/2.
    """
    if not 0.5 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 1/2 and 1, got {alpha!r}")
    return make_spec("completep", base, target, float(alpha))


def standard(base: Any, target: Any) -> Spec:
    r"""The parametrization that muP is compared with: fans alone, one learning rate.

    .. math:: σ_{hidden} = σ_{output} = \frac{σ}{\sqrt{m}}, \qquad η_{leaf} = η

    This is what a model does whose deviations are 1/√fan_in. Arguments and errors are
    those of :func:`mup`.

    Example:
      >>> import jax
      >>> from jaxinit import presets
      >>> def model(width):
      ...     shape = jax.ShapeDtypeStruct((width, 2), "float32")
      ...     x = jax.ShapeDtypeStruct((4, width), "float32")
      ...     return lambda params, x: x @ params["w"], {"w": shape}, x
      >>> spec = presets.standard(model(4), model(64))
      >>> spec.report.records()[0]["init"], spec.report.records()[0]["rate"]
      (0.25, 1.0)
    """
    return make_spec("standard", base, target, 1.0)
