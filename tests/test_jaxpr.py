"""Walking traced programs: what is inside, what is needed, what is flat."""

import gc
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import Literal, Primitive, jaxpr_as_fun
from jax.sharding import PartitionSpec

from jaxinit import _jaxpr, _primitives
from jaxinit._inlining import inline

VECTOR = jnp.arange(1.0, 4.0)


def program(f, *args):
    return _jaxpr.trace(f, *args).program


def names(closed):
    return [eqn.primitive.name for eqn, _ in _jaxpr.walk(closed)]


def run(closed, *args):
    # As one program: call by call, jit would round between them.
    return jax.tree.map(np.asarray, jax.jit(jaxpr_as_fun(closed))(*args))


def same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@jax.custom_vjp
def custom(x):
    return jnp.sin(x)


custom.defvjp(lambda x: (custom(x), x), lambda x, g: (g,))

CALLS = {
    "jit": lambda x: jax.jit(jnp.sin)(x),
    "custom_jvp": jax.nn.relu,
    "custom_vjp": custom,
    "remat": lambda x: jax.checkpoint(jnp.sin)(x),
    "nested": lambda x: jax.jit(jax.checkpoint(jax.nn.silu))(jax.nn.relu(x)),
    "constants inside": lambda x: jax.jit(lambda y: y + np.arange(3.0, dtype="f"))(x),
    "the input itself": lambda x: (x, x),
    "a literal": lambda x: (jnp.float32(2.0), x),
    "one value twice": lambda x: [jnp.exp(x)] * 2,
    "an unused input": lambda x: jnp.float32(3.0) * jnp.ones(2),
    "an unused result": lambda x: (jax.jit(lambda y: (y + 1, y * 2))(x))[1],
    "scan": lambda x: jax.lax.scan(lambda c, y: (c + y, c * y), 0.0, x),
    "while": lambda x: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: c * 2, x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
}
LOOPS = {"scan": "scan", "while": "while", "cond": "cond"}


@pytest.mark.parametrize("name", CALLS)
def test_inlining_keeps_every_value_and_leaves_no_call(name):
    original = program(CALLS[name], VECTOR)
    flat = inline(original)
    same(run(flat, VECTOR), run(original, VECTOR))
    assert not any(
        sub.kind == "inline"
        for eqn in flat.jaxpr.eqns
        for sub in _jaxpr.subprograms(eqn)
    )


def test_inlining_renames_a_program_that_is_called_twice():
    double = jax.jit(lambda x: x * 2)
    flat = inline(program(lambda x: double(double(x)) + double(x), VECTOR))
    made = [var for eqn in flat.jaxpr.eqns for var in eqn.outvars]
    assert len(made) == len(set(made))


unary = st.sampled_from([jnp.sin, jnp.tanh, jax.nn.relu, jax.nn.silu, jnp.negative])
wrapped = st.sampled_from([jax.jit, jax.checkpoint, lambda f: f, jax.named_call])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(unary, wrapped), min_size=1, max_size=5))
def test_any_nest_of_calls_inlines_to_the_same_values(parts):
    def f(x):
        for function, wrapper in parts:
            inner = f_inner(function, x)
            x = wrapper(inner)(x)
        return x, x

    def f_inner(function, x):
        return lambda y: function(y) + x

    original = program(f, VECTOR)
    same(run(inline(original), VECTOR), run(original, VECTOR))


def subs(f, *args):
    eqns = program(f, *args).jaxpr.eqns
    return [sub for eqn in eqns for sub in _jaxpr.subprograms(eqn)]


def test_the_programs_of_loops_and_branches_line_up():
    (scan,) = subs(
        lambda x, w: jax.lax.scan(lambda c, y: (c + y * w, c), 0.0, x), VECTOR, 2.0
    )
    assert (scan.kind, scan.constants, scan.carried) == ("scan", 1, 1)
    assert scan.inputs == (0, 1, 2)
    condition, body = subs(
        lambda x, n: jax.lax.while_loop(lambda c: c < n, lambda c: c + 1, x), 0, 5
    )
    assert (condition.outputs, condition.inputs) == ((None,), (0, 1))
    assert (body.outputs, body.inputs, body.carried) == ((0,), (1,), 1)
    first, second = subs(lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), VECTOR)
    assert (first.kind, first.inputs, second.role) == ("branch", (1,), "branches[1]")


