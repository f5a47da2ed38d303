"""The rules of the second and third stage: by the path of the leaf in the target."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jaxinit._errors import RuleError
from jaxinit._rules import Pattern
from jaxinit.transfer._rules import Adapt, Draw, Keep, Layout, Rule, TorchLayout
from jaxinit.transfer._source_rules import check


def layout(
    pattern: Pattern,
    *,
    unflatten: Sequence[int] | None = None,
    transpose: Sequence[int] | None = None,
    flip: Sequence[int] = (),
    reshape: bool = False,
    optional: bool = False,
) -> Rule:
    """The order in which the source holds the axes of the leaves that match.

    Without options it says that source and target agree, which exempts the leaves from
    a later `torch_layout()`. The steps run in the order of the options.

    Args:
      pattern: a regular expression for whole target paths.
      unflatten: a shape that the source's axes are first written out to, such as
        (120, 16, 5, 5) for a linear layer behind 16 flattened maps of 5 x 5.
      transpose: the order of the axes, as in `numpy.transpose`.
      flip: axes, of the transposed array, that run backwards.
      reshape: whether the result takes the target's shape, elements in their order.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source, target = {"w": jnp.zeros((2, 3))}, {"w": jnp.zeros((3, 2))}
    >>> tree, _ = tr.merge(target, source, [tr.layout("w", transpose=(1, 0))])
    >>> tree["w"].shape
    (3, 2)
    """
    check(pattern)
    for name, axes in (("transpose", transpose), ("flip", flip)):
        if axes is not None and len({*axes}) < len([*axes]):
            raise RuleError(f"{name} names an axis twice: {tuple(axes)}")
    if transpose is not None and sorted(transpose) != list(range(len([*transpose]))):
        raise RuleError(
            f"transpose must order the axes 0 to {len([*transpose]) - 1}, got "
            f"{tuple(transpose)}"
        )
    if any(axis < 0 for axis in flip):
        raise RuleError(f"flip must count axes from 0, got {tuple(flip)}")
    return Layout(
        pattern,
        unflatten=None if unflatten is None else tuple(unflatten),
        transpose=None if transpose is None else tuple(transpose),
        flip=tuple(flip),
        reshape=reshape,
        optional=optional,
    )


def torch_layout(
    pattern: Pattern = ".*",
    *,
    transposed: Pattern | None = None,
    optional: bool = False,
) -> Rule:
    """The source is torch's: its leaf names, axis and gate order become Flax's.

    `weight` becomes kernel, scale or embedding, whichever the target has; running
    statistics go to batch_stats; kernels of linear layers and convolutions are
    transposed, with the axes of attention heads split off where the target has them;
    packed attention is split; the gates of LSTM and GRU are taken apart or fused, their
    two biases added. `num_batches_tracked` is dropped.

    Args:
      pattern: a regular expression for whole target paths.
      transposed: the kernels of ConvTranspose layers with `transpose_kernel=False`,
        which are torch's, flipped. (With True they are like those of convolutions.)
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source = {"fc": {"weight": jnp.zeros((4, 3)), "bias": jnp.zeros(4)}}
    >>> target = {"fc": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    >>> tree, report = tr.merge(target, source, [tr.torch_layout()])
    >>> report.target_fates
    {'fc/bias': 'copied', 'fc/kernel': 'copied'}
    """
    check(pattern)
    if transposed is not None:
        check(transposed, "transposed")
    return TorchLayout(pattern, transposed=transposed, optional=optional)


def adapt(
    pattern: Pattern,
    adapter: Callable[..., Any],
    *,
    optional: bool = False,
    **options: Any,
) -> Rule:
    """The array of the source, in the target's layout, goes through a function.

    Args:
      pattern: a regular expression for whole target paths.
      adapter: a function of one array, traceable by JAX; those of
        `jaxinit.transfer.adapters` or one's own. Where it has the parameters, it is
        also given `shape`, the target's, and `key`, the merge's folded with the name.
      optional: whether the rule may match nothing.
      **options: further keyword arguments of the adapter.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> rule = tr.adapt("w", tr.adapters.inflate_channels, channels=1, mode="sum")
    >>> source, target = {"w": jnp.ones((3, 3, 3, 8))}, {"w": jnp.ones((3, 3, 1, 8))}
    >>> tree, report = tr.merge(target, source, [rule])
    >>> tree["w"][0, 0, 0, 0].item(), report.target_fates
    (3.0, {'w': 'adapted'})
    """
    check(pattern)
    if not callable(adapter):
        raise RuleError(f"adapter must be a function of an array, got {adapter!r}")
    try:
        parameters = inspect.signature(adapter).parameters
    except (TypeError, ValueError):  # of a builtin
        parameters = None
    if parameters is not None:
        rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = [name for name in options if name not in parameters and not rest]
        if unknown:
            name = getattr(adapter, "__name__", repr(adapter))
            raise RuleError(
                f"adapter {name} has no option {unknown[0]!r}; it takes "
                f"{', '.join(list(parameters)[1:]) or 'none'}"
            )
        # The merge gives these two, see `supplied`.
        given = {*options, "shape", "key"}
        unsaid = [
            name
            for name, parameter in list(parameters.items())[1:]
            if parameter.kind is parameter.KEYWORD_ONLY
            and parameter.default is parameter.empty
            and name not in given
        ]
        if unsaid:
            name = getattr(adapter, "__name__", repr(adapter))
            options_of = ", ".join(f"{option}=..." for option in unsaid)
            raise RuleError(
                f"adapter {name} needs the option {unsaid[0]!r}; write "
                f"adapt({pattern!r}, {name}, {options_of})"
            )
    return Adapt(pattern, adapter, tuple(options.items()), optional=optional)


def keep(pattern: Pattern, *, optional: bool = False) -> Rule:
    """The target's leaves that match stay as they are, whatever the source has.

    A target given as a function makes them, and no others.

    Args:
      pattern: a regular expression for whole target paths.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source, target = {"head": jnp.zeros(1000)}, {"head": jnp.zeros(2)}
    >>> tree, report = tr.merge(target, source, [tr.keep("head")])
    >>> report.target_fates, report.source_fates
    ({'head': 'kept'}, {'head': 'replaced'})
    """
    check(pattern)
    return Keep(pattern, optional=optional)


def draw(
    pattern: Pattern, initializer: Callable[..., Any], *, optional: bool = False
) -> Rule:
    """The target's leaves that match are drawn anew, whatever the source has.

    Args:
      pattern: a regular expression for whole target paths.
      initializer: a function of key, shape and dtype; the key is that of the merge,
        folded with the full name of the leaf.
      optional: whether the rule may match nothing.

    >>> import jax, jax.numpy as jnp
    >>> from jaxinit import initializers, transfer as tr
    >>> source, target = {"head": jnp.zeros((8, 9))}, {"head": jnp.zeros((8, 2))}
    >>> rule = tr.draw("head", initializers.lecun_normal())
    >>> tree, report = tr.merge(target, source, [rule], key=jax.random.key(0))
    >>> tree["head"].shape, report.target_fates
    ((8, 2), {'head': 'drawn'})
    """
    check(pattern)
    if not callable(initializer):
        raise RuleError(
            "initializer must be a function of key, shape and dtype, got "
            f"{initializer!r}; write jaxinit.initializers.constant(...) for a number"
        )
    return Draw(pattern, initializer, optional=optional)
