"""Weights drawn anew, by how they are used: `reinit`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit import _rules
from jaxinit._errors import RuleError
from jaxinit._keys import fold_name, require_key
from jaxinit._paths import Name
from jaxinit._report import Finding, Report
from jaxinit._signal._following import identity
from jaxinit._signal._layout import Layout, layout_of, parts_of
from jaxinit._signal._program import trace_signal
from jaxinit._signal._use import Use
from jaxinit._signal._uses import uses_of
from jaxinit.initializers import Initializer, gain, variance_scaling
from jaxinit.initializers._scaling import Distribution, Mode, Sampler

_COLUMNS = ("leaf", "use", "fan_in", "fan_out", "follows", "drawn")
_UNSEEN = frozenset({"unknown", "unused"})


@dataclasses.dataclass(frozen=True)
class ByUse:
    r"""Variance scaling with the gain of whatever activation follows the weight.

    .. math:: \mathrm{Var}(w) = \frac{gain(f)^2}{k c^2 n}

    with c a constant that the program multiplies the weight by, n the fan that `mode`
    names, k the number of products that are added to each other, as in a recurrent
    cell, and f the elementwise function behind their sum and its bias, all from the
    program. f is the identity in front of a normalization, of a sum with the signal, or
    where several functions follow. For the rules of :func:`reinit`.

    Attributes:
      mode: "fan_in", "fan_out", "fan_avg" or "fan_geo_avg".
      distribution: as for ``initializers.variance_scaling``.

    Example:
      >>> from jaxinit import ByUse
      >>> ByUse(mode="fan_avg")
      ByUse(mode='fan_avg', distribution='truncated_normal')

    Source: He et al. 2015 (arXiv:1502.01852), equation 10, for any f.
    """

    mode: Mode = "fan_in"
    distribution: Distribution | Sampler = "truncated_normal"

    def __post_init__(self) -> None:
        variance_scaling(1.0, self.mode, self.distribution)  # checks both

    def initializer(self, use: Use) -> Initializer:
        """The initializer for one use."""
        return variance_scaling(self.scale(use), self.mode, self.distribution)

    def scale(self, use: Use) -> float:
        """The squared gain of what follows the use, over that of what comes before."""
        known = use.activation is not None and use.activation is not identity
        wanted = gain(use.activation) if known else 1.0
        share = wanted**2 / use.summed
        return share / use.factor**2 if use.factor else share


def reinit(
    key: Any,
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    rules: Sequence[Any] | dict[Any, Any] | None = None,
) -> tuple[Any, Report]:
    r"""Draw weights anew, with fans, axes and gain from how the program uses them.

    .. math:: w \sim \frac{gain(f)}{\sqrt{fan_{in}}} \, N(0, 1)

    by default, for every weight of a product. Any tree will do: layers stacked in one
    array, experts, fused gates and groups are drawn as the independent weights they
    are, each laid out as (spatial..., inputs, outputs) for its initializer and put
    where the array stores it. So ``orthogonal()`` makes every gate orthogonal, and
    ``he_normal()`` gets the true fans; what a rule's initializer says about axes,
    groups and strides itself is not needed, and is overruled.

    Args:
      key: a JAX random key. Each leaf is drawn from it folded with the leaf's name.
      f: any JAX function of parameters and data; see :func:`from_linen`.
      params: the tree to draw for: arrays, or ShapeDtypeStructs.
      args: further arguments of f.
      rules: ordered pairs of a pattern and an initializer, :class:`ByUse`, or None to
        keep the leaf; the first match wins, a leaf without one is kept. The default
        is ``ByUse()`` for all that sums products.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      ValueError: there is no key.
      RuleError: a rule matches nothing, its value is no initializer, or the initializer
        cannot fill the leaf.

    Example:
      >>> import jax, jaxinit
      >>> def f(params, x):
      ...     return jax.nn.relu(jax.numpy.einsum("bd,ndh->bnh", x, params["w"]))
      >>> params, x = {"w": jax.numpy.zeros((8, 256, 32))}, jax.numpy.ones((2, 256))
      >>> params, report = jaxinit.reinit(jax.random.key(0), f, params, x)
      >>> round(float(params["w"].std()) * 16, 1)  # sqrt(2 / 256) is sqrt(2) / 16
      1.4

    Source: He et al. 2015 (arXiv:1502.01852), equation 10; Glorot & Bengio 2010,
    equation 12, for ``ByUse(mode="fan_avg")``.
    """
    key = require_key(key, "to draw weights anew")
    signal = trace_signal(f, params, *args)
    uses = uses_of(signal)
    if rules is None:
        chosen = {
            name: ByUse() for name in signal.names if _main(uses[name.full]).is_product
        }
    else:
        chosen = _rules.assign(rules, signal.names)
    replaced: dict[Name, Any] = {}
    rows, findings = [], []
    for name, leaf in signal.params.items():
        several = uses[name.full]
        use, value = _main(several), chosen.get(name)
        drawn = "kept"
        if value is not None:
            found = _findings(name, several)
            findings += found
            if not any(finding.code == "not-understood" for finding in found):
                replaced[name] = _draw(name, leaf, use, value, key)
                drawn = _said(value, use)
        follows = use.activation_name
        rows.append((name.full, use.kind, use.fan_in, use.fan_out, follows, drawn))
    report = Report(
        f"reinit: {len(replaced)} of {len(rows)} leaves drawn anew",
        columns=_COLUMNS,
        rows=tuple(rows),
        findings=tuple(findings),
    )
    return signal.params.replace(replaced), report


def _main(several: tuple[Use, ...]) -> Use:
    """The use to draw for: a product, with the fans that most have; else the first."""
    products = [use for use in several if use.is_product]
    if not products:
        return several[0]
    fans = Counter((use.fan_in, use.fan_out) for use in products)
    return max(products, key=lambda use: fans[use.fan_in, use.fan_out])


def _draw(name: Name, leaf: Any, use: Use, value: Any, key: Any) -> jax.Array:
    shape, dtype = tuple(jnp.shape(leaf)), jnp.result_type(leaf)
    init = _initializer(name, use, value)
    layout = layout_of(use, shape)
    exact = None
    has_fans = use.is_product or use.kind == "gather"
    if isinstance(init, Initializer) and has_fans and use.fan_in and use.fan_out:
        exact = init.at_fans(use.fan_in, use.fan_out / parts_of(use) * use.groups)
    if layout is None and exact is None:
        raise RuleError(
            f"rules: {name.full!r} is used with one axis in two roles, so that only "
            f"initializers which need the fans alone can draw it, got {init!r}; "
            "use jaxinit.ByUse() or a variance scaling"
        )
    layout = layout or Layout(shape, tuple(range(len(shape))), 0, shape)
    try:
        drawn = layout.draw(exact or init, fold_name(key, name), dtype)
    except (ValueError, TypeError) as error:
        raise RuleError(
            f"rules: {init!r} cannot draw {name.full!r} of shape {shape}, as weights "
            f"of shape {layout.one}: {error}"
        ) from error
    sharding = getattr(leaf, "sharding", None)
    if isinstance(leaf, jax.Array) and len(sharding.device_set) > 1:  # ty: ignore
        drawn = jax.device_put(drawn, sharding)
    return drawn


def _initializer(name: Name, use: Use, value: Any) -> Any:
    if isinstance(value, ByUse):
        return value.initializer(use)
    if not callable(value):
        raise RuleError(
            f"rules: the value for {name.full!r} must be an initializer (key, shape, "
            f"dtype) -> array, jaxinit.ByUse(), or None to keep it, got {value!r}"
        )
    return value


def _said(value: Any, use: Use) -> str:
    if isinstance(value, ByUse):
        return f"{value.scale(use):.4g} / {value.mode}"
    name = getattr(value, "__name__", None)
    return repr(value) if name is None or isinstance(value, Initializer) else name


def _findings(name: Name, several: tuple[Use, ...]) -> list[Finding]:
    use = _main(several)
    if use.kind in _UNSEEN:
        why = use.detail or "no output depends on it"
        cause = f"How it is used is not known ({why}), so it was kept."
        remedy = "Draw it by itself, or teach jaxinit.register_product the primitive."
        if use.kind == "unused":
            remedy = "Leave it out of the rules, or find out why nothing reads it."
        return [Finding("warning", name.full, cause, remedy, "not-understood")]
    fans = {(u.fan_in, u.fan_out) for u in several if u.is_product}
    if len(fans) > 1:
        cause = f"It is the weight of products with several fans, {sorted(fans)}; "
        cause += f"drawn for {(use.fan_in, use.fan_out)}."
        remedy = "Say another scale in a rule of its own if that is the wrong one."
        return [Finding("note", name.full, cause, remedy, "several-fans")]
    if not use.scales:
        cause = (
            "Arithmetic of its own comes before the product, which may undo the scale."
        )
        remedy = "Nothing, if that is a normalization of the weight."
        return [Finding("note", name.full, cause, remedy, "transformed")]
    return []
