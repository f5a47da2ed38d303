"""Weights that stand side by side in one product: each is brought to its target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxinit
from jaxinit import _jaxpr
from jaxinit._errors import RuleError
from jaxinit._signal._parts import part_of
from jaxinit._signal._places import places
from jaxinit._signal._program import trace_signal
from jaxinit._signal._rescale import Goal, Rescaler
from jaxinit._signal._uses import uses_of

KEY = jax.random.key(0)
WIDTH, BATCH = 12, 32
GATES = "ifgo"


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape or (WIDTH, WIDTH))


def rms(array):
    return float(np.sqrt(np.mean(np.square(np.asarray(array, np.float64)))))


def beside(params, x):
    """Query, key and value as one product."""
    return jnp.tanh(x @ jnp.concatenate([params[name] for name in "qkv"], axis=1))


def calibrated(f, params, x, **options):
    return jaxinit.calibrate(f, params, x, **options)


def test_each_is_scaled_by_its_own_part_of_the_product():
    params = {"q": draw(1), "k": 5 * draw(2), "v": 0.1 * draw(3, WIDTH, 20)}
    x = draw(7, BATCH, WIDTH)
    new, report = calibrated(beside, params, x, targets=[("k", 0.5)])
    sizes = [rms(x @ new[name]) for name in "qkv"]
    np.testing.assert_allclose(sizes, [1.0, 0.5, 1.0], rtol=1e-5)
    found = {row["leaf"]: row for row in report.records()}
    for name, target in zip("qkv", (1.0, 0.5, 1.0), strict=True):
        assert found[name]["before"] == pytest.approx(rms(x @ params[name]), rel=1e-5)
        assert found[name]["after"] == pytest.approx(target, rel=1e-5)
        assert found[name]["sum"] == pytest.approx(target, rel=1e-5)
    assert report.passes == 1
    assert not report.findings


def test_what_was_not_chosen_keeps_its_part():
    params = {"q": draw(1), "k": draw(2), "v": jnp.zeros((WIDTH, WIDTH))}
    x = draw(7, BATCH, WIDTH)
    new, report = calibrated(beside, params, x, only=["q", "v"])
    np.testing.assert_array_equal(new["k"], params["k"])
    np.testing.assert_array_equal(new["v"], 0.0)
    assert rms(x @ new["q"]) == pytest.approx(1.0, rel=1e-5)
    notes = {row["leaf"]: row["note"] for row in report.records()}
    assert notes == {"q": "", "k": "not chosen", "v": "zero"}


def test_what_comes_behind_sees_the_parts_as_they_are_then():
    """One pass: the next layer's factor follows from the scaled parts."""

    def f(params, x):
        return beside(params, x) @ params["out"]

    params = {"q": draw(1), "k": 9 * draw(2), "v": 0.01 * draw(3)}
    params["out"] = draw(4, 3 * WIDTH, WIDTH)
    x = draw(7, BATCH, WIDTH)
    new, _ = calibrated(f, params, x)
    parts = [np.asarray(x @ new[name], np.float64) for name in "qkv"]
    assert rms(np.tanh(np.concatenate(parts, 1)) @ np.float64(new["out"])) == (
        pytest.approx(1.0, rel=1e-5)
    )


def test_gates_of_a_cell_in_one_step(relaxed_promotion):
    cell = nn.OptimizedLSTMCell(WIDTH)
    x = draw(7, BATCH, 5)
    carry = (draw(8, BATCH, WIDTH), draw(9, BATCH, WIDTH))
    f, params, *args = jaxinit.from_linen(cell, cell.init(KEY, carry, x), carry, x)
    new, report = jaxinit.calibrate(f, params, *args)
    assert report.passes == 1
    for gate in GATES:
        assert rms(x @ new[f"i{gate}"]["kernel"]) == pytest.approx(1.0, rel=1e-5)
        assert rms(carry[1] @ new[f"h{gate}"]["kernel"]) == pytest.approx(1.0, rel=1e-5)
        for kind in "ih":
            old, now = (p[f"{kind}{gate}"]["kernel"] for p in (params, new))
            ratio = np.asarray(now / old)
            np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def sizes_of_gates(params, words):
    """The root mean square of each gate's two products over all steps, in float64."""
    kernels = {name: np.float64(layer["kernel"]) for name, layer in params.items()}
    cell = hidden = np.zeros((BATCH, WIDTH))
    squares = {name: [] for name in kernels}
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    for now in np.moveaxis(np.float64(words), 1, 0):
        sums = {}
        for gate in GATES:
            own, again = now @ kernels[f"i{gate}"], hidden @ kernels[f"h{gate}"]
            squares[f"i{gate}"].append(np.mean(own**2))
            squares[f"h{gate}"].append(np.mean(again**2))
            sums[gate] = own + again + np.float64(params[f"h{gate}"]["bias"])
        cell = sigmoid(sums["f"]) * cell + sigmoid(sums["i"]) * np.tanh(sums["g"])
        hidden = sigmoid(sums["o"]) * np.tanh(cell)
    return {name: np.sqrt(np.mean(values)) for name, values in squares.items()}


