"""Linear recurrences, LRU and Mamba: decays, phases and steps that belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit import initializers
from jaxinit._keys import require_key
from jaxinit.groups._complex import is_complex, normal
from jaxinit.groups._gather import gather
from jaxinit.groups._setting import (
    GroupReport,
    Like,
    Said,
    draw,
    finished,
    likes,
    widened,
)

_LRU_INPUTS = ("B", "B_real", "B_imag")
_LRU_OUTPUTS = ("C", "C_real", "C_imag")


def lru(
    params: Any,
    rules: Any,
    *,
    key: Any,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Draw a linear recurrent unit: eigenvalues, their normalization, B, C and D.

    .. math:: λ = \exp(-e^ν + i e^θ), \quad γ = \log \sqrt{1 - |λ|^2}, \quad
        B \sim \frac{N(0, 1) + i N(0, 1)}{\sqrt{2 H}}, \quad
        C \sim \frac{N(0, 1) + i N(0, 1)}{\sqrt{N}}, \quad D \sim N(0, 1)

    for N states and H features. ν and θ are those of ``initializers.lru_nu`` and
    ``lru_theta``: ``|λ|`` between the two radii, uniform over the area of the ring. γ
    is computed from ν as it is stored, with which white noise gives every state the
    same mean square, whatever its memory.

    Args:
      params: the tree: ν, θ, γ of shape (N,); B (N, H) or (H, N), C (H, N) or (N, H),
        each complex, or a real and an imaginary leaf; D (H,).
      rules: pairs of a pattern and one of the roles "nu", "theta", "gamma", "B",
        "B_real", "B_imag", "C", "C_real", "C_imag", "D"; leaves with equal named groups
        belong together. Only ν and θ must be there.
      key: a JAX random key.
      r_min: the inner radius.
      r_max: the outer radius.
      max_phase: the largest phase; small ones favour slow oscillations.
      stacked_axis: the axis of scanned layers, in all leaves alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, or shapes do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {"nu": jnp.zeros(64), "theta": jnp.zeros(64), "gamma": jnp.zeros(64)}
      >>> rules = [(name, name) for name in params]
      >>> new, _ = groups.lru(params, rules, key=jax.random.key(0), r_min=0.9)
      >>> radius = jnp.exp(-jnp.exp(new["nu"]))
      >>> bool(jnp.allclose(radius**2 + jnp.exp(new["gamma"]) ** 2, 1, atol=1e-6))
      True

    Source: Orvieto et al. 2023 (arXiv:2303.06349), lemma 3.2, equation 7 and appendix
    A.
    """
    key = require_key(key, "to draw a linear recurrent unit")
    initializers.lru_nu(r_min, r_max)  # checks the radii
    initializers.lru_theta(max_phase)
    optional = ("gamma", *_LRU_INPUTS, *_LRU_OUTPUTS, "D")
    flat, groups = gather(params, rules, required=("nu", "theta"), optional=optional)
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        states = like["nu"].shape
        for role in like:
            shape = like[role].shape
            if role in ("theta", "gamma") and shape != states:
                group.refuse(role, f"has shape {shape}, and nu has {states}")
            if role[0] in "BC":
                if len(shape) != 2 or states not in ((shape[0],), (shape[1],)):
                    group.refuse(role, f"has shape {shape}: no axis has {states}")
                if role in "BC" and not is_complex(like[role]):
                    group.refuse(
                        role,
                        f"has dtype {like[role].dtype.name}; give a complex leaf, or "
                        f"two with the roles {role}_real and {role}_imag",
                    )
        options = (r_min, r_max, max_phase)
        new |= draw(_lru, group, like, options, key=key, stacked_axis=stacked_axis)
        texts = {
            "nu": Said("log of the decay rate", r_max),
            "theta": Said("log of the phase", max_phase),
            "gamma": Said("log of the normalization"),
            "D": Said("normal", 1.0),
        }
        for role, name in group.names.items():
            if role[0] in "BC":
                stddev = _lru_stddev(role, like[role].shape, states[0])
                texts[role] = Said("normal" + ", complex" * (role in "BC"), stddev)
            said[name] = texts[role]
    return finished("lru", flat, [g.names.values() for g in groups], new, said)


def _lru_stddev(role: str, shape: tuple[int, ...], states: int) -> float:
    """Of the real and of the imaginary part."""
    return 1 / math.sqrt(states if role[0] == "C" else 2 * math.prod(shape) / states)


