"""On a mesh, with axes of either type, everything says what it says on one device.

Over Explicit axes JAX has no way to flatten what lies on several devices, to slice it,
or to sum products along it, all of which a measurement does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxinit
from jaxinit import initializers

WIDTH, HIDDEN = 16, 32
AXIS_TYPES = [AxisType.Auto, AxisType.Explicit]
# The fused head lies on two devices: its parts are slices along a sharded axis.
LAID = {"stem": (None, "model"), "head": (None, "model")}


def shared_width(x):
    """So that the next product sums along an axis that each device holds whole."""
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.explicit_axes:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec("data", None)))


def network(params, x):
    x = jax.nn.relu(x @ params["stem"] + params["shift"][None])
    x = shared_width(x)

    @jax.checkpoint
    def layer(x, weight):
        return jnp.tanh(x @ weight), None

    x, _ = lax.scan(layer, x, params["stack"])
    x = lax.cond(params["shift"][0] < 1, lambda x: x @ params["taken"], lambda x: x, x)
    fused = jnp.concatenate([params["query"], params["key"]], 1)
    query, key = jnp.split(shared_width(x @ fused), 2, axis=1)
    return (jnp.sin(query) * key) @ params["head"]


def looped(params, x):
    def more(state):
        return state[0] < 3

    def step(state):
        return state[0] + 1, jnp.tanh(state[1] @ params["again"])

    return lax.while_loop(more, step, (0, x @ params["first"]))[1]


@functools.cache
def start():
    keys = iter(jax.random.split(jax.random.key(0), 8))
    lecun = initializers.lecun_normal()
    params = {
        "stem": initializers.he_normal()(next(keys), (WIDTH, HIDDEN)),
        "shift": jnp.zeros(HIDDEN),
        "stack": initializers.lecun_normal(batch_axis=0)(
            next(keys), (3, HIDDEN, HIDDEN)
        ),
        "taken": lecun(next(keys), (HIDDEN, HIDDEN)),
        "query": lecun(next(keys), (HIDDEN, HIDDEN)),
        "key": lecun(next(keys), (HIDDEN, HIDDEN)),
        "head": lecun(next(keys), (HIDDEN, 8)),
    }
    return params, jax.random.normal(next(keys), (16, WIDTH))


def on_mesh(axis_type, params, x):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    laid = {
        name: jax.device_put(
            leaf, NamedSharding(mesh, PartitionSpec(*LAID.get(name, ())))
        )
        for name, leaf in params.items()
    }
    return laid, jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))


def assert_same_rows(found, wanted):
    assert found.columns == wanted.columns
    for ours, theirs in zip(found.rows, wanted.rows, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            if isinstance(other, float):
                # Sums in another order, of at most some thousand numbers.
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
            else:
                assert one == other


@functools.cache
def audited(faulty):
    return jaxinit.audit(network, *planted(faulty))


def planted(faulty):
    params, x = start()
    if faulty:
        params = params | {"shift": jnp.full(HIDDEN, -10.0), "head": params["head"] * 9}
    return params, x


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
@pytest.mark.parametrize("faulty", [False, True])
def test_audit_on_a_mesh_tells_the_same_numbers_and_findings(axis_type, faulty):
    found = jaxinit.audit(network, *on_mesh(axis_type, *planted(faulty)))
    wanted = audited(faulty)
    assert_same_rows(found, wanted)
    assert [(f.severity, f.leaf, f.code) for f in found.findings] == [
        (f.severity, f.leaf, f.code) for f in wanted.findings
    ]
    assert bool(wanted.findings) == faulty


def test_a_loop_of_unknown_length_is_audited_over_explicit_axes():
    params, x = start()
    params = {"first": params["stem"], "again": params["taken"]}
    found = jaxinit.audit(looped, *on_mesh(AxisType.Explicit, params, x))
    assert_same_rows(found, jaxinit.audit(looped, params, x))


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
def test_calibrate_on_a_mesh_scales_by_the_same_and_keeps_the_layout(axis_type):
    params, x = on_mesh(axis_type, *start())
    found, report = jaxinit.calibrate(network, params, x, measure=False)
    wanted, plain = jaxinit.calibrate(network, *start(), measure=False)
    assert_same_rows(report, plain)
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=1e-4, atol=1e-6)
        assert leaf.sharding.is_equivalent_to(params[name].sharding, leaf.ndim)


def test_uses_and_predictions_do_not_depend_on_the_mesh():
    params, x = on_mesh(AxisType.Explicit, *start())
    uses = jaxinit.trace_uses(network, params, x)
    plain = jaxinit.trace_uses(network, *start())
    told = ("kind", "fan_in", "fan_out", "in_axis", "out_axis", "activation_name")
    for name, (wanted,) in plain.items():
        (found,) = uses[name]
        for what in told:
            assert getattr(found, what) == getattr(wanted, what)
    assert_same_rows(
        jaxinit.predict_signal(network, params, x),
        jaxinit.predict_signal(network, *start()),
    )


def test_reinit_over_explicit_axes_draws_the_same_and_keeps_the_layout():
    params, x = on_mesh(AxisType.Explicit, *start())
    found, _ = jaxinit.reinit(jax.random.key(1), network, params, x)
    wanted, _ = jaxinit.reinit(jax.random.key(1), network, *start())
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, wanted[name])
        assert leaf.sharding == params[name].sharding