def test_what_is_not_understood_is_opaque():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("i")
    mapped = jax.shard_map(lambda x: x * 2, mesh=mesh, in_specs=spec, out_specs=spec)
    (sub,) = subs(mapped, jnp.ones(4))
    assert sub.kind == "opaque"  # its program sees the shards
    flat = inline(program(mapped, jnp.ones(4)))
    assert "shard_map" in names(flat)


def test_a_program_of_shards_is_opaque_even_on_one_device():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        lambda x: jax.lax.psum(x, "i"),
        mesh=mesh,
        in_specs=PartitionSpec("i"),
        out_specs=PartitionSpec(),
    )
    assert [sub.kind for sub in subs(mapped, VECTOR)] == ["opaque"]


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        (lambda: jnp.float32(1), "inline"),
        (lambda: jnp.int32(1), "opaque"),
        (lambda: jnp.ones(2), "opaque"),
        (lambda: jax.new_ref(jnp.float32(1)), "opaque"),
    ],
    ids=["the same", "another dtype", "another shape", "a reference"],
)
def test_a_call_has_the_types_of_its_operands(argument, kind):
    (call,) = program(jax.jit(jnp.sin), jnp.float32(1)).jaxpr.eqns
    inside = jax.make_jaxpr(lambda x: jnp.sin(1.0))(argument())
    (sub,) = _jaxpr.subprograms(call.replace(params={"jaxpr": inside}))
    assert sub.kind == kind


def test_several_programs_in_one_equation_are_opaque():
    def solve(x):
        half = lambda _, y: y / 2  # noqa: E731
        return jax.lax.custom_linear_solve(lambda y: y * 2, x, half)

    kinds = [sub.kind for sub in subs(solve, VECTOR)]
    assert len(kinds) > 1
    assert set(kinds) == {"opaque"}


@pytest.mark.parametrize(
    "combine",
    [
        lambda x: x.at[0].add(1.0),
        lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a * b + 1, (0,)),
        lambda x: jax.lax.reduce(x[0], 0.0, lambda a, b: a * b + 1, ()),
        lambda x: jax.ops.segment_sum(x, jnp.array([0, 1, 0]), 2),
    ],
)
def test_how_two_elements_are_combined_is_no_program_of_its_own(combine):
    kinds = [
        sub.kind
        for eqn, _ in _jaxpr.walk(program(combine, VECTOR))
        for sub in _jaxpr.subprograms(eqn)
    ]
    assert set(kinds) <= {"inline"}
    flat = inline(program(combine, VECTOR))
    same(run(flat, VECTOR), run(program(combine, VECTOR), VECTOR))


def test_walking_tells_what_stands_around():
    closed = program(
        lambda x: jax.lax.scan(lambda c, y: (jax.nn.relu(c + y), c), 0.0, x), VECTOR
    )
    depth = {eqn.primitive.name: len(around) for eqn, around in _jaxpr.walk(closed)}
    assert depth["scan"] == 0
    assert depth["add"] == 1
    assert depth["max"] >= 2


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=False)(x)
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


def test_slicing_an_init_program_drops_the_forward_pass():
    closed = program(Model().init, jax.random.key(0), jnp.ones((1, 5, 5, 2)))
    assert {"conv_general_dilated", "dot_general"} <= set(names(closed))
    sliced = _jaxpr.slice_backward(closed)
    left = set(names(sliced))
    assert not left & {"conv_general_dilated", "dot_general", "reduce_sum"}
    assert "random_bits" in left


