"""The private names of JAX that we use: what they are relied upon to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxinit import _compat

KEY = jax.random.key(0)


def mesh_of(kind):
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))


def last_equation(f, *args):
    return jax.make_jaxpr(f)(*args).jaxpr.eqns[-1]


def test_a_sharding_is_resolved_in_the_mesh_that_is_set():
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        resolved = _compat.canonicalize_sharding(P("a"), "draw")
        theirs = jax.random.normal(KEY, (4, 2), out_sharding=P("a")).sharding
    assert resolved is not None
    assert resolved.spec == P("a")
    assert resolved.mesh == mesh.abstract_mesh
    assert NamedSharding(mesh, resolved.spec).is_equivalent_to(theirs, 2)
    assert _compat.canonicalize_sharding(None, "draw") is None


@pytest.mark.parametrize(
    ("kind", "sharding", "error"),
    [
        (None, P("a"), ValueError),
        (AxisType.Explicit, "a", TypeError),
        (AxisType.Auto, P("a"), ValueError),
    ],
)
def test_a_sharding_is_refused_in_the_words_of_jax_random(kind, sharding, error):
    def refusal(call):
        with pytest.raises(error) as caught:
            call()
        return str(caught.value).split(" This error occurs at")[0]

    def both():
        ours = refusal(lambda: _compat.canonicalize_sharding(sharding, "normal"))
        theirs = refusal(lambda: jax.random.normal(KEY, (8,), out_sharding=sharding))
        return ours, theirs

    if kind is None:
        ours, theirs = both()
    else:
        with jax.set_mesh(mesh_of(kind)):
            ours, theirs = both()
    assert ours == theirs


def test_varying_axes_are_those_of_the_operand_in_a_shard_map():
    seen = []

    def body(x, y):
        seen.append(tuple(map(_compat.varying_axes, (x, y, jnp.float32(1)))))
        return x

    mesh = mesh_of(AxisType.Auto)
    specs = {"in_specs": (P(("b", "a")), P("b")), "out_specs": P(("b", "a"))}
    jax.jit(jax.shard_map(body, mesh=mesh, **specs))(jnp.ones(8), jnp.ones(2))
    assert seen[0] == (("a", "b"), ("b",), ())
    assert _compat.varying_axes(jnp.ones(3)) == ()


def test_a_setting_is_what_a_context_makes_it():
    assert _compat.setting("jax_threefry_partitionable") is True
    with jax.threefry_partitionable(False):
        assert _compat.setting("jax_threefry_partitionable") is False
    with pytest.raises(AttributeError):
        _compat.setting("jax_no_such_option")


def test_slicing_reaches_into_calls_and_loops():
    def f(x):
        both = jax.jit(lambda y: (jnp.sin(y), jnp.cos(y)))(x)
        _, (tan, exp) = lax.scan(
            lambda c, y: (c + y, (jnp.tan(y), jnp.exp(c))), 0.0, both[0]
        )
        return tan, exp, both[1]

    closed = jax.make_jaxpr(f)(jnp.ones(3))
    sliced = str(_compat.slice_backward(closed.jaxpr, [True, False, False]))
    assert "sin" in sliced
    assert "tan" in sliced
    assert not {"cos", "exp", "add"} & set(sliced.split())


def test_slicing_keeps_inputs_and_constants_in_their_places():
    constant = np.arange(3.0, dtype=np.float32)
    closed = jax.make_jaxpr(lambda x, y: (x + constant, y * (2 * constant)))(
        jnp.ones(3), jnp.ones(3)
    )
    sliced = ClosedJaxpr(
        _compat.slice_backward(closed.jaxpr, [False, True]), closed.consts
    )
    (result,) = jaxpr_as_fun(sliced)(jnp.ones(3), 3 * jnp.ones(3))
    np.testing.assert_array_equal(result, 6 * constant)


def test_a_new_variable_is_like_no_other():
    new = _compat.variables()
    aval = last_equation(jnp.sin, 1.0).outvars[0].aval
    assert new(aval).aval is aval
    assert new(aval) != new(aval)


def test_the_operands_of_a_scan_are_counted():
    def f(w, b, c, xs):
        def step(c, x):
            return (c[0] + x[0] * w, c[1] + b, c[2] * 2), x[1]

        return lax.scan(step, (c, c, c), (xs, xs))

    eqn = last_equation(f, 1.0, 2.0, 0.0, jnp.ones(3))
    assert eqn.primitive.name == "scan"
    assert _compat.scan_counts(eqn.params) == (2, 3)


def test_frames_are_the_users_the_innermost_first():
    def inner(x):
        return jnp.sin(x)

    def outer(x):
        return inner(x)

    frames = _compat.frames(last_equation(outer, 1.0))
    functions = [function.split(".")[-1] for _, _, function in frames]
    assert functions[:2] == ["inner", "outer"]
    assert {file for file, _, _ in frames[:2]} == {__file__}
    lines = [line for _, line, _ in frames[:2]]
    assert lines[1] - lines[0] == 3


def test_what_jax_does_inside_has_no_frames():
    call = last_equation(lambda x: jax.nn.silu(x), jnp.ones(3))
    (inside, *_) = call.params["jaxpr"].jaxpr.eqns
    assert _compat.frames(call)
    assert not _compat.frames(inside)


def message_of(tracer):
    with pytest.raises(jax.errors.TracerBoolConversionError) as raised:
        bool(tracer)
    return str(raised.value)


def test_errors_about_tracers_are_brief_while_that_is_asked_for():
    """And tell the origin again afterwards: it is a sentence more."""
    seen = []

    def f(x):
        y = x + 1
        with _compat.brief_tracer_errors():
            seen.append(message_of(y))
        seen.append(message_of(y))
        return y

    jax.jit(f).trace(1.0)
    brief, full = seen
    told = "The error occurred while tracing the function f"
    assert told in full
    assert told not in brief
    assert brief.startswith("Attempted boolean conversion")