def test_a_recurrent_cell_is_settled_by_whole_passes(relaxed_promotion):
    model = nn.RNN(nn.OptimizedLSTMCell(WIDTH))
    words = draw(7, BATCH, 6, 5)
    f, params, *args = jaxinit.from_linen(model, model.init(KEY, words), words)
    new, report = jaxinit.calibrate(f, params, *args, max_passes=50, measure=False)
    assert report.settled
    assert 2 < report.passes < 50
    (cell,), (before,) = new.values(), params.values()
    sizes = sizes_of_gates(cell, words)
    np.testing.assert_allclose(list(sizes.values()), 1.0, rtol=1e-4)
    scales = {row["leaf"]: row["scale"] for row in report.records()}
    assert len(scales) == 8
    for name, layer in cell.items():  # one factor each
        ratio = np.asarray(layer["kernel"] / before[name]["kernel"])
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def added(params, x):
    """`[x, y] @ [a; b]`, as recurrent cells of other libraries have it."""
    both = jnp.concatenate([x, jnp.tanh(x)], axis=1)
    return both @ jnp.concatenate([params["a"], params["b"]], axis=0)


def test_those_that_make_one_sum_together_get_one_factor():
    params = {"a": 3 * draw(1), "b": draw(2)}
    x = draw(7, BATCH, WIDTH)
    new, report = calibrated(added, params, x)
    assert rms(added(new, x)) == pytest.approx(1.0, rel=1e-5)
    ratios = [np.asarray(new[name] / params[name]) for name in "ab"]
    np.testing.assert_allclose(ratios, ratios[0][0, 0], rtol=1e-5)
    scales = [row["scale"] for row in report.records()]
    assert scales[0] == scales[1]


def test_a_sum_with_a_zero_or_a_fixed_one():
    x = draw(7, BATCH, WIDTH)
    params = {"a": 3 * draw(1), "b": jnp.zeros((WIDTH, WIDTH))}
    new, _ = calibrated(added, params, x)
    assert rms(added(new, x)) == pytest.approx(1.0, rel=1e-5)
    params = {"a": 3 * draw(1), "b": draw(2)}
    new, report = calibrated(added, params, x, only="a")
    np.testing.assert_array_equal(new["a"], params["a"])
    assert report.records()[0]["note"] == "stands in one product with another weight"
    with pytest.raises(RuleError, match="'a' and 'b' make one product together"):
        calibrated(added, params, x, targets=[("a", 2.0)])


def test_a_product_of_two_weights_is_left_alone_and_said():
    params = {"a": draw(1), "b": draw(2)}
    f = lambda params, x: x @ (params["a"] @ params["b"])  # noqa: E731
    new, report = calibrated(f, params, draw(7, BATCH, WIDTH))
    np.testing.assert_array_equal(new["a"], params["a"])
    assert [finding.code for finding in report.findings] == ["left", "left"]
    assert "Another weight that is not scaled" in report.findings[0].cause


def experts(params, x):
    return jnp.einsum("bd,edf->ebf", x, jnp.stack([params["a"], params["b"]]))


def routed(params, x):
    both = jnp.concatenate([params["a"][None], params["b"][None]])
    return jnp.einsum("ebd,edf->ebf", jnp.stack([x, jnp.tanh(x)]), both)


def images(params, x):
    kernel = jnp.concatenate([params["a"], params["b"]], axis=-1)
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", (1, 1), (1, 1), dims)


