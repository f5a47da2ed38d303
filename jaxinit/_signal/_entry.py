"""A Flax model as a plain function of its parameters and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def from_linen(module: Any, variables: Any, *args: Any, **apply_kwargs: Any) -> Any:
    r"""A linen module as ``f(params, state, *args)``, with its parameters and data.

    .. math:: f(params, state, args...) = module.apply(variables, args...)

    `state` holds whatever else varies: the other collections, the keys in ``rngs``, and
    keyword arguments that are arrays. Collections beside the parameters are mutable, so
    that BatchNorm in training mode and a decoding cache work; what they become is
    dropped. Arguments without arrays (``True``, ``None``, a method) are options, and
    stay inside of f. `pmean` over an axis that only exists on many devices needs
    nothing: all that takes f binds such axes to size 1.

    Args:
      module: a linen module.
      variables: as ``module.init`` returns them.
      args: arguments of ``module.apply`` after the variables. In training mode say what
        the module wants to hear, such as ``train=True`` or ``deterministic=False``.
      apply_kwargs: keyword arguments of ``module.apply``: ``rngs``, ``method``,
        ``mutable`` and those of the call.

    Returns:
      ``(f, params, state, *args)``, to be passed on as they are.

    Raises:
      ValueError: the variables have no parameters.

    Example:
      >>> import jax, jaxinit
      >>> from flax import linen as nn
      >>> model, x = nn.Dense(3), jax.numpy.ones((2, 4))
      >>> variables = model.init(jax.random.key(0), x)
      >>> f, params, *args = jaxinit.from_linen(model, variables, x)
      >>> f(params, *args).shape
      (2, 3)
    """
    if not isinstance(variables, Mapping) or "params" not in variables:
        found = sorted(variables) if isinstance(variables, Mapping) else variables
        raise ValueError(
            "variables must hold the collection 'params', as module.init returns them, "
            f"got {found!r:.200}; give {{'params': params}}"
        )
    params = variables["params"]
    others = {name: variables[name] for name in variables if name != "params"}
    rngs = apply_kwargs.pop("rngs", None)
    mutable = apply_kwargs.pop("mutable", sorted(others))
    moving, fixed = _arrays_apart(apply_kwargs)
    places = [place for place, arg in enumerate(args) if _holds_arrays(arg)]
    state: dict[str, Any] = {"collections": others}
    if rngs is not None:
        state["rngs"] = rngs
    if moving:
        state["keywords"] = moving

    def f(params: Any, state: Any, *arrays: Any) -> Any:
        given = list(args)
        for place, array in zip(places, arrays, strict=True):
            given[place] = array
        outputs = module.apply(
            {"params": params, **state["collections"]},
            *given,
            rngs=state.get("rngs"),
            mutable=mutable,
            **fixed,
            **state.get("keywords", {}),
        )
        return outputs[0] if mutable is not False else outputs

    return f, params, state, *(args[place] for place in places)


def from_nnx(model: Any, *args: Any, method: Any = None, **kwargs: Any) -> Any:
    r"""An nnx model as ``f(params, state, *args)``, with its parameters and data.

    .. math:: f(params, state, args...) = model(args...)

    `params` is the State of all ``nnx.Param`` variables, `state` everything else of the
    model, counters of random numbers and BatchNorm's statistics included, and keyword
    arguments that are arrays. f changes nothing outside: what the call writes into the
    model's variables is dropped. Training or evaluation is as the model is set
    (``model.train()``, ``model.eval()``). Afterwards ``nnx.update(model, params)`` puts
    changed parameters back.

    Args:
      model: an nnx module.
      args: arguments of the call; those without arrays are options, and stay inside.
      method: what to call instead of the model: a function ``(model, *args)``.
      kwargs: keyword arguments of the call.

    Returns:
      ``(f, params, state, *args)``, to be passed on as they are.

    Example:
      >>> import jax, jaxinit
      >>> from flax import nnx
      >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> f, params, *args = jaxinit.from_nnx(model, jax.numpy.ones((2, 4)))
      >>> f(params, *args).shape
      (2, 3)
    """
    from flax import nnx

    graph, params, rest = nnx.split(model, nnx.Param, ...)
    moving, fixed = _arrays_apart(kwargs)
    places = [place for place, arg in enumerate(args) if _holds_arrays(arg)]
    state: dict[str, Any] = {"variables": rest}
    if moving:
        state["keywords"] = moving

    def f(params: Any, state: Any, *arrays: Any) -> Any:
        given = list(args)
        for place, array in zip(places, arrays, strict=True):
            given[place] = array
        own = nnx.merge(graph, params, state["variables"])
        keywords = {**fixed, **state.get("keywords", {})}
        if method is None:
            return own(*given, **keywords)
        return method(own, *given, **keywords)

    return f, params, state, *(args[place] for place in places)


def _holds_arrays(tree: Any) -> bool:
    return any(
        hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        for leaf in jax.tree.leaves(tree)
    )


def _arrays_apart(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keyword arguments that hold arrays, and those that are options."""
    moving = {name: value for name, value in kwargs.items() if _holds_arrays(value)}
    return moving, {name: v for name, v in kwargs.items() if name not in moving}
