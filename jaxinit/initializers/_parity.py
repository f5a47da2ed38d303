"""What other frameworks draw by default, for ports that must start alike.

======================================  ==============================================
PyTorch                                 here
======================================  ==============================================
Linear, Conv: weight                    ``torch_default()``
Linear, Conv: bias                      ``torch_default_bias(fan_in)``
ConvTranspose: weight                   ``torch_default(in_axis=-1, out_axis=-2)``
RNN, LSTM, GRU: everything              ``torch_default_recurrent(hidden)``
MultiheadAttention: query, key, value   ``torch_default_attention()``, biases zero
MultiheadAttention: output              ``torch_default()``, bias zero
Embedding                               ``embedding()``
Keras                                   here
Dense, Conv, EinsumDense, attention     ``keras_default()``, biases zero
Embedding                               ``keras_default_embedding()``
recurrent cells: input kernel           ``keras_default()`` on the fused kernel
recurrent cells: recurrent kernel       ``orthogonal()`` on the fused kernel
LSTM: bias                              ``forget_gates()``
======================================  ==============================================

Laws are equal, draws are not: each framework has its own random numbers.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._fans import Axes, Use
from jaxinit.initializers._initializer import OutSharding, Recipe, Shape, initializer
from jaxinit.initializers._numbers import check_positive
from jaxinit.initializers._scaling import scaling_recipe


@initializer
def torch_default(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    equation: str | None = None,
):
    r"""Draw the weights of PyTorch's linear and convolution layers.

    .. math:: w \sim U(-a, a), \qquad a = \frac{1}{\sqrt{n_{in}}}

    PyTorch writes it ``kaiming_uniform_(a=sqrt(5))``; the variance is 1 / (3 fan_in),
    so that a linear layer passes a third of the second moment and a ReLU layer a sixth.
    Use it to port a model faithfully, not for a new one.

    Strides and groups do not enter: PyTorch looks at the stored shape only. Its
    transposed convolutions have inputs and outputs swapped in that shape, and take the
    *outputs* for the fan: ``torch_default(in_axis=-1, out_axis=-2)`` on a Flax kernel
    ``(*spatial, in, out)``.

    Args:
      in_axis, out_axis, batch_axis, dtype, equation: how the weight is used, as in
        :func:`variance_scaling`.

    Example:
      >>> import jax
      >>> weight = torch_default()(jax.random.key(0), (400, 256))
      >>> bool((abs(weight) <= 0.05).all()), round(float(weight.var()) * 1200, 1)
      (True, 1.0)

    Source: ``torch.nn.Linear.reset_parameters`` of PyTorch 2.13; LeCun et al. 1998,
    "Efficient BackProp", for the bound.
    """
    use = Use(in_axis, out_axis, batch_axis, equation=equation)
    return scaling_recipe(1 / 3, "fan_in", "uniform", use)


@initializer
def torch_default_bias(fan_in: Any, dtype: Any = None):
    r"""Draw the biases of PyTorch's linear and convolution layers.

    .. math:: b \sim U(-a, a), \qquad a = \frac{1}{\sqrt{n_{in}}}

    with the fan_in of the *kernel*, which the shape of a bias does not tell: the
    features of the input, times the taps of a convolution, divided by its groups. For
    a transposed convolution it is that of :func:`torch_default`.

    Args:
      fan_in: of the kernel beside it.
      dtype: used where the call gives none.

    Example:
      >>> import jax
      >>> bias = torch_default_bias(3 * 3 * 64)(jax.random.key(0), (128,))
      >>> bool((abs(bias) <= 1 / 24).all())
      True

    Source: ``torch.nn.Linear.reset_parameters`` of PyTorch 2.13.
    """
    check_positive("fan_in", fan_in)
    return _uniform_around_zero(fan_in**-0.5)


@initializer
def torch_default_recurrent(hidden: Any, dtype: Any = None):
    r"""Draw everything in PyTorch's RNN, LSTM and GRU: both kernels, both biases.

    .. math:: w \sim U(-a, a), \qquad a = \frac{1}{\sqrt{hidden}}

    PyTorch has a bias for the input and one for the state; Flax's single one stands
    for their sum, of twice the variance: ``scaled(torch_default_recurrent(h), 2**0.5)``
    has it.

    Args:
      hidden: the width of the state.
      dtype: used where the call gives none.

    Example:
      >>> import jax
      >>> kernel = torch_default_recurrent(256)(jax.random.key(0), (100, 4 * 256))
      >>> bool((abs(kernel) <= 1 / 16).all())
      True

    Source: ``torch.nn.RNNBase.reset_parameters`` of PyTorch 2.13.
    """
    check_positive("hidden", hidden)
    return _uniform_around_zero(hidden**-0.5)


@initializer
def torch_default_attention(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    equation: str | None = None,
):
    r"""Draw the query, key or value kernel of PyTorch's MultiheadAttention.

    .. math:: w \sim U(-a, a), \qquad a = \sqrt{\frac{6}{n_{in} + 3 n_{out}}}

    PyTorch draws the three in one matrix (3d, d), whose outputs Glorot's rule counts
    together: half the variance of three matrices (d, d). On a kernel that holds all
    three the same law is ``glorot_uniform()``, and so it is for each of three apart
    where PyTorch has ``kdim`` or ``vdim``. The output projection is
    :func:`torch_default`; all biases are zero.

    Args:
      in_axis, out_axis, batch_axis, dtype, equation: how one of the three is used, as
        in :func:`variance_scaling`.

    Example:
      >>> import jax
      >>> query = torch_default_attention()(jax.random.key(0), (600, 600))
      >>> bool((abs(query) <= 0.05).all())
      True

    Source: ``torch.nn.MultiheadAttention._reset_parameters`` of PyTorch 2.13.
    """
    use = Use(in_axis, out_axis, batch_axis, equation=equation)
    return Recipe(functools.partial(_draw_packed, use), check=use.fans)


def _draw_packed(
    use: Use, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    fan_in, fan_out = use.fans(shape)
    scale = 2 * fan_in / (fan_in + 3 * fan_out)
    recipe = scaling_recipe(scale, "fan_in", "uniform", use)
    return recipe.draw(key, shape, dtype, out_sharding)


@initializer
def keras_default(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    equation: str | None = None,
):
    r"""Draw the kernels of Keras's layers: Glorot's uniform law on the stored shape.

    .. math:: w \sim U(-a, a), \qquad a = \sqrt{\frac{6}{n_{in} + n_{out}}}

    The draws are those of :func:`glorot_uniform`. Groups, strides and transposition do
    not enter: Keras looks at the stored shape only.

    Args:
      in_axis, out_axis, batch_axis, dtype, equation: how the weight is used, as in
        :func:`variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = keras_default()(jax.random.key(0), (400, 200))
      >>> bool((abs(kernel) <= 0.1).all())
      True

    Source: ``keras.initializers.GlorotUniform`` of Keras 3.15; Glorot & Bengio 2010,
    eq. 16.
    """
    use = Use(in_axis, out_axis, batch_axis, equation=equation)
    return scaling_recipe(1.0, "fan_avg", "uniform", use)


@initializer
def keras_default_embedding(dtype: Any = None):
    r"""Draw Keras's embeddings, uniform on ±0.05 whatever the number of features.

    Their second moment is 1/1200: a layer behind them that counts on 1 needs a
    normalization in between, or :func:`embedding` instead.

    Args:
      dtype: used where the call gives none.

    Example:
      >>> import jax
      >>> table = keras_default_embedding()(jax.random.key(0), (1000, 64))
      >>> bool((abs(table) <= 0.05).all())
      True

    Source: ``keras.initializers.RandomUniform`` of Keras 3.15.
    """
    return _uniform_around_zero(0.05)


def _uniform_around_zero(bound: Any) -> Recipe:
    return Recipe(functools.partial(_draw_uniform, bound), accepts="floating")


def _draw_uniform(
    bound: Any, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    share = jax.random.uniform(
        key, shape, dtype, minval=-1.0, maxval=1.0, out_sharding=out_sharding
    )
    return share * jnp.asarray(bound, dtype)
