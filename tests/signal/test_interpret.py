"""A program with probes computes what it computes without, derivatives included."""

import jax
import jax.numpy as jnp
import numpy as np
import probed_programs as programs
import pytest
from probed_programs import BATCH, LAYERS, WIDTH

from jaxinit import _jaxpr
from jaxinit._signal._interpret import interpret
from jaxinit._signal._sites import equation, has_tap, levels
from jaxinit._signal._taps import tapped

ALL = [*programs.DIFFERENTIABLE, programs.looping]


def mean_square(eqn, operands, results, tap):
    (product,) = results
    record = jnp.mean(jnp.square(product))
    if tap is not None:
        product = tapped(product, tap)
    return [product], record


def traced(f):
    args = programs.weights(), programs.batch()
    program = _jaxpr.trace(f, *args).program
    return program, args, {site: mean_square for site in programs.products(program)}


def taps_of(program, probes):
    return {
        site: jnp.zeros([level.size for level in levels(program, site)])
        for site in probes
        if has_tap(program, site)
    }


@pytest.mark.parametrize("f", ALL, ids=lambda f: f.__name__)
def test_the_results_are_those_of_the_program(f):
    program, args, probes = traced(f)
    assert probes
    got = jax.jit(lambda *args: interpret(program, args, probes)[0])(*args)
    np.testing.assert_allclose(got[0], jax.jit(f)(*args), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("f", programs.DIFFERENTIABLE, ids=lambda f: f.__name__)
def test_the_gradients_are_those_of_the_program(f):
    program, args, probes = traced(f)
    taps = taps_of(program, probes)
    direction = jax.random.normal(jax.random.key(5), (BATCH, WIDTH))

    def loss(args, taps):
        (result,), records = interpret(program, args, probes, taps=taps)
        return jnp.sum(result * direction), records

    expected = jax.jit(jax.grad(lambda args: jnp.sum(f(*args) * direction)))(args)
    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (got, seen), records = run(args, taps)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert set(records) == set(probes)
    assert set(seen) == set(taps)


def forward(weights, x, runs):
    """The mean square of each product of a chain of tanh layers, in numpy."""
    weights, x = np.asarray(weights, np.float64), np.asarray(x, np.float64)
    found = []
    for number in runs:
        product = x @ weights[number]
        found.append(np.mean(product**2))
        x = np.tanh(product)
    return found


def records_of(f):
    program, args, probes = traced(f)
    _, records = jax.jit(lambda *args: interpret(program, args, probes))(*args)
    return list(records.values()), args


def test_a_scan_keeps_one_record_for_each_of_its_runs():
    (record,), args = records_of(programs.scanned)
    np.testing.assert_allclose(record, forward(*args, range(LAYERS)), rtol=1e-5)


def test_a_scan_that_runs_backwards_keeps_them_in_the_order_of_its_slices():
    (record,), args = records_of(programs.scanned_backwards)
    expected = forward(*args, reversed(range(LAYERS)))
    np.testing.assert_allclose(record[::-1], expected, rtol=1e-5)


def test_a_scan_in_a_scan_keeps_one_for_each_run_of_each_run():
    (record,), args = records_of(programs.nested)
    expected = forward(*args, [*range(LAYERS)] * 2)
    np.testing.assert_allclose(record.ravel(), expected, rtol=1e-5)
    assert record.shape == (2, LAYERS)


def test_a_branch_that_is_not_taken_leaves_no_number():
    (first, second, idle), args = records_of(programs.branching)
    assert np.isnan(idle)
    np.testing.assert_allclose([first, second], forward(*args, [1, 2]), rtol=1e-5)


def test_a_loop_of_unknown_length_leaves_the_record_of_its_last_run():
    (record,), args = records_of(programs.looping)
    np.testing.assert_allclose(record, forward(*args, [0, 0, 0])[-1], rtol=1e-5)


def test_each_shard_has_a_record_of_its_own():
    records, (weights, x) = records_of(programs.sharded)
    expected = [forward(weights, part, [0, 0, 1, 2]) for part in np.split(x, 4)]
    np.testing.assert_allclose(records[0], np.array(expected)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(records[1], np.array(expected)[:, 1:], rtol=1e-5)


def test_levels_tell_the_leading_axes_of_records():
    program, _, probes = traced(programs.sharded)
    kinds = [levels(program, site) for site in probes]
    assert kinds == [(("shard", 4),), (("shard", 4), ("scan", LAYERS))]
    program, _, probes = traced(programs.nested)
    assert [levels(program, site) for site in probes] == [(("scan", 2), ("scan", 3))]


def test_a_tap_tells_the_gradient_of_each_layer_of_a_scan():
    program, args, probes = traced(programs.scanned)
    (site,) = probes

    def loss(taps):
        (result,), _ = interpret(program, args, probes, taps=taps)
        return jnp.sum(result)

    seen = jax.jit(jax.grad(loss))({site: jnp.zeros(LAYERS)})[site]

    def shifted(shifts):
        x = args[1]
        for number in range(LAYERS):
            x = jnp.tanh(x @ args[0][number] + shifts[number])
        return jnp.sum(x)

    gradient = jax.grad(shifted)(jnp.zeros((LAYERS, BATCH, WIDTH)))
    expected = jnp.sum(jnp.square(gradient), axis=(1, 2))
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_no_gradient_is_promised_where_a_rule_or_an_unknown_length_hides_it():
    for f, expected in (
        (programs.custom_vjp, [True, False]),
        (programs.custom_jvp, [True, False]),
        (programs.looping, [False]),
        (programs.rematerialized, [True, True]),
    ):
        program, _, probes = traced(f)
        assert [has_tap(program, site) for site in probes] == expected


def test_a_probe_may_change_what_it_sees():
    """Also behind a rule for the derivative, where that is given up."""

    def halved(eqn, operands, results, tap):
        return [results[0] / 2], None

    for f in (programs.custom_vjp, programs.scanned, programs.rematerialized):
        program, args, probes = traced(f)
        probes = dict.fromkeys(probes, halved)
        run = jax.jit(lambda *a, p=program, q=probes: interpret(p, a, q, keep_rules=0))
        expected = jax.jit(f)(args[0] / 2, args[1])
        np.testing.assert_allclose(run(*args)[0][0], expected, rtol=1e-5, atol=1e-6)


def test_what_was_rematerialized_still_is():
    """The instrumented gradient holds checkpoints and scans, as the plain one does."""
    program, args, probes = traced(programs.scanned_backwards)
    taps = taps_of(program, probes)

    def loss(args, taps):
        return jnp.sum(interpret(program, args, probes, taps=taps)[0][0])

    names = [
        eqn.primitive.name
        for eqn, _ in _jaxpr.walk(jax.make_jaxpr(jax.grad(loss))(args, taps))
    ]
    plain = lambda args: jnp.sum(programs.scanned_backwards(*args))  # noqa: E731
    expected = [
        eqn.primitive.name
        for eqn, _ in _jaxpr.walk(jax.make_jaxpr(jax.grad(plain))(args))
    ]
    for name in ("scan", "remat2", "checkpoint"):
        assert names.count(name) == expected.count(name)


def test_an_equation_is_found_by_its_site():
    for f in ALL:
        program, _, probes = traced(f)
        for site in probes:
            assert equation(program, site).primitive.name == "dot_general"
