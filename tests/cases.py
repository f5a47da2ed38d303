"""The one list of initializers and what each promises.

A line here buys an initializer every property test: dtype, determinism, jit, vmap,
moments, zero size, sharding, repr, pickling, equality, and the bits of its peer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxinit import initializers as ours
from jaxinit.initializers import fans

theirs = jax.nn.initializers
Shape = tuple[int, ...]

# E|w|^4 / (E|w|^2)^2 of each law, real and complex: what the bound on a variance needs.
NORMAL = 3.0
UNIFORM = 9 / 5
TRUNCATED = float(stats.truncnorm(-2, 2).stats("k")) + 3
COMPLEX_NORMAL = 2.0
COMPLEX_DISK = 4 / 3
# The squared modulus of a complex normal is exponential; cut at modulus 2, at 4.
_SQUARED = stats.truncexpon(b=4)
COMPLEX_TRUNCATED = float(_SQUARED.moment(2) / _SQUARED.moment(1) ** 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """One initializer and its promises.

    Attributes:
      name: how tests call it.
      build: makes it anew; two calls must give equal values.
      shape: one that it can fill, of about 10^4 entries.
      mean: of the entries.
      variance: of the entries, from the shape; None where entries are not independent
        draws of one law (the promise is then an exact one, tested by itself).
      kurtosis: of the entries, for the bound on the variance.
      complex_kurtosis: E|w|^4 / (E|w|^2)^2 of complex draws; None where it draws none.
      peer: builds the initializer whose bits it must have.
      ulps: how far jit may be from eager where JAX's own jit is not exact, for real
        draws; complex ones are given 3 ulps of |w| (two parts), and those cut by their
        modulus 64: JAX takes the logarithm of 1 - c u, which jit rounds once.
      constant: draws nothing; any dtype, no key.
    """

    name: str
    build: Callable[[], Any]
    shape: Shape = (64, 256)
    mean: float = 0.0
    variance: Callable[[Shape], float] | None = None
    kurtosis: float = NORMAL
    complex_kurtosis: float | None = None
    peer: Callable[[], Any] | None = None
    ulps: int = 0
    constant: bool = False

    def __str__(self) -> str:
        return self.name


def per(which: str, scale: float, **use: Any) -> Callable[[Shape], float]:
    """scale / fan, the promise of variance scaling."""

    def variance(shape: Shape) -> float:
        fan_in, fan_out = fans(shape, **use)
        fan = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": np.sqrt(fan_in * fan_out),
        }[which]
        return scale / fan

    return variance


def _scalings() -> list[Case]:
    rows = [
        ("lecun_normal", "fan_in", 1.0, TRUNCATED, COMPLEX_TRUNCATED),
        ("lecun_uniform", "fan_in", 1.0, UNIFORM, COMPLEX_DISK),
        ("he_normal", "fan_in", 2.0, TRUNCATED, COMPLEX_TRUNCATED),
        ("he_uniform", "fan_in", 2.0, UNIFORM, COMPLEX_DISK),
        ("kaiming_normal", "fan_in", 2.0, TRUNCATED, COMPLEX_TRUNCATED),
        ("kaiming_uniform", "fan_in", 2.0, UNIFORM, COMPLEX_DISK),
        ("glorot_normal", "fan_avg", 1.0, TRUNCATED, COMPLEX_TRUNCATED),
        ("glorot_uniform", "fan_avg", 1.0, UNIFORM, COMPLEX_DISK),
        ("xavier_normal", "fan_avg", 1.0, TRUNCATED, COMPLEX_TRUNCATED),
        ("xavier_uniform", "fan_avg", 1.0, UNIFORM, COMPLEX_DISK),
    ]
    return [
        Case(
            name,
            getattr(ours, name),
            variance=per(mode, scale),
            kurtosis=kurtosis,
            complex_kurtosis=complex_kurtosis,
            peer=getattr(theirs, name),
        )
        for name, mode, scale, kurtosis, complex_kurtosis in rows
    ]


def _variance_scalings() -> list[Case]:
    rows = [
        ("fan_in", "normal", NORMAL, COMPLEX_NORMAL),
        ("fan_out", "normal", NORMAL, COMPLEX_NORMAL),
        ("fan_avg", "truncated_normal", TRUNCATED, COMPLEX_TRUNCATED),
        ("fan_geo_avg", "uniform", UNIFORM, COMPLEX_DISK),
    ]
    return [
        Case(
            f"variance_scaling-{mode}-{distribution}",
            lambda m=mode, d=distribution: ours.variance_scaling(1.5, m, d),
            variance=per(mode, 1.5),
            kurtosis=kurtosis,
            complex_kurtosis=complex_kurtosis,
            ulps=2 if distribution == "normal" else 0,
            peer=lambda m=mode, d=distribution: theirs.variance_scaling(1.5, m, d),
        )
        for mode, distribution, kurtosis, complex_kurtosis in rows
    ]


CASES = [
    *_scalings(),
    *_variance_scalings(),
    Case(
        "normal",
        lambda: ours.normal(0.02),
        variance=lambda shape: 0.02**2,
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
        peer=lambda: theirs.normal(0.02),
    ),
    Case(
        "uniform",
        lambda: ours.uniform(0.5),
        mean=0.25,
        variance=lambda shape: 0.5**2 / 12,
        kurtosis=UNIFORM,
        peer=lambda: theirs.uniform(0.5),
    ),
    Case(
        "truncated_normal",
        lambda: ours.truncated_normal(0.02),
        variance=lambda shape: (0.02 * 0.87962566103423978) ** 2,
        kurtosis=TRUNCATED,
        peer=lambda: theirs.truncated_normal(0.02),
    ),
    Case(
        "orthogonal", lambda: ours.orthogonal(1.5), peer=lambda: theirs.orthogonal(1.5)
    ),
    Case("householder", lambda: ours.orthogonal(0.5, method="householder")),
    Case(
        "delta_orthogonal",
        ours.delta_orthogonal,
        shape=(3, 3, 16, 32),
        peer=theirs.delta_orthogonal,
    ),
    Case(
        "constant",
        lambda: ours.constant(0.1),
        peer=lambda: theirs.constant(0.1),
        constant=True,
    ),
    Case("zeros", ours.zeros_init, peer=lambda: theirs.zeros, constant=True),
    Case("ones", ours.ones_init, peer=lambda: theirs.ones, constant=True),
    # What only this library has.
    Case(
        "grouped",
        lambda: ours.variance_scaling(2.0, "fan_out", "normal", groups=4),
        shape=(3, 3, 16, 64),
        variance=per("fan_out", 2.0, groups=4),
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
    ),
    Case(
        "strided",
        lambda: ours.he_normal(strides=2, transposed=True),
        shape=(4, 4, 32, 16),
        variance=per("fan_in", 2.0, strides=2, transposed=True),
        kurtosis=TRUNCATED,
        complex_kurtosis=COMPLEX_TRUNCATED,
    ),
    Case(
        "equation",
        lambda: ours.glorot_uniform(equation="btd,dnh->btnh"),
        shape=(64, 8, 32),
        variance=per("fan_avg", 1.0, equation="btd,dnh->btnh"),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
    ),
    Case(
        "sampler",
        lambda: ours.variance_scaling(1.0, "fan_in", rademacher),
        variance=per("fan_in", 1.0),
        kurtosis=1.0,
    ),
    Case(
        "scaled",
        lambda: ours.scaled(ours.lecun_normal(), 0.5),
        variance=per("fan_in", 0.25),
        kurtosis=TRUNCATED,
        complex_kurtosis=COMPLEX_TRUNCATED,
    ),
    Case(
        "stacked",
        lambda: ours.stacked(ours.lecun_normal()),
        shape=(8, 32, 64),
        variance=per("fan_in", 1.0, batch_axis=0),
        kurtosis=TRUNCATED,
        complex_kurtosis=COMPLEX_TRUNCATED,
    ),
    Case(
        "blocked",
        lambda: ours.blocked(ours.glorot_uniform(), blocks=4),
        variance=lambda shape: 2.0 / (64 + 64),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
    ),
    # Structured weights.
    Case("scaled_orthogonal", lambda: ours.scaled_orthogonal(1.5)),
    Case(
        "delta",
        lambda: ours.delta(ours.lecun_normal()),
        shape=(3, 3, 16, 32),
        complex_kurtosis=COMPLEX_TRUNCATED,
    ),
    Case(
        "icnr",
        lambda: ours.icnr(ours.lecun_uniform(), scale=2, layout="channel_major"),
        shape=(3, 3, 16, 64),
        complex_kurtosis=COMPLEX_DISK,
    ),
    Case(
        "sparse",
        lambda: ours.sparse(ours.normal(1.0), sparsity=0.9),
        shape=(256, 64),
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
    ),
    Case("identity", lambda: ours.identity(0.5), constant=True),
    Case("dirac", lambda: ours.dirac(groups=2), shape=(3, 3, 16, 32), constant=True),
    Case("bilinear", ours.bilinear, shape=(4, 4, 16, 32), constant=True),
    Case("sinusoidal", ours.sinusoidal, constant=True),
    # Fields.
    Case(
        "siren",
        ours.siren,
        variance=per("fan_in", 2 / 30**2),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
    ),
    Case(
        "siren-first",
        lambda: ours.siren(first=True),
        variance=lambda shape: 1 / (3 * 64**2),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
    ),
    Case(
        "fourier_features",
        lambda: ours.fourier_features(10.0),
        variance=lambda shape: 100.0,
        ulps=2,
    ),
    # Scale rules and embeddings.
    Case(
        "small_init",
        ours.small_init,
        variance=per("fan_in", 2 / 5),
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
    ),
    Case(
        "wang_init",
        lambda: ours.wang_init(12, width=768),
        variance=lambda shape: 4 / (12**2 * 768),
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
    ),
    Case(
        "spectral",
        ours.spectral,
        shape=(256, 64),
        variance=lambda shape: 64 / 256**2,
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
    ),
    Case(
        "embedding",
        ours.embedding,
        variance=lambda shape: 1.0,
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
    ),
    Case(
        "embedding-tied",
        lambda: ours.embedding(tied=True),
        variance=lambda shape: 1 / 256,
        ulps=2,
        complex_kurtosis=COMPLEX_NORMAL,
        peer=lambda: theirs.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
    ),
    # What other frameworks draw.
    Case(
        "torch_default",
        ours.torch_default,
        variance=per("fan_in", 1 / 3),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
    ),
    Case(
        "torch_default_bias",
        lambda: ours.torch_default_bias(400),
        variance=lambda shape: 1 / 1200,
        kurtosis=UNIFORM,
    ),
    Case(
        "torch_default_recurrent",
        lambda: ours.torch_default_recurrent(256),
        variance=lambda shape: 1 / 768,
        kurtosis=UNIFORM,
    ),
    Case(
        "torch_default_attention",
        ours.torch_default_attention,
        variance=lambda shape: 2 / (64 + 3 * 256),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
    ),
    Case(
        "keras_default",
        ours.keras_default,
        variance=per("fan_avg", 1.0),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
        peer=theirs.glorot_uniform,
    ),
    Case(
        "keras_default_embedding",
        ours.keras_default_embedding,
        variance=lambda shape: 1 / 1200,
        kurtosis=UNIFORM,
    ),
    # Biases.
    Case("forget_gates", ours.forget_gates, constant=True),
    Case("chrono", lambda: ours.chrono(1000, gates=2)),
    Case("linspace_gates", ours.linspace_gates, constant=True),
    Case("positive_relu_bias", ours.positive_relu_bias, constant=True),
    # State space models and linear recurrences.
    Case("hippo_legs", ours.hippo_legs, shape=(8, 32, 32), constant=True),
    Case("hippo_legs_normal", ours.hippo_legs_normal, shape=(8, 32, 32), constant=True),
    Case("hippo_legs_low_rank", ours.hippo_legs_low_rank, constant=True),
    Case("hippo_legs_input", lambda: ours.hippo_legs_input(axis=0), constant=True),
    Case("s4d_real", ours.s4d_real, constant=True),
    Case("s4d_lin_imaginary", ours.s4d_lin_imaginary, shape=(256, 64), constant=True),
    Case("lru_nu", lambda: ours.lru_nu(0.9, 0.999)),
    Case("lru_theta", ours.lru_theta),
    Case("mamba_dt_bias", ours.mamba_dt_bias),
    Case(
        "mamba_dt_projection",
        ours.mamba_dt_projection,
        variance=per("fan_in", 1 / 3),
        kurtosis=UNIFORM,
        complex_kurtosis=COMPLEX_DISK,
    ),
]


def rademacher(key, shape, dtype):
    """A user's own sampler: signs, of variance 1 exactly."""
    return jax.random.rademacher(key, shape, jnp.int32).astype(dtype)
