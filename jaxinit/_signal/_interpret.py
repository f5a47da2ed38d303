"""Running a traced program with probes at some of its equations.

The program keeps its form: what was a `scan` stays one, with one record for each of its
runs; `remat` still computes twice and stores little; a function with a derivative of
its own keeps that derivative. So the values and the gradients are those of the program,
and what a probe saw comes out beside them.

Where an equation is, its site tells: see :mod:`jaxinit._signal._sites`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr
from jax.extend.core import Literal as Constant
from jax.sharding import PartitionSpec

from jaxinit import _compat
from jaxinit._jaxpr import subprograms
from jaxinit._signal._sites import has_rule, manual_axes
from jaxinit._signal._use import Site

# What a probe is given: the equation, the values of its operands, those of its results,
# and its tap (None where there is none). It returns the results, changed or not, and a
# record, a tree of arrays.
Probe = Callable[[Any, Sequence[Any], Sequence[Any], Any], tuple[Sequence[Any], Any]]
Records = dict[Site, Any]


def interpret(
    program: ClosedJaxpr,
    args: Sequence[Any],
    probes: Mapping[Site, Probe],
    *,
    taps: Mapping[Site, Any] | None = None,
    keep_rules: bool = True,
) -> tuple[list[Any], Records]:
    """The results of a program, and what the probes recorded.

    Args:
      program: as `jax.make_jaxpr` gives it, not inlined.
      args: its flat arguments.
      probes: what to do at which site.
      taps: for some sites an array that the probe gets, and that the caller may
        differentiate with respect to. Where the site runs once for each layer of a
        scan, or on each of many devices, the tap has a leading axis for that.
      keep_rules: functions with a derivative of their own keep it, and probes inside of
        them only look on; otherwise probes there may change values, and the derivative
        is that of what the function computes.

    Returns:
      The flat results, and a record for each site, with the leading axes that
      :func:`jaxinit._signal._sites.levels` tells. A loop of unknown length leaves the
      record of its last run, a branch that was not taken NaNs (False, zero).
    """
    tree: dict[Any, Any] = {}
    for site, probe in probes.items():
        node = tree
        for step in site[:-1]:
            node = node.setdefault(step, {})
        node.setdefault(site[-1], {})[None] = (site, probe)
    run = _Run(dict(taps or {}), keep_rules)
    return run.program(program, list(args), tree)


class _Run:
    """One run of a program; holds what is the same for all its inner programs."""

    def __init__(self, taps: Records, keep_rules: bool):
        self.taps = taps
        self.keep_rules = keep_rules

    def program(
        self, program: ClosedJaxpr, args: Sequence[Any], tree: dict[Any, Any]
    ) -> tuple[list[Any], Records]:
        jaxpr = program.jaxpr
        values = dict(zip(jaxpr.constvars, program.consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))
        last = _last_reads(jaxpr)
        records: Records = {}
        for number, eqn in enumerate(jaxpr.eqns):
            operands = [
                atom.val if isinstance(atom, Constant) else values[atom]
                for atom in eqn.invars
            ]
            node = tree.get(number, {})
            results = self.equation(eqn, operands, node, records)
            if None in node:
                site, probe = node[None]
                tap = self.taps.get(site)
                results, records[site] = probe(eqn, operands, results, tap)
            values.update(zip(eqn.outvars, results, strict=True))
            for var in last.get(number, ()):
                values.pop(var, None)
        results = [
            atom.val if isinstance(atom, Constant) else values[atom]
            for atom in jaxpr.outvars
        ]
        return results, records

    def equation(
        self, eqn: Any, operands: list[Any], node: dict[Any, Any], records: Records
    ) -> list[Any]:
        entered = {role: inner for role, inner in node.items() if role is not None}
        if not entered:
            return bind(eqn, operands)
        held = {sub.role: sub for sub in subprograms(eqn)}
        enter = {
            "scan": self.scan,
            "while": self.loop,
            "cond": self.branches,
            "shard_map": self.shards,
        }.get(eqn.primitive.name, self.call)
        with eqn.ctx.manager:
            results, found = enter(eqn, held, operands, entered)
        records.update(found)
        return results

    def call(
        self, eqn: Any, held: Any, operands: list[Any], entered: dict[str, Any]
    ) -> tuple[list[Any], Records]:
        ((role, tree),) = entered.items()
        program = held[role].program
        if has_rule(eqn) and self.keep_rules:
            # The rule belongs to the function as it is. It runs as it is, and beside it
            # a second time, for the probes: to XLA the same computation, done once.
            still = [_still(operand) for operand in operands]
            _, records = _Run({}, True).program(program, still, tree)
            return bind(eqn, operands), records
        if "policy" in eqn.params and "prevent_cse" in eqn.params:  # jax.checkpoint
            again = jax.checkpoint(
                lambda *args: self.program(program, args, tree),
                policy=eqn.params["policy"],
                prevent_cse=eqn.params["prevent_cse"],
            )
            return again(*operands)
        return self.program(program, operands, tree)

    def scan(
        self, eqn: Any, held: Any, operands: list[Any], entered: dict[str, Any]
    ) -> tuple[list[Any], Records]:
        (sub,) = held.values()
        (tree,) = entered.values()
        constants = operands[: sub.constants]
        carry = operands[sub.constants : sub.constants + sub.carried]
        sliced = operands[sub.constants + sub.carried :]
        sites = [site for site in _sites(tree) if site in self.taps]

        def body(carry: Any, now: Any) -> Any:
            sliced, taps = now
            inner = _Run(self.taps | taps, self.keep_rules)
            args = [*constants, *carry, *sliced]
            results, records = inner.program(sub.program, args, tree)
            return results[: sub.carried], (results[sub.carried :], records)

        carry, (rows, records) = lax.scan(
            body,
            list(carry),
            (list(sliced), {site: self.taps[site] for site in sites}),
            length=eqn.params["length"],
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        return [*carry, *rows], records

    def loop(
        self, eqn: Any, held: Any, operands: list[Any], entered: dict[str, Any]
    ) -> tuple[list[Any], Records]:
        test, body = held["cond_jaxpr"], held["body_jaxpr"]
        # A probe of the test would see one run more than the body; it is left alone.
        tree = entered.get("body_jaxpr", {})
        ahead = operands[: test.constants]
        constants = operands[test.constants : test.constants + body.constants]
        start = operands[test.constants + body.constants :]

        def step(values: Any) -> Any:
            untapped = _Run({}, self.keep_rules)
            return untapped.program(body.program, [*constants, *values], tree)

        _, kinds = jax.eval_shape(step, start)
        (*results,), records = lax.while_loop(
            lambda now: _call(test.program, [*ahead, *now[0]])[0],
            lambda now: step(now[0]),
            (list(start), jax.tree.map(_blank, kinds)),
        )
        return results, records

    def branches(
        self, eqn: Any, held: Any, operands: list[Any], entered: dict[str, Any]
    ) -> tuple[list[Any], Records]:
        index, *args = operands
        order = [held[f"branches[{i}]"] for i in range(len(held))]
        taken = [
            (lambda *args, sub=sub: self.program(
                sub.program, args, entered.get(sub.role, {})
            ))
            for sub in order
        ]  # fmt: skip
        kinds: Records = {}
        for branch in taken:
            kinds.update(jax.eval_shape(branch, *args)[1])

        def complete(branch: Any) -> Any:
            def run(*args: Any) -> Any:
                results, records = branch(*args)
                return results, jax.tree.map(_blank, kinds) | records

            return run

        return lax.switch(index, [complete(branch) for branch in taken], *args)

    def shards(
        self, eqn: Any, held: Any, operands: list[Any], entered: dict[str, Any]
    ) -> tuple[list[Any], Records]:
        (sub,) = held.values()
        (tree,) = entered.values()
        options = _compat.shard_options(eqn.params)
        # Each shard has a record of its own, and a tap: one axis in front for all of
        # them, so that nothing has to be communicated.
        along = PartitionSpec(manual_axes(options))
        taps = {site: self.taps[site] for site in _sites(tree) if site in self.taps}

        def body(taps: Any, *args: Any) -> Any:
            inner = _Run({site: tap[0] for site, tap in taps.items()}, self.keep_rules)
            results, records = inner.program(sub.program, args, tree)
            return results, jax.tree.map(lambda leaf: leaf[None], records)

        options["in_specs"] = (along, *options["in_specs"])
        options["out_specs"] = (list(options["out_specs"]), along)
        return jax.shard_map(body, **options)(taps, *operands)


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation, as JAX evaluates it."""
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _call(program: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    return _Run({}, True).program(program, args, {})[0]


def _still(value: Any) -> Any:
    floating = jnp.issubdtype(jnp.result_type(value), jnp.inexact)
    return lax.stop_gradient(value) if floating else value


def _blank(kind: Any) -> Any:
    missing = jnp.nan if jnp.issubdtype(kind.dtype, jnp.inexact) else 0
    return jnp.full(kind.shape, missing, kind.dtype)


def _sites(tree: dict[Any, Any]) -> list[Site]:
    found = []
    for key, inner in tree.items():
        found += [inner[0]] if key is None else _sites(inner)
    return found


def _last_reads(jaxpr: Any) -> dict[int, list[Any]]:
    """After which equation a value is not needed any more: eagerly, that is memory."""
    last = {}
    for number, eqn in enumerate(jaxpr.eqns):
        for var in (*eqn.invars, *eqn.outvars):
            if not isinstance(var, Constant):
                last[var] = number
    for var in jaxpr.outvars:
        last.pop(var, None) if not isinstance(var, Constant) else None
    found: dict[int, list[Any]] = {}
    for var, number in last.items():
        found.setdefault(number, []).append(var)
    return found