@pytest.mark.parametrize(
    ("f", "shape", "inputs", "axis"),
    [
        (experts, (WIDTH, 8), (BATCH, WIDTH), 0),
        (routed, (WIDTH, 8), (BATCH, WIDTH), 0),
        (images, (3, 3, 4, 6), (4, 8, 8, 4), -1),
    ],
)
def test_experts_and_channels_have_parts_as_well(f, shape, inputs, axis):
    params = {"a": 4 * draw(1, *shape), "b": draw(2, *shape)}
    x = draw(7, *inputs)
    new, _ = calibrated(f, params, x)
    halves = np.split(np.asarray(f(new, x)), 2, axis=axis)
    np.testing.assert_allclose([rms(half) for half in halves], 1.0, rtol=1e-5)


def test_kernels_fused_twice_know_their_place():
    def f(params, x):
        inner = jnp.concatenate([params["b"], params["c"]], axis=1)
        return x @ jnp.concatenate([params["a"], inner], axis=1)

    params = {name: draw(n) for n, name in enumerate("abc")}
    uses = jaxinit.trace_uses(f, params, draw(7, BATCH, WIDTH))
    parts = [uses[name][0].part for name in "abc"]
    assert parts == [(1, 0, 12), (1, 12, 24), (1, 24, 36)]


def test_a_stack_that_is_taken_apart_again():
    """Iterating over an array, or over one that was stacked, is a use of each."""

    def f(params, x):
        a, b = jnp.unstack(jnp.stack([params["a"], params["b"]], axis=1), axis=1)
        c, d = params["c"]
        return x @ a @ b @ c @ d

    params = {name: draw(n) for n, name in enumerate("ab")} | {"c": draw(5, 2, 12, 12)}
    uses = jaxinit.trace_uses(f, params, draw(7, BATCH, WIDTH))
    (a,), (b,), (c, d) = uses.values()
    for use in (a, b):
        assert (use.kind, use.in_axis, use.out_axis) == ("dot", (0,), (1,))
        assert (use.part, use.batch_axis, use.tied) == (None, (), False)
    for use in (c, d):
        assert (use.kind, use.in_axis, use.out_axis) == ("dot", (1,), (2,))
        assert (use.part, use.batch_axis, use.tied) == (None, (0,), True)


def test_a_leaf_beside_itself_and_one_alone_have_no_part():
    twice = lambda params, x: x @ jnp.concatenate([params, params], axis=1)  # noqa: E731
    x = draw(7, BATCH, WIDTH)
    for f in (twice, lambda params, x: x @ params):
        (use,) = jaxinit.trace_uses(f, draw(1), x)[""]
        assert use.part is None
    new, _ = calibrated(twice, draw(1), x)
    assert rms(x @ new) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("dim", range(4))
def test_where_a_part_lies_in_a_product(dim):
    """Against slices of the operand that are put through the same product."""
    left, right = draw(1, 2, 4, 6, 8), draw(2, 2, 8, 6, 3)
    numbers = (((2,), (2,)), ((0,), (0,)))
    (eqn,) = jax.make_jaxpr(lambda a, b: jax.lax.dot_general(a, b, numbers))(
        left, right
    ).eqns
    whole = np.asarray(jax.lax.dot_general(left, right, numbers))
    part = part_of(eqn, 1, (dim, 1, 2))
    if dim == 2:
        assert part is None
        return
    other = jnp.zeros_like(right).at[(slice(None),) * dim + (1,)].set(1.0)
    changed = np.asarray(jax.lax.dot_general(left, right + other, numbers)) != whole
    axis, start, stop = part
    rest = tuple(n for n in range(whole.ndim) if n != axis)
    assert np.flatnonzero(np.any(changed, axis=rest)).tolist() == [*range(start, stop)]


def test_it_stays_one_product_in_one_program():
    params = {name: draw(n) for n, name in enumerate("qkv")}
    signal = trace_signal(beside, params, draw(7, BATCH, WIDTH))
    goals = [
        Goal(place, 1.0, False, place.use.part)
        for place in places(signal, uses_of(signal))
    ]
    program = jax.make_jaxpr(Rescaler(signal, goals)._run)(list(signal.leaves), {})
    names = [eqn.primitive.name for eqn, _ in _jaxpr.walk(program)]
    assert names.count("dot_general") == 1 + 3  # and one sum of squares for each part