def test_slicing_frees_the_scan_of_an_init_of_its_carry():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(4)(x), None

    split = {"params": True}
    stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs=split, length=3)
    closed = program(
        lambda k, x: stack().init(k, x, None), jax.random.key(0), jnp.ones(4)
    )

    def carries(program):
        return [
            sub.carried
            for eqn, _ in _jaxpr.walk(program)
            for sub in _jaxpr.subprograms(eqn)
            if sub.kind == "scan"
        ]

    assert max(carries(closed)) > 0
    assert max(carries(_jaxpr.slice_backward(closed))) == 0


def test_slicing_a_while_keeps_its_values_and_frees_it_where_jax_can():
    def f(x):
        def step(carry):
            return carry[0] + 1, carry[1] * 2, jnp.sin(carry[2])

        return lax.while_loop(lambda carry: carry[0] < 3, step, (0, x, x))[:2]

    closed = program(f, VECTOR)
    sliced = _jaxpr.slice_backward(closed)
    same(run(sliced, VECTOR), run(closed, VECTOR))
    assert ("sin" in names(sliced)) == (jax.__version_info__ < (0, 12))


def test_slicing_keeps_the_wanted_outputs_and_every_input():
    closed = program(lambda x, y: (jnp.sin(x), jnp.cos(y), x), VECTOR, VECTOR)
    sliced = _jaxpr.slice_backward(closed, [False, True, True])
    assert names(sliced) == ["cos"]
    assert len(sliced.jaxpr.invars) == 2
    same(run(sliced, VECTOR, VECTOR), [jnp.cos(VECTOR), VECTOR])


def test_slicing_keeps_effects():
    def noisy(x):
        jax.debug.print("{}", x)
        return jnp.sin(x), jnp.cos(x)

    sliced = _jaxpr.slice_backward(program(noisy, 1.0), [True, False])
    assert set(names(sliced)) >= {"sin"}
    assert any("print" in name or "callback" in name for name in names(sliced))
    assert "cos" not in names(sliced)


def test_tracing_takes_shapes_and_mapped_axes():
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    traced = _jaxpr.trace(
        lambda x, *, y: {"a": jax.lax.pmean(x, "batch") + y},
        shape,
        y=1.0,
        axis_env=[("batch", 2)],
    )
    assert [(r.shape, r.dtype) for r in traced.results] == [((3,), jnp.float32)]
    assert jax.tree.unflatten(traced.out_tree, [0]) == {"a": 0}
    assert len(traced.program.jaxpr.invars) == 2


def test_an_equation_knows_the_line_of_its_user():
    (eqn,) = program(jnp.sin, 1.0).jaxpr.eqns[-1:]

    def mine(x):
        return jnp.sin(x)

    (eqn,) = program(mine, 1.0).jaxpr.eqns
    where = _jaxpr.source_location(eqn)
    assert where is not None
    assert where.startswith(__file__)
    assert where.endswith("mine)")


def test_the_line_of_what_jax_does_inside_is_that_of_the_call():
    def first(x):
        return jax.nn.relu(x)

    def second(x):
        return jax.nn.relu(x)

    program(first, VECTOR)  # traces the inside of relu, once for both
    closed = program(second, VECTOR)
    ((inner, within),) = [
        (eqn, around)
        for eqn, around in _jaxpr.walk(closed)
        if eqn.primitive.name == "max"
    ]
    assert _jaxpr.source_location(inner) is None
    where = _jaxpr.source_location(inner, within)
    assert where is not None
    assert where.endswith("second)")
    (flat,) = inline(closed).jaxpr.eqns[-1:]
    assert _jaxpr.source_location(flat) == where


def test_the_line_is_the_users_even_inside_of_a_library():
    closed = program(Model().init, jax.random.key(0), jnp.ones((1, 5, 5, 2)))
    lines = {
        _jaxpr.source_location(eqn, within)
        for eqn, within in _jaxpr.walk(closed)
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
    }
    assert len(lines) == 2
    for line in lines:
        assert line is not None
        assert pathlib.Path(line.split(":")[0]).name == "test_jaxpr.py"


