"""out_sharding: honoured by every initializer, never changing a value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxinit import initializers

KEY = jax.random.key(5)
SPECS = {
    2: ("rows", "columns"),
    3: ("rows", None, "columns"),
    4: (None, None, "columns"),
}


def mesh(*types):
    return jax.make_mesh((4, 2), ("rows", "columns"), axis_types=types)


EXPLICIT = mesh(AxisType.Explicit, AxisType.Explicit)


def spec_for(case):
    return PartitionSpec(*SPECS[len(case.shape)])


# All dtypes go the same way: drawn wide, laid out, and cast last.
IN_ALL_DTYPES = ("he_uniform", "normal", "orthogonal", "sparse", "truncated_normal")


def in_each_dtype():
    """The cases, of equal initializers one; in dtypes beyond the first some."""
    seen = []
    for case in CASES:
        same = case.build(), case.shape
        if same in seen:  # he_normal is kaiming_normal
            continue
        seen.append(same)
        for dtype in (jnp.float32, jnp.bfloat16, jnp.complex64):
            draws = case.complex_kurtosis is not None or case.name == "orthogonal"
            if dtype == jnp.complex64 and not draws:
                continue
            short = dtype == jnp.float32 or case.name in IN_ALL_DTYPES
            marks = () if short else pytest.mark.long
            name = f"{case}-{jnp.dtype(dtype).name}"
            yield pytest.param(case, dtype, marks=marks, id=name)


@pytest.mark.parametrize(("case", "dtype"), list(in_each_dtype()))
def test_values_are_those_without_a_mesh_and_lie_as_asked(case, dtype):
    init, spec = case.build(), spec_for(case)
    # What auto_axes lays out runs as one program: the reference is jit's.
    plain = jax.jit(init, static_argnums=(1, 2))(KEY, case.shape, dtype)
    with jax.set_mesh(EXPLICIT):
        eager = init(KEY, case.shape, dtype, spec)
        jitted = jax.jit(lambda key: init(key, case.shape, dtype, spec))(
            jax.device_put(KEY, NamedSharding(EXPLICIT, PartitionSpec()))
        )
    for laid_out in (eager, jitted):
        assert laid_out.sharding.is_equivalent_to(
            NamedSharding(EXPLICIT, spec), len(case.shape)
        )
        assert laid_out.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(jitted), np.asarray(plain))
    one = np.asarray(init(KEY, case.shape, dtype))
    assert np.array_equal(np.asarray(eager), one) or np.array_equal(
        np.asarray(eager), np.asarray(plain)
    )


def test_a_named_sharding_of_the_mesh_in_context_works_too():
    sharding = NamedSharding(EXPLICIT, PartitionSpec("rows"))
    for build in (
        initializers.he_uniform,
        initializers.orthogonal,
        initializers.ones_init,
    ):
        init = build()
        with jax.set_mesh(EXPLICIT):
            laid_out = init(KEY, (8, 4), jnp.float32, sharding)
        assert laid_out.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_array_equal(
            np.asarray(laid_out), np.asarray(init(KEY, (8, 4)))
        )


def test_zero_size_is_laid_out_too():
    with jax.set_mesh(EXPLICIT):
        empty = initializers.he_normal()(
            KEY, (0, 8), jnp.float32, PartitionSpec(None, "rows")
        )
    assert empty.sharding.spec == PartitionSpec(None, "rows")


def error_of(act):
    with pytest.raises(Exception) as caught:
        act()
    return type(caught.value)


@pytest.mark.parametrize("name", ["normal", "orthogonal", "constant", "scaled"])
def test_errors_are_those_of_jax(name):
    build = {"constant": lambda: initializers.constant(1.0)}
    build["scaled"] = lambda: initializers.scaled(initializers.normal(), 2.0)
    init = build.get(name, getattr(initializers, name))()
    peer = jax.nn.initializers.normal()
    spec = PartitionSpec("rows")
    auto = mesh(AxisType.Auto, AxisType.Auto)
    situations = [
        lambda f: f(KEY, (8, 4), jnp.float32, spec),  # a spec without a mesh
        lambda f: f(KEY, (8, 4), jnp.float32, NamedSharding(auto, spec)),
        lambda f: f(KEY, (8, 4), jnp.float32, "rows"),
    ]
    for situation in situations:
        expected = error_of(lambda situation=situation: situation(peer))
        assert error_of(lambda situation=situation: situation(init)) is expected


def test_a_wrong_layout_would_be_noticed():
    with jax.set_mesh(EXPLICIT):
        laid_out = initializers.normal()(KEY, (8, 4), None, PartitionSpec("rows"))
    other = NamedSharding(EXPLICIT, PartitionSpec("columns"))
    assert not laid_out.sharding.is_equivalent_to(other, 2)
