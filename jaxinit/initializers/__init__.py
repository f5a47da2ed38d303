"""Initializers: ``(key, shape, dtype=None, out_sharding=None) -> Array``.

Every name of ``jax.nn.initializers`` and ``flax.linen.initializers`` is here with the
same signature and, for float32, float64 and complex, the same bits.
"""

from jaxinit.initializers._biases import (
    chrono,
    forget_gates,
    linspace_gates,
    positive_relu_bias,
)
from jaxinit.initializers._combinators import blocked, scaled, stacked
from jaxinit.initializers._fans import Fans, fans
from jaxinit.initializers._fields import fourier_features, siren
from jaxinit.initializers._gains import EdgeOfChaos, edge_of_chaos, gain
from jaxinit.initializers._hippo import (
    hippo_legs,
    hippo_legs_input,
    hippo_legs_low_rank,
    hippo_legs_normal,
    s4d_lin_imaginary,
    s4d_real,
)
from jaxinit.initializers._initializer import Initializer
from jaxinit.initializers._language import embedding, small_init, spectral, wang_init
from jaxinit.initializers._named_scalings import (
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    xavier_normal,
    xavier_uniform,
)
from jaxinit.initializers._orthogonal import (
    delta_orthogonal,
    orthogonal,
    scaled_orthogonal,
)
from jaxinit.initializers._parity import (
    keras_default,
    keras_default_embedding,
    torch_default,
    torch_default_attention,
    torch_default_bias,
    torch_default_recurrent,
)
from jaxinit.initializers._patterns import (
    constant,
    identity,
    ones,
    ones_init,
    zeros,
    zeros_init,
)
from jaxinit.initializers._samplers import normal, truncated_normal, uniform
from jaxinit.initializers._scaling import variance_scaling
from jaxinit.initializers._sequence import (
    lru_nu,
    lru_theta,
    mamba_dt_bias,
    mamba_dt_projection,
)
from jaxinit.initializers._sinusoidal import sinusoidal
from jaxinit.initializers._sparse import sparse
from jaxinit.initializers._spatial import delta, icnr
from jaxinit.initializers._structured import bilinear, dirac

__all__ = [
    "Initializer",
    "Fans",
    "fans",
    "gain",
    "edge_of_chaos",
    "EdgeOfChaos",
    "variance_scaling",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "glorot_normal",
    "glorot_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "truncated_normal",
    "uniform",
    "orthogonal",
    "scaled_orthogonal",
    "delta_orthogonal",
    "scaled",
    "stacked",
    "blocked",
    "delta",
    "icnr",
    "sparse",
    "constant",
    "zeros",
    "zeros_init",
    "ones",
    "ones_init",
    "identity",
    "dirac",
    "bilinear",
    "sinusoidal",
    "siren",
    "fourier_features",
    "small_init",
    "wang_init",
    "spectral",
    "embedding",
    "torch_default",
    "torch_default_bias",
    "torch_default_recurrent",
    "torch_default_attention",
    "keras_default",
    "keras_default_embedding",
    "forget_gates",
    "chrono",
    "linspace_gates",
    "positive_relu_bias",
    "hippo_legs",
    "hippo_legs_normal",
    "hippo_legs_low_rank",
    "hippo_legs_input",
    "s4d_real",
    "s4d_lin_imaginary",
    "lru_nu",
    "lru_theta",
    "mamba_dt_bias",
    "mamba_dt_projection",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    if callable(_item := globals()[_name]) and not isinstance(_item, Initializer):
        _item.__module__ = __name__