def _lru(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    r_min, r_max, max_phase = options
    inits = {
        "nu": initializers.lru_nu(r_min, r_max),
        "theta": initializers.lru_theta(max_phase),
        "D": initializers.normal(1.0),
    }
    new = {role: inits[role](keys[role], *like[role]) for role in inits if role in like}
    if "gamma" in like:
        wide = widened(new["nu"].dtype)
        # 1 - |λ|² from the rate itself, since |λ| near 1 has lost its digits.
        new["gamma"] = jnp.log(-jnp.expm1(-2 * jnp.exp(new["nu"].astype(wide)))) / 2
    for role, kind in like.items():
        if role[0] in "BC":
            stddev = _lru_stddev(role, kind.shape, like["nu"].shape[0])
            new[role] = normal(keys[role], kind, stddev)
    return new


def mamba(
    params: Any,
    rules: Any,
    *,
    key: Any,
    dt_min: float = 1e-3,
    dt_max: float = 0.1,
    dt_floor: float = 1e-4,
    decay_range: tuple[float, float] = (1.0, 16.0),
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Fill a selective state space layer: decays, skip, and the making of its steps.

    .. math:: A_{cn} = -e^{A\_log_{cn}} = -n, \quad D = 1, \quad
        b = \mathrm{softplus}^{-1}(Δ), \; \log Δ \sim U(\log Δ_{min}, \log Δ_{max}),
        \quad W_Δ \sim U\Bigl(\pm\frac{1}{\sqrt{rank}}\Bigr)

    made of ``initializers.s4d_real``, ``mamba_dt_bias`` and ``mamba_dt_projection``.
    Where A_log has one number a head, as in Mamba-2, it is log U of `decay_range`.

    Args:
      params: the tree: A_log (channels, N) or (heads,), D and dt_bias (channels,) or
        (heads,), dt_kernel (rank, channels). Keep all but the kernel in float32.
      rules: pairs of a pattern and one of the roles "A_log", "dt_bias", "D" and
        "dt_kernel"; leaves with equal named groups belong together. The first two
        must be there.
      key: a JAX random key.
      dt_min: the shortest step.
      dt_max: the longest step.
      dt_floor: below which no step goes.
      decay_range: the smallest and the largest decay rate of an A_log (heads,).
      stacked_axis: the axis of scanned layers, in all leaves alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, or shapes do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {"A_log": jnp.zeros((8, 4)), "dt_bias": jnp.zeros(8)}
      >>> rules = [(name, name) for name in params]
      >>> new, _ = groups.mamba(params, rules, key=jax.random.key(0))
      >>> print(jnp.exp(new["A_log"])[0].round())
      [1. 2. 3. 4.]

    Source: Gu & Dao 2023 (arXiv:2312.00752), section 3.6, and its authors' code; Dao &
    Gu 2024 (arXiv:2405.21060), its authors' code, for one decay a head.
    """
    key = require_key(key, "to draw a selective state space layer")
    initializers.mamba_dt_bias(dt_min, dt_max, dt_floor)  # checks the steps
    low, high = decay_range
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"decay_range must be two positive rates in order, got {decay_range}"
        )
    flat, groups = gather(
        params, rules, required=("A_log", "dt_bias"), optional=("D", "dt_kernel")
    )
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        channels = like["A_log"].shape[0] if like["A_log"].shape else None
        for role, kind in like.items():
            axis = -1 if role == "dt_kernel" else 0
            if not kind.shape or kind.shape[axis] != channels:
                group.refuse(
                    role,
                    f"has shape {kind.shape}, and {group.names['A_log'].full!r} has "
                    f"{like['A_log'].shape}: they need the same channels",
                )
        options = (dt_min, dt_max, dt_floor, low, high)
        new |= draw(_mamba, group, like, options, key=key, stacked_axis=stacked_axis)
        texts = {
            "A_log": Said("log(1..N)" if len(like["A_log"].shape) > 1 else "log U"),
            "D": Said("ones", 1.0),
            "dt_bias": Said("softplus⁻¹ of a log-uniform step", dt_max),
        }
        if "dt_kernel" in like:
            bound = 1 / math.sqrt(like["dt_kernel"].shape[0])
            texts["dt_kernel"] = Said("uniform", bound)
        said |= {name: texts[role] for role, name in group.names.items()}
    return finished("mamba", flat, [g.names.values() for g in groups], new, said)


def _mamba(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    dt_min, dt_max, dt_floor, low, high = options
    inits = {
        "A_log": initializers.s4d_real(),
        "D": initializers.ones_init(),
        "dt_bias": initializers.mamba_dt_bias(dt_min, dt_max, dt_floor),
        "dt_kernel": initializers.mamba_dt_projection(),
    }
    new = {role: inits[role](keys[role], *kind) for role, kind in like.items()}
    shape, dtype = like["A_log"]
    if len(shape) == 1:
        wide = widened(dtype)
        share = jax.random.uniform(keys["A_log"], shape, wide)
        new["A_log"] = jnp.log(low + share * (high - low))
    return new