def test_inlining_keeps_the_scopes_of_calls():
    inner = jax.jit(jax.named_scope("inside")(jnp.sin))
    closed = program(jax.named_scope("outside")(inner), VECTOR)
    (eqn,) = inline(closed).jaxpr.eqns
    names = str(eqn.source_info.name_stack)
    assert names.startswith("outside")
    assert names.endswith("inside")


def test_inlining_renames_the_references_of_effects():
    @jax.jit
    def increment(reference):
        reference[...] += 1.0

    def f(x):
        reference = jax.new_ref(x)
        increment(reference)
        return reference[...]

    flat = inline(program(f, VECTOR))
    same(run(flat, VECTOR), [VECTOR + 1])
    known = {var for eqn in flat.jaxpr.eqns for var in eqn.outvars}
    for eqn in flat.jaxpr.eqns:
        used = {getattr(effect, "input", None) for effect in eqn.effects}
        assert used - {None} <= known


def test_outputs_of_the_flat_program_may_be_literals():
    flat = inline(program(lambda x: jax.jit(lambda: 2.0)(), VECTOR))
    assert isinstance(flat.jaxpr.outvars[0], Literal)


@pytest.fixture(scope="module")
def existing():
    return {thing.name for thing in gc.get_objects() if isinstance(thing, Primitive)}


@pytest.mark.parametrize("number", range(len(_primitives.TABLES)))
def test_every_primitive_of_the_tables_exists(number, existing):
    assert _primitives.TABLES[number] - existing == set()


def test_newer_primitives_exist_where_they_should(existing):
    newer = jax.__version_info__ >= (0, 12)
    assert (_primitives.NEWER & existing) == (_primitives.NEWER if newer else set())


def test_what_chunks_differ_in_is_not_called_safe():
    assert not _primitives.ELEMENTWISE & _primitives.ELEMENTWISE_UNCHUNKED
    for table in (_primitives.STRUCTURAL, _primitives.REDUCTIONS, _primitives.CONTROL):
        assert not table & _primitives.ELEMENTWISE


ROUNDED = [  # those of the table that do more than one correctly rounded operation
    *(lax.acos, lax.asin, lax.atanh, lax.erf, lax.erf_inv, lax.erfc),
    *(lax.cbrt, lax.cos, lax.cosh, lax.exp, lax.exp2, lax.expm1, lax.logistic),
    *(lax.sin, lax.sinh, lax.tan, lax.tanh),
    *(lambda x: lax.log(abs(x)), lambda x: lax.log1p(abs(x))),
    *(lambda x: lax.rsqrt(abs(x)), lambda x: lax.pow(abs(x), -x)),
    *(lambda x: lax.atan2(x, x - 0.1), lambda x: lax.rem(x, x * x)),
]


def pieces(function, values, length):
    """The function of `values`, whole and in pieces of a length, as jit computes it."""
    function = jax.jit(function)
    starts = range(0, len(values) - length, length)
    parts = [function(values[start : start + length]) for start in starts]
    return np.asarray(function(values))[: len(parts) * length], np.concatenate(parts)


VALUES = np.random.default_rng(3).uniform(-0.99, 0.99, 4096).astype(np.float32)


@pytest.mark.parametrize("length", [19, 129])
def test_elementwise_functions_give_the_same_bits_in_any_chunk(length):
    def everything(x):
        return jnp.stack([function(x) for function in ROUNDED], 1)

    np.testing.assert_array_equal(*pieces(everything, VALUES, length))


@pytest.mark.long
@pytest.mark.parametrize("length", [16, 17, 19, 31, 63, 129, 1001])
@pytest.mark.parametrize("number", range(len(ROUNDED)))
def test_each_elementwise_function_gives_the_same_bits_in_any_chunk(number, length):
    np.testing.assert_array_equal(*pieces(ROUNDED[number], VALUES, length))


def test_some_functions_do_not():
    whole, parts = pieces(lax.atan, VALUES, 19)
    assert (whole != parts).any()
