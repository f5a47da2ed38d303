"""Scale rules that language models brought: small, Wang's, spectral, embeddings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxinit.initializers._fans import Axes, Use
from jaxinit.initializers._initializer import OutSharding, Recipe, Shape, initializer
from jaxinit.initializers._numbers import check_positive
from jaxinit.initializers._scaling import scaling_recipe


@initializer
def small_init(
    *,
    width: Any = None,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    groups: int = 1,
    strides: int | Sequence[int] = 1,
    transposed: bool = False,
    equation: str | None = None,
):
    r"""Draw the projections of a transformer smaller than Glorot would.

    .. math:: w \sim N(0, \tfrac{2}{5 d})

    This is Glorot's 2 / (d + 4d), the variance of the widening feed-forward layer,
    given to every layer; a square projection passes 2/5 of the second moment.

    Args:
      width: d, the width of the model, for weights that do not read it: embeddings,
        the narrowing feed-forward layer. None takes d from the fan_in.
      in_axis, out_axis, batch_axis, dtype, groups, strides, transposed, equation: how
        the weight is used, as in :func:`variance_scaling`; not with `width`.

    Raises:
      ValueError: at once, for a width given together with a use.

    Example:
      >>> import jax
      >>> weight = small_init()(jax.random.key(0), (1000, 250))
      >>> round(float(weight.std()) * 50, 1)  # sqrt(2 / 5000) is 1 / 50
      1.0

    Source: Nguyen & Salazar 2019 (arXiv:1910.05895), section 2.2.
    """
    use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
    return _normal_by_width("small_init", 2 / 5, width, use)


@initializer
def wang_init(
    depth: Any,
    *,
    width: Any = None,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    groups: int = 1,
    strides: int | Sequence[int] = 1,
    transposed: bool = False,
    equation: str | None = None,
):
    r"""Draw the output projections of the residual branches of a deep transformer.

    .. math:: w \sim N(0, \tfrac{4}{L^2 d})

    a standard deviation of 2 / (L √d). A branch that ends in a signal of second moment
    1 then adds 4/L² to the residual stream, and the 2L branches of L blocks add 8/L. It
    goes with :func:`small_init` on all other weights.

    Args:
      depth: L, the number of blocks.
      width: d, the width of the model, for weights that do not read it: the narrowing
        feed-forward layer has a fan_in of 4d. None takes d from the fan_in.
      in_axis, out_axis, batch_axis, dtype, groups, strides, transposed, equation: how
        the weight is used, as in :func:`variance_scaling`; not with `width`.

    Raises:
      ValueError: at once, for a width given together with a use.

    Example:
      >>> import jax
      >>> down = wang_init(24, width=256)(jax.random.key(0), (1024, 256))
      >>> round(float(down.std()) * 24 * 16 / 2, 1)
      1.0

    Source: Wang & Komatsuzaki 2021 (GPT-J); Black et al. 2022 (arXiv:2204.06745),
    section 2.1.3.
    """
    check_positive("depth", depth)
    use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
    return _normal_by_width("wang_init", 4 / depth**2, width, use)


def _normal_by_width(name: str, scale: Any, width: Any, use: Use) -> Recipe:
    if width is None:
        return scaling_recipe(scale, "fan_in", "normal", use)
    check_positive("width", width)
    if use != Use():
        raise ValueError(
            f"{name} was given a width and a use of the weight: the width stands in "
            "for the fan_in that the use would tell; give one of them"
        )
    return Recipe(functools.partial(_draw_normal, scale / width))


@initializer
def spectral(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    groups: int = 1,
    strides: int | Sequence[int] = 1,
    transposed: bool = False,
    equation: str | None = None,
):
    r"""Draw with a spectral norm of the order of √(fan_out / fan_in), at every width.

    .. math:: w \sim N(0, σ^2), \qquad
        σ = \frac{1}{\sqrt{n_{in}}} \min\Bigl(1, \sqrt{\frac{n_{out}}{n_{in}}}\Bigr)

    A normal matrix has the norm σ (√n_in + √n_out), up to O(σ), which is between 1 and
    2 times √(n_out / n_in) for every ratio of the two. Updates of the same order, which
    learning rates proportional to n_out / n_in give, keep features learning at every
    width (muP without a base shape). Contractions (n_out < n_in) start out with less
    signal than :func:`lecun_normal` gives them: it passes n_out / n_in of it.

    Args:
      in_axis, out_axis, batch_axis, dtype, groups, strides, transposed, equation: how
        the weight is used, as in :func:`variance_scaling`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> weight = spectral()(jax.random.key(0), (512, 128))
      >>> bool(1.0 < jnp.linalg.norm(weight, 2) / (128 / 512) ** 0.5 < 2.0)
      True

    Source: Yang, Simon & Bernstein 2023 (arXiv:2310.17813), condition 1 and
    parametrization 1; for the norm of a normal matrix Davidson & Szarek 2001, theorem
    II.13.
    """
    use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
    return Recipe(functools.partial(_draw_spectral, use), check=use.fans)


def _draw_spectral(
    use: Use, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    fan_in, fan_out = use.fans(shape)
    recipe = scaling_recipe(min(1.0, fan_out / fan_in), "fan_in", "normal", use)
    return recipe.draw(key, shape, dtype, out_sharding)


@initializer
def embedding(*, tied: bool = False, axis: int = -1, dtype: Any = None):
    r"""Draw a table of embeddings, by what is done with its rows.

    .. math:: w \sim N(0, 1) \;\text{(looked up)}, \qquad
        w \sim N(0, \tfrac{1}{d}) \;\text{(tied)}

    A row that is looked up passes on its own variance, so 1 hands a signal of second
    moment 1 to the first layer. A table that is also the output head sums d products
    for each logit, and 1 would give logits of variance d and a loss far above log of
    the vocabulary; 1 / d gives them second moment 1, and the look-up is then multiplied
    by √d in the forward pass. GPT-2's compromise for both is ``normal(0.02)``.

    Args:
      tied: whether the table is also the output head.
      axis: the axis of the d features; all others count rows.
      dtype: used where the call gives none.

    Raises:
      ValueError: at the call, for a shape that does not have the axis.

    Example:
      >>> import jax
      >>> table = embedding(tied=True)(jax.random.key(0), (5000, 64))
      >>> round(float(table.std()) * 8, 1)  # sqrt(1 / 64) is 1 / 8
      1.0

    Source: Raffel et al. 2020 (arXiv:1910.10683) and ``torch.nn.Embedding`` for 1;
    Vaswani et al. 2017 (arXiv:1706.03762), section 3.4, and Flax for 1 / d.
    """
    draw = functools.partial(_draw_table, tied, axis)
    return Recipe(draw, check=functools.partial(_check_axis, axis))


def _check_axis(axis: int, shape: Shape):
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} of embedding does not exist in shape {shape}")


def _draw_table(
    tied: bool,
    axis: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    variance = 1 / shape[axis] if tied else 1.0
    return _draw_normal(variance, key, shape, dtype, out_sharding)


def _draw_normal(
    variance: Any, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    # No axis is summed over, so that the fan of every shape is 1.
    every_axis = Use((), (), tuple(range(len(shape))))
    recipe = scaling_recipe(variance, "fan_in", "normal", every_axis)
    return recipe.draw(key, shape, dtype, out_sharding)
