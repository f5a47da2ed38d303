"""Units of a larger network, chosen once for all leaves that share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _rules
from jaxinit._errors import RuleError
from jaxinit._paths import Flat, Name, flatten
from jaxinit.groups._setting import GroupReport, Said, finished, placed
from jaxinit.transfer import adapters

_WAYS = ("even", "first", "norm")

# For each named set of units, the leaves that have it and along which axis.
Spaces = dict[str, dict[Name, int]]


def select_units(
    params: Any, rules: Any, *, source: Any, by: Any = "even"
) -> tuple[Any, GroupReport]:
    r"""Start from a part of a larger network: the same units in every leaf they touch.

    A layer's outputs, their biases, the norm behind them and the inputs of the next
    layer are indexed by the same units. A rule says what the axes of a leaf index, and
    axes with one name keep the same units:

    - "even": at equal distances, as ``transfer.adapters.select_units`` chooses them;
    - "first": the first ones, as for scanned layers;
    - "norm": those with the largest sum of squares over all leaves that share them, in
      their old order;
    - or their numbers, as a sequence.

    Values are taken as they are; nothing is rescaled. Axes without a name that shrink
    keep units at equal distances.

    Args:
      params: the smaller tree.
      rules: pairs of a pattern and a mapping from axis to the name of its units. A
        named group of the pattern stands in braces:
        ``("(?P<block>.*)/up/kernel", {0: "model", 1: "{block}/hidden"})``.
      source: the larger tree, with the same paths.
      by: one of the ways above, or rules from patterns of units to ways:
        ``[(".*/hidden", "norm"), (".*", "even")]``.

    Returns:
      ``(params, report)``: a tree of the same kind as `params`, in its dtypes, and what
      became of each leaf; leaves without a rule are kept.

    Raises:
      RuleError: a pattern matches nothing, `source` lacks a leaf, an axis would have to
        grow, or axes that share units have different sizes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxinit import groups
      >>> large = {"up": jnp.array([[1.0, 9.0, 2.0, 8.0]]), "down": jnp.ones((4, 1))}
      >>> small = {"up": jnp.zeros((1, 2)), "down": jnp.zeros((2, 1))}
      >>> rules = [("up", {1: "hidden"}), ("down", {0: "hidden"})]
      >>> new, _ = groups.select_units(small, rules, source=large, by="norm")
      >>> print(new["up"])
      [[9. 8.]]

    Source: Xu et al. 2024 (arXiv:2311.18823), section 3, for units at equal distances.
    """
    flat, large = flatten(params, argument="params"), flatten(source, argument="source")
    names = [name for name in flat.names if not flat.is_random_state(name)]
    first = _rules.first_matches(rules, names)
    pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules)
    spaces: Spaces = {}
    olds, own = dict(large.items()), dict(flat.items())
    for name, position in first.items():
        if name not in olds:
            meant = get_close_matches(name.full, [other.full for other in olds], n=2)
            hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
            raise RuleError(f"source: it has no leaf {name.full!r}{hint}")
        _enter(spaces, name, position, pairs[position], np.shape(own[name]))
    chosen = {
        space: _chosen(space, members, flat, olds, way)
        for (space, members), way in zip(
            spaces.items(), _ways(by, list(spaces)), strict=True
        )
    }
    new, said = {}, {}
    for name in first:
        units = {
            members[name]: numbers
            for space, members in spaces.items()
            if name in members and (numbers := chosen[space]) is not None
        }
        shape, old = np.shape(own[name]), olds[name]
        try:
            value = adapters.select_units(old, shape=shape, units=units)
        except ValueError as error:
            raise RuleError(f"rules: {name.full!r}: {error}") from error
        value = value.astype(jnp.result_type(own[name]))
        new[name] = placed(value, own[name])
        said[name] = Said(f"part of {tuple(np.shape(old))}", _share(shape, old))
    return finished(
        "select_units", flat, [m.keys() for m in spaces.values()], new, said
    )


def _share(shape: Sequence[int], old: Any) -> float:
    return float(np.prod(shape) / max(np.size(old), 1))


def _enter(
    spaces: Spaces, name: Name, position: int, pair: Any, shape: tuple[int, ...]
) -> None:
    """Note what the axes of a leaf index."""
    pattern, axes, *_ = pair
    where = f"rules[{position}]"
    if not isinstance(axes, Mapping):
        raise RuleError(
            f"{where}: the value must be a mapping from axis to the name of its units, "
            f"got {axes!r}; write {{0: 'model', 1: 'hidden'}}"
        )
    found = _rules.match(_rules.compile_pattern(pattern), name)
    captures = found.groupdict(default="") if found else {}
    for axis, template in axes.items():
        if not (isinstance(axis, int) and -len(shape) <= axis < len(shape)):
            raise RuleError(
                f"{where}: {name.full!r} of shape {shape} has no axis {axis!r}"
            )
        try:
            space = str(template).format(**captures)
        except (KeyError, IndexError) as error:
            raise RuleError(
                f"{where}: {template!r} asks for the group {error}, and the pattern "
                f"names {sorted(captures)}"
            ) from error
        members = spaces.setdefault(space, {})
        if name in members:
            raise RuleError(
                f"{where}: two axes of {name.full!r} have the units {space!r}"
            )
        members[name] = axis % len(shape)


def _ways(by: Any, spaces: Sequence[str]) -> list[Any]:
    """How to choose, for each set of units."""
    rules = isinstance(by, Mapping) or (
        isinstance(by, (list, tuple)) and by and isinstance(by[0], (list, tuple))
    )
    ways = [by] * len(spaces)
    if rules:
        names = [Name("params", space) for space in spaces]
        found = _rules.assign(by, names, argument="by", default="even")
        ways = [found[name] for name in names]
    for way in ways:
        if isinstance(way, str) and way not in _WAYS:
            known = ", ".join(map(repr, _WAYS))
            raise RuleError(f"by must be one of {known}, or numbers, got {way!r}")
    return ways


def _chosen(
    space: str, members: Mapping[Name, int], flat: Flat, olds: Any, way: Any
) -> Sequence[int] | None:
    """The numbers of the units to keep; None for those at equal distances."""
    own = dict(flat.items())
    sizes = {
        name: (np.shape(own[name])[axis], np.shape(olds[name])[axis])
        for name, axis in members.items()
        if axis < np.ndim(olds[name])
    }
    lead = next(iter(members))
    for name, size in sizes.items():
        if size != sizes.get(lead, size):
            raise RuleError(
                f"rules: {lead.full!r} and {name.full!r} share the units {space!r}, "
                f"and keep {' of '.join(map(str, sizes[lead]))} and "
                f"{' of '.join(map(str, size))}"
            )
    wanted, found = sizes.get(lead, (0, 0))
    if not isinstance(way, str):
        return np.asarray(way).tolist()
    if way == "first":
        return range(wanted)
    if way == "norm" and wanted < found:
        total = np.zeros(found)
        for name, axis in members.items():
            old = np.asarray(jax.device_get(olds[name]))
            size = np.abs(old if np.iscomplexobj(old) else old.astype(np.float64))
            rest = tuple(n for n in range(old.ndim) if n != axis)
            total += np.square(size, dtype=np.float64).sum(rest)
        return np.sort(np.argsort(-total, kind="stable")[:wanted]).tolist()
    return None
