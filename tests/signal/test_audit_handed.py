"""Small arrays leave the program of an audit; their numbers are those it would make."""

import functools
import warnings

import jax
import jax.numpy as jnp
import network_zoo
import numpy as np
import planted_faults as plant
import pytest

import jaxinit
from jaxinit._signal import _handed
from jaxinit._signal._activity import Tails
from jaxinit._signal._audit import Auditor
from jaxinit._signal._program import trace_signal


def drawn(shapes):
    """Normal numbers, positive ones in vectors, which may be variances; whole ones."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        kind = leaf.dtype
        if jax.dtypes.issubdtype(kind, jax.dtypes.prng_key):
            return jax.random.key(1)
        if jnp.issubdtype(kind, jnp.integer):
            return jnp.asarray(rng.integers(0, 4, leaf.shape), kind)
        if jnp.issubdtype(kind, jnp.bool_):
            return jnp.ones(leaf.shape, kind)
        numbers = 0.3 * rng.normal(size=leaf.shape)
        return jnp.asarray(np.abs(numbers) if leaf.ndim == 1 else numbers, kind)

    return jax.tree.map(
        lambda leaf: draw(leaf) if hasattr(leaf, "shape") else leaf, shapes
    )


def of_both(monkeypatch, f, params, *args, key=None):
    """What is measured with small arrays handed out, and with none."""
    signal = trace_signal(f, params, *args)
    ours = Auditor(signal, key=key).meter
    monkeypatch.setattr(_handed, "TOTAL", 0)
    theirs = Auditor(signal, key=key).meter
    assert not theirs.handed_out
    assert not any(theirs.small)
    return ours, *(meter(signal.params.leaves) for meter in (ours, theirs))


def assert_same(ours, theirs, rtol=2e-4):
    """Sums of up to 1e5 numbers in float32, in another order."""
    assert np.isfinite(ours.loss)
    near = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6)
    near(ours.loss, theirs.loss)
    for one, other in zip(ours.moments, theirs.moments, strict=True):
        for name in vars(one):
            expected = getattr(other, name)
            if name in ("examples", "units", "tails"):
                assert getattr(one, name) == expected
            else:
                near(getattr(one, name), expected, err_msg=name)
    for name in ("weight_rms", "gradient_rms"):
        pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
        for one, other in pairs:
            assert (one is None) == (other is None)
            if one is not None:
                near(one, other, err_msg=name)


QUICK = ["VAE", "experts", "nnx recurrent"]
SLOW = [name for name in network_zoo.MODELS if name not in QUICK]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in SLOW)]
)
def test_numbers_of_numpy_are_those_of_the_program(name, monkeypatch, request):
    request.getfixturevalue("relaxed_promotion")
    f, params, *args = network_zoo.MODELS[name]()
    params, args = drawn(params), drawn(args)
    meter, ours, theirs = of_both(monkeypatch, f, params, *args)
    assert_same(ours, theirs)
    if name in ("VAE", "ViT", "Mixer", "UNet"):
        assert len(meter.handed_out) == len({place.after for place in meter.places})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_so_are_those_of_other_kinds(dtype, monkeypatch, x64):
    f = plant.network(jnp.tanh)
    params, x = jax.tree.map(
        lambda leaf: leaf.astype(dtype), (plant.sound(1.0), plant.batch())
    )
    meter, ours, theirs = of_both(monkeypatch, f, params, x)
    assert meter.handed_out
    # What leaves is rounded to 16 bits; sums within a program may see more.
    assert_same(ours, theirs, 2e-4 if dtype == "float64" else 4e-3)


def test_two_products_of_one_sum_have_one_gradient(monkeypatch):
    def f(params, x):
        return jnp.tanh(x @ params["a"] + jnp.sin(x) @ params["b"]) @ params["c"]

    draw = functools.partial(jax.random.normal, shape=(8, 8))
    keys = jax.random.split(jax.random.key(0), 4)
    params = {name: draw(key) for name, key in zip("abc", keys, strict=False)}
    meter, ours, theirs = of_both(monkeypatch, f, params, draw(keys[3]))
    assert len(meter.handed_out) == 2
    assert_same(ours, theirs)


def test_no_more_leaves_than_what_is_allowed(monkeypatch):
    f, params, x = plant.network(jnp.tanh), plant.sound(1.0), plant.batch()
    signal = trace_signal(f, params, x)
    leaves = list(signal.leaves)

    def numbers_out():
        lowered = Auditor(signal).meter.lower(leaves)
        return sum(leaf.size for leaf in jax.tree.leaves(lowered.out_info))

    everything = numbers_out()
    monkeypatch.setattr(_handed, "TOTAL", 0)
    sums = numbers_out()
    for total in (5_000, 20_000):
        monkeypatch.setattr(_handed, "TOTAL", total)
        assert sums < numbers_out() <= sums + total < everything
    monkeypatch.setattr(_handed, "TOTAL", 2**24)
    monkeypatch.setattr(_handed, "SMALL", 10)
    assert numbers_out() <= sums + 10 * len(jax.tree.leaves(params))


def test_an_array_used_by_several_products_leaves_once(monkeypatch):
    def f(params, x):
        return sum(jnp.tanh(x @ weight) for weight in params)

    params = list(jax.random.normal(jax.random.key(0), (3, 16, 16)))
    x = jax.random.normal(jax.random.key(1), (32, 16))
    signal = trace_signal(f, params, x)
    kinds = [
        leaf.shape
        for leaf in Auditor(signal).meter.lower(list(signal.leaves)).out_info[1]
    ]
    # x, and three products, each of which is its own signal.
    assert kinds.count((32, 16)) == 4


def test_what_lies_on_several_devices_stays_there():
    mesh = jax.make_mesh((8,), ("batch",))
    spread = jax.NamedSharding(mesh, jax.P("batch"))
    f, params = plant.network(jnp.tanh), plant.sound(1.0)
    x = jax.device_put(plant.batch(), spread)
    meter = Auditor(trace_signal(f, params, x)).meter
    assert not meter.handed_out
    assert not any(meter.small)


def test_gradients_too_small_to_square_are_still_told(monkeypatch):
    f, params = plant.network(jnp.tanh), plant.sound(1.0)
    tiny = lambda y: 1e-25 * jnp.sum(y * y)  # noqa: E731
    report = jaxinit.audit(f, params, plant.batch(), loss=tiny)
    monkeypatch.setattr(_handed, "TOTAL", 0)
    again = jaxinit.audit(f, params, plant.batch(), loss=tiny)
    column = report.columns.index("grad")
    ours, theirs = ([row[column] for row in r.rows] for r in (report, again))
    assert 0 < min(ours) < 1e-24
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("large", [3e38, np.inf, -np.inf, np.nan])
def test_a_signal_that_has_exploded_is_no_warning_of_numpy(large):
    value = np.full((4, 4), large, np.float32)
    value[0, 0] = -large
    record = {"signal": value, "values": value, "data": value}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _handed.count_product(record, None)
        _handed.count_signal(record, None, (1,), 4, Tails(low=0.0))
    assert not np.isfinite(record["square"])
    assert record["gram"].shape == (4, 4)
