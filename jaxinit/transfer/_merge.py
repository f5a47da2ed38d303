"""Carrying out a plan: one tensor at a time, from the source to where it belongs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxinit._errors import MergeError
from jaxinit._keys import fold_name, require_key
from jaxinit._materialize import materialize
from jaxinit._paths import Name
from jaxinit._report import Finding
from jaxinit.transfer._applied import renewed
from jaxinit.transfer._functions import supplied
from jaxinit.transfer._place import Checks, Reader, put, settle
from jaxinit.transfer._plan import Plan, TargetLeaf, titled
from jaxinit.transfer._planning import plan
from jaxinit.transfer._policy import STRICT, Policy
from jaxinit.transfer._rules import Rule
from jaxinit.transfer._source import as_source
from jaxinit.transfer._target import Target, as_target

_REMEDIES = {
    "nonfinite": 'Repair the checkpoint, or allow it with Policy(nonfinite="allow").',
    "dtype": "Use a wider dtype in the target.",
}


def merge(
    target: Any,
    source: Any,
    rules: Sequence[Rule] | Plan = (),
    *,
    policy: Policy = STRICT,
    key: Any = None,
    out_shardings: Any = None,
) -> tuple[Any, Plan]:
    """The target with its leaves taken from the source, and the account of every leaf.

    Each leaf is read, laid out, cast and placed before the next one, on its shards
    where it has some. The target's own leaves, and the source, are left as they are.

    Args:
      target: a tree (linen variables, nnx State, any pytree), or a function of no
        arguments that makes one, `lambda: model.init(key, x)`; of such a function, only
        the leaves are made that the source does not fill.
      source: what `open_checkpoint` returned, or a tree.
      rules: in the order in which they are tried; or a plan, which is then carried out
        if target and source are those that it was made for.
      policy: what to do about what does not fit; a plan brings its own.
      key: for the leaves that are drawn by rule, folded with the name of each.
      out_shardings: a sharding, or a tree of them that is a prefix of the target.
        Without it a leaf goes where the target's leaf is.

    Returns:
      A tree of the target's kind, and the report: a `Plan`, with what was found in the
      numbers.

    Raises:
      RuleError: a rule matches nothing, or contradicts another.
      MergeError: a leaf on either side is unaccounted for, or does not fit; its
        `.report` accounts for all of them.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source = {"old": jnp.ones(2)}
    >>> tree, report = tr.merge({"w": jnp.zeros(2)}, source, [tr.rename("old", "w")])
    >>> tree["w"].tolist()
    [1.0, 1.0]
    >>> tr.merge({"w": jnp.zeros(2)}, source)
    Traceback (most recent call last):
        ...
    jaxinit._errors.MergeError: plan of 1 leaves: 1 missing
      error: w: nothing in the source goes here. Rename the source's leaf, ...
    """
    aim, origin = as_target(target), as_source(source)
    if isinstance(rules, Plan):
        made = renewed(rules, aim, origin, policy)
    else:
        made = plan(target, origin, rules, policy=policy)
    made.raise_if("error")
    shardings = _shardings(aim, out_shardings)
    names = {
        leaf.name: name for name, leaf in zip(aim.flat.names, made.targets, strict=True)
    }
    findings: list[Finding] = list(made.findings)
    own = [names[leaf.name] for leaf in made.targets if _is_own(leaf)]
    for leaf in made.targets:
        if leaf.function and leaf.fate == "drawn":
            require_key(key, f"to draw {leaf.name!r}")
    leaves = aim.values(own, out_shardings)
    reader = Reader(origin)
    for leaf in _in_reading_order(made):
        name = names[leaf.name]
        checks = _checks(made.policy, leaf.name, findings)
        leaves[name] = _carried_out(leaf, made, reader, shardings[name], checks, key)
    report = dataclasses.replace(
        made, title=titled("merge", made.targets), findings=tuple(findings)
    )
    report.raise_if("error")
    return aim.flat.unflatten([leaves[name] for name in aim.flat.names]), report


def _is_own(leaf: TargetLeaf) -> bool:
    """Whether the value is the target's."""
    return leaf.fate in ("kept", "drawn") and not leaf.function


def _in_reading_order(made: Plan) -> list[TargetLeaf]:
    """The leaves to make, those of one source leaf together: it is read once."""
    place = {leaf.name: position for position, leaf in enumerate(made.sources)}
    leaves = [leaf for leaf in made.targets if not _is_own(leaf)]
    return sorted(
        leaves,
        key=lambda leaf: place[leaf.recipe.sources[0]] if leaf.recipe else -1,
    )


def _carried_out(
    leaf: TargetLeaf,
    made: Plan,
    reader: Reader,
    sharding: Any,
    checks: Checks,
    key: Any,
) -> jax.Array:
    name, dtype = Name.parse(leaf.name), np.dtype(leaf.result)
    if leaf.fate == "drawn":
        function, folded = made.functions[leaf.function], fold_name(key, name)

        def draw(key: Any) -> Any:
            return function(key, leaf.shape, dtype)

        # As jit draws it: the same numbers on one device and over many.
        values = materialize(draw, out_shardings=sharding)(folded)
        if values.shape != leaf.shape or values.dtype != dtype:
            raise MergeError(
                f"{leaf.name!r} is to be {dtype.name} of shape {leaf.shape}, and "
                f"{leaf.function} drew {values.dtype} of shape {values.shape}"
            )
        return values
    assert leaf.recipe is not None, "every other fate has a recipe"
    if leaf.fate != "adapted":
        return put(reader, leaf.recipe, leaf.shape, dtype, sharding, checks)
    adapter = made.functions[leaf.function]
    folded = None if key is None else fold_name(key, name)
    array = leaf.recipe.make(reader.read)
    adapted = adapter(jax.numpy.asarray(array), **supplied(adapter, leaf.shape, folded))
    if adapted.shape != leaf.shape:
        raise MergeError(
            f"{leaf.name!r} is to have shape {leaf.shape}, and {leaf.function} made "
            f"{adapted.shape}"
        )
    return settle(adapted, dtype, sharding, checks)


def _checks(policy: Policy, name: str, findings: list[Finding]) -> Checks:
    """What notes the values of a leaf that do not survive."""
    severity = "error" if policy.nonfinite == "error" else "warning"

    def complain(code: str, cause: str) -> None:
        grave = severity if code == "nonfinite" else "error"
        finding = Finding(grave, name, cause, _REMEDIES[code], code=code)
        if finding not in findings:
            findings.append(finding)

    return Checks(complain, finite=policy.nonfinite != "allow")


def _shardings(aim: Target, out_shardings: Any) -> dict[Name, Any]:
    """For each leaf where it goes: as asked, else where the target's leaf is."""
    flat = aim.flat
    if out_shardings is None:
        asked = [None] * len(flat.names)
    else:
        tree = flat.unflatten(flat.leaves)
        spread = jax.tree.broadcast(out_shardings, tree, is_leaf=lambda x: x is None)
        asked = jax.tree.leaves(spread, is_leaf=lambda x: x is None)
    return {
        name: _own_sharding(leaf) if sharding is None else sharding
        for (name, leaf), sharding in zip(flat.items(), asked, strict=True)
    }


def _own_sharding(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf.sharding if leaf.committed else None
    return leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
