"""Programs of every form: what is told of a weight, and what is only listed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive

import jaxinit

X = jnp.ones((4, 8))
W = jnp.ones((8, 6))
SQUARE = jnp.ones((8, 8))


def only(f, params, *args):
    (use,) = jaxinit.trace_uses(f, params, *args)[""]
    return use


def told(use):
    return use.kind, use.fan_in, use.fan_out, use.in_axis, use.out_axis


DENSE = ("dot", 8, 6, (0,), (1,))


@jax.custom_vjp
def custom(w, x):
    return x @ w


custom.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (r[1].T @ g, g @ r[0].T))

FORMS = {
    "plain": lambda w, x: x @ w,
    "jit": jax.jit(lambda w, x: x @ w),
    "remat": jax.checkpoint(lambda w, x: jax.jit(jnp.matmul)(x, w)),
    "custom_vjp": custom,
    "custom_jvp behind": lambda w, x: jax.nn.relu(x @ w),
    "vmap": lambda w, x: jax.vmap(lambda row: row @ w)(x),
    "vmap of a matrix and a vector": lambda w, x: jax.vmap(lambda row: w.T @ row)(x),
    "einsum": lambda w, x: jnp.einsum("bi,io->ob", x, w),
    "cast": lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16),
    "reshaped": lambda w, x: x @ w.reshape(2, 4, 6).reshape(8, 6),
    "turned": lambda w, x: x @ w[::-1],
    "in two steps": lambda w, x: jnp.sum(x[:, :, None] * w[None], axis=1),
    "cond": lambda w, x: lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: x[:, :6], x),
    "the weight through a cond": lambda w, x: (
        x @ lax.cond(x[0, 0] > 0, lambda w: w, lambda w: w, w)
    ),
    "named": lambda w, x: x @ checkpoint_name(w, "w"),
    "barrier": lambda w, x: x @ lax.optimization_barrier(w),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_program_changes_nothing(form):
    assert told(only(FORMS[form], W, X)) == DENSE
    assert not only(FORMS[form], W, X).stopped


OWN_ARITHMETIC = {
    "a mask that is data": (lambda w, x, m: x @ (w * m), True),
    "a mask that is constant": (
        lambda w, x, m: x @ jnp.where(np.eye(8, 6), w, 0),
        True,
    ),
    "a factor": (lambda w, x, m: x @ (w * 0.5), True),
    "a sign": (lambda w, x, m: x @ -w, True),
    "standardized": (
        lambda w, x, m: x @ ((w - w.mean(0)[None]) / w.std(0)[None]),
        False,
    ),
    "quantized": (lambda w, x, m: x @ quantized(w), False),
    "noise": (lambda w, x, m: x @ (w + m), False),
    "a nonlinearity": (lambda w, x, m: x @ jnp.tanh(w), False),
    "divided by data": (lambda w, x, m: x @ (w / m.sum()), True),
}


def quantized(w):
    step = jnp.max(jnp.abs(w)) / 127
    return w + lax.stop_gradient(jnp.round(w / step) * step - w)


@pytest.mark.parametrize("name", OWN_ARITHMETIC)
def test_arithmetic_of_the_weights_own_is_told(name):
    f, scales = OWN_ARITHMETIC[name]
    use = only(f, W, X, jnp.ones((8, 6)))
    assert told(use) == DENSE
    assert (use.transformed, use.scales) == (True, scales)


def test_a_cast_is_no_arithmetic():
    use = only(FORMS["cast"], W, X)
    assert (use.transformed, use.scales) == (False, True)


@pytest.mark.parametrize("name", OWN_ARITHMETIC)
def test_whether_it_scales_is_what_doubling_the_leaf_shows(name):
    f, scales = OWN_ARITHMETIC[name]
    keys = jax.random.split(jax.random.key(3), 3)
    w, x = jax.random.normal(keys[0], (8, 6)), jax.random.normal(keys[1], (4, 8))
    m = jax.random.normal(keys[2], (8, 6))
    once, twice = f(w, x, m), f(2 * w, x, m)
    if scales:
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    elif name != "quantized":  # where the grid grows along
        assert np.max(np.abs(twice - 2 * once)) > 1e-3


def test_constant_factors_and_masks_are_computed():
    mask = np.eye(8, 6, dtype=bool) | (np.arange(6) < 3)
    share = mask.mean()
    x = X

    def told_of(f):
        use = only(f, W, x)
        assert told(use) == DENSE
        return use.taps_in, use.factor

    assert told_of(lambda w, x: x @ (w * 0.5)) == (8, 0.5)
    assert told_of(lambda w, x: x @ (w / 4 * 2)) == (8, 0.5)
    assert told_of(lambda w, x: x @ (w * jnp.sqrt(2.0))) == pytest.approx((8, 2**0.5))
    assert told_of(lambda w, x: x @ (w * mask.astype("float32"))) == pytest.approx(
        (8 * share, 1)
    )
    assert told_of(lambda w, x: x @ jnp.where(mask, w, 0)) == pytest.approx(
        (8 * share, 1)
    )
    assert told_of(lambda w, x: x @ jnp.where(mask, 0, w)) == pytest.approx(
        (8 * (1 - share), 1)
    )
    assert told_of(lambda w, x: x @ jnp.where(mask, w, 1.0)) == (8, 1)
    scale = jnp.arange(6.0)[None]
    rms = float(np.sqrt(np.mean(np.arange(6) ** 2)))
    assert told_of(lambda w, x: x @ (w * scale)) == pytest.approx((8, rms))


def test_a_masked_kernel_over_a_border_has_no_average_taps_that_are_guessed():
    mask = np.arange(9).reshape(3, 3, 1, 1) < 4  # as that of PixelCNN

    def told_of(padding):
        def f(w, x):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, w * jnp.asarray(mask, w.dtype), (1, 1), padding, None, None, numbers
            )

        return only(f, jnp.ones((3, 3, 2, 5)), jnp.ones((1, 6, 6, 2)))

    bare, bordered = told_of("VALID"), told_of("SAME")
    assert (bare.taps_in, bare.taps_out, bare.detail) == (8, 5 * 4 * 16 / 36, "")
    assert (bordered.taps_in, bordered.taps_out) == (None, None)
    assert "mask" in bordered.detail
    assert bordered.fan_in == bare.fan_in == 18


def test_weight_norm_has_a_direction_and_a_size():
    def f(p, x):
        return x @ (p["v"] * (p["g"] / jnp.linalg.norm(p["v"], axis=0))[None])

    uses = jaxinit.trace_uses(f, {"v": W, "g": jnp.ones(6)}, X)
    (size,), (direction,) = uses["g"], uses["v"]
    assert told(direction) == DENSE
    assert not direction.scales
    assert size.kind == "scale"


def test_low_rank_additions_have_the_fans_of_their_factors():
    params = {"w": W, "a": jnp.ones((8, 2)), "b": jnp.ones((2, 6))}
    apart = jaxinit.trace_uses(lambda p, x: x @ p["w"] + x @ p["a"] @ p["b"], params, X)
    merged = jaxinit.trace_uses(lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), params, X)
    for uses in (apart, merged):
        assert [told(uses[name][0]) for name in "wab"] == [
            DENSE,
            ("dot", 8, 2, (0,), (1,)),
            ("dot", 2, 6, (0,), (1,)),
        ]


def test_loops_tell_how_often_and_whether_on_their_own_result():
    def scanned(w, x):
        return lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=7)[0]

    def endless(w, x):
        return lax.while_loop(lambda h: h[0, 0] < 9, lambda h: jnp.tanh(h @ w), x)

    def outside(w, x):
        return lax.scan(lambda c, x: (c + x @ w, None), jnp.zeros((4, 8)), x)[0]

    def unrolled(w, x):
        return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ w[i]), x)

    use = only(scanned, SQUARE, X)
    assert (use.count, use.recurrent, use.stacked) == (7, True, ())
    assert use.where is not None
    use = only(endless, SQUARE, X)
    assert (use.count, use.recurrent) == (None, True)
    use = only(outside, SQUARE, jnp.ones((5, 4, 8)))
    assert (use.count, use.recurrent) == (5, False)
    use = only(unrolled, jnp.ones((3, 8, 8)), X)
    assert (use.count, use.recurrent, use.batch_axis) == (1, False, (0,))


def test_an_initial_state_is_told_apart_from_what_it_becomes():
    def f(p, x):
        start = jnp.broadcast_to(p["start"], (4, 8))
        return lax.scan(lambda h, _: (jnp.tanh(h @ p["w"] + x), None), start, length=3)

    uses = jaxinit.trace_uses(f, {"start": jnp.ones(8), "w": SQUARE}, X)
    assert [use.kind for use in uses["start"]] == ["initial"]
    assert [use.kind for use in uses["w"]] == ["dot"]


def test_branches_have_their_own_sites():
    def f(p, x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ p["a"], lambda x: x @ p["b"], x)

    uses = jaxinit.trace_uses(f, {"a": W, "b": W}, X)
    assert {told(uses[name][0]) for name in "ab"} == {DENSE}
    assert "branches[1]" in uses["a"][0].site
    assert "branches[0]" in uses["b"][0].site


OTHER = {
    "bias": lambda p, x: x + p[None],
    "subtracted": lambda p, x: x - p[None],
    "scale": lambda p, x: x * p[None],
    "divided": lambda p, x: x / p[None],
    "placed": lambda p, x: jnp.concatenate([p[None], x]),
    "mask token": lambda p, x: jnp.where(x > 0, p[None], x),
    "updated": lambda p, x: x.at[0].set(p),
    "elementwise": lambda p, x: jnp.maximum(x, p[None]),
    "statistic": lambda p, x: jnp.mean(x) + jnp.sum(p**2),
    "output": lambda p, x: (x, p),
}
KINDS = {
    "subtracted": "bias",
    "divided": "scale",
    "mask token": "placed",
    "updated": "placed",
}


@pytest.mark.parametrize("name", OTHER)
def test_uses_that_are_no_products(name):
    assert only(OTHER[name], jnp.ones(8), X).kind == KINDS.get(name, name)


def test_look_ups_and_experts_are_told_apart():
    numbers = jnp.zeros(4, jnp.int32)
    lookup = only(lambda t, i: t[i] * 4.0, jnp.ones((10, 8)), numbers)
    assert told(lookup) == ("gather", 1, 8, (0,), (1,))
    use = only(
        lambda w, x, i: jnp.einsum("bd,bdf->bf", x, w[i]),
        jnp.ones((5, 8, 6)),
        X,
        numbers,
    )
    assert told(use) == ("dot", 8, 6, (1,), (2,))
    assert use.batch_axis == (0,)
    use = only(
        lambda w, x, i: x @ lax.dynamic_index_in_dim(w, i, keepdims=False),
        jnp.ones((5, 8, 6)),
        X,
        jnp.int32(0),
    )
    assert told(use) == ("dot", 8, 6, (1,), (2,))

    def factors(p, i, j):
        return jnp.einsum("bd,bd->b", p["users"][i], p["items"][j])

    params = {"users": jnp.ones((9, 3)), "items": jnp.ones((7, 3))}
    uses = jaxinit.trace_uses(factors, params, numbers, numbers)
    assert [use.kind for several in uses.values() for use in several] == ["gather"] * 2


def test_positions_by_constant_numbers_are_looked_up():
    use = only(lambda t, x: x + t[jnp.arange(4)], jnp.ones((16, 8)), X)
    assert told(use) == ("gather", 1, 8, (0,), (1,))


def test_ragged_products_are_those_of_experts():
    use = only(
        lambda w, x, sizes: lax.ragged_dot(x, w, sizes),
        jnp.ones((2, 8, 6)),
        X,
        jnp.array([1, 3]),
    )
    assert told(use) == ("dot", 8, 6, (1,), (2,))
    assert use.batch_axis == (0,)


def test_learned_queries_enter_as_data_does():
    def f(p, x):
        queries = jnp.broadcast_to(p["queries"], (4, 5, 8)) @ p["q"]
        return jnp.einsum("bnh,bh->bn", queries, x @ p["k"])

    uses = jaxinit.trace_uses(f, {"queries": jnp.ones((5, 8)), "q": W, "k": W}, X)
    assert [use.kind for use in uses["queries"]] == ["input"]
    assert told(uses["q"][0]) == told(uses["k"][0]) == DENSE


def test_a_bias_tells_which_of_two_parameters_is_the_layer():
    def f(p, x):
        queries = p["queries"] @ p["q"] + p["bias"][None]
        return jnp.einsum("nh,bh->bn", queries, x @ p["k"])

    params = {"queries": jnp.ones((5, 8)), "q": W, "bias": jnp.ones(6), "k": W}
    uses = jaxinit.trace_uses(f, params, X)
    kinds = {path: use.kind for path, (use,) in uses.items()}
    assert kinds == {"queries": "input", "q": "dot", "bias": "bias", "k": "dot"}
    assert told(uses["q"][0]) == DENSE


def test_without_one_it_is_listed():
    def f(p, x):
        return jnp.einsum("nh,bh->bn", p["queries"] @ p["q"], x @ p["k"])

    params = {"queries": jnp.ones((5, 8)), "q": W, "k": W}
    uses = jaxinit.trace_uses(f, params, X)
    assert [uses[name][0].kind for name in params] == ["unknown", "unknown", "dot"]


UNKNOWN = {
    "fft": lambda p, x: x[:, :6] * jnp.fft.fft(p).real[0],
    "a solver": lambda p, x: x[:, :6] @ jnp.linalg.inv(p[:6]),
    "a callback": lambda p, x: x[:, :6] * jax.pure_callback(lambda p: p, p, p)[0],
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.usefixtures("relaxed_promotion")
def test_what_is_not_understood_is_listed_and_not_guessed(name):
    several = jaxinit.trace_uses(UNKNOWN[name], W, X)[""]
    assert {use.kind for use in several} == {"unknown"}
    for use in several:
        assert (use.fan_in, use.fan_out, use.taps_in, use.taps_out) == (None,) * 4
        assert use.detail
        assert use.where is not None


def test_a_generated_weight_is_listed():
    def f(p, x):
        return x @ (p["code"] @ p["maker"]).reshape(8, 6)

    uses = jaxinit.trace_uses(f, {"code": jnp.ones(3), "maker": jnp.ones((3, 48))}, X)
    assert {use.kind for several in uses.values() for use in several} == {"unknown"}


def test_unused_and_stopped_are_told_apart():
    def f(p, x):
        return x @ p["live"] + lax.stop_gradient(x @ p["stopped"])

    params = {"live": W, "stopped": W, "unused": W}
    uses = jaxinit.trace_uses(f, params, X)
    assert [use.kind for use in uses["unused"]] == ["unused"]
    assert not uses["unused"][0].stopped
    assert told(uses["stopped"][0]) == DENSE
    assert [uses[name][0].stopped for name in ("live", "stopped")] == [False, True]


STOPS = {
    "stop_gradient": lax.stop_gradient,
    "rounding": jnp.round,
    "a comparison": lambda y: jnp.where(y > 0, 1.0, 0.0),
    "an argmax": lambda y: jnp.argmax(y, -1),
    "straight through": lambda y: y + lax.stop_gradient(jnp.sign(y) - y),
    "nothing": lambda y: y,
}


@pytest.mark.parametrize("name", STOPS)
def test_stopped_is_what_the_gradient_shows(name):
    def f(w, x):
        return STOPS[name](x @ w).astype(jnp.float32)

    x = jax.random.normal(jax.random.key(0), (4, 8))
    gradient = jax.grad(lambda w: f(w, x).sum())(W)
    assert only(f, W, x).stopped == (not np.any(gradient))


def test_a_closed_over_batch_is_the_signal():
    assert told(only(lambda w: X @ w, W)) == DENSE
    assert told(only(lambda w: jnp.ones((3, 8)) @ w, W)) == DENSE


def test_one_vector_of_all_parameters_is_followed():
    def f(p, x):
        return jnp.tanh(x @ p[:48].reshape(8, 6)) @ p[48:].reshape(6, 2)

    uses = jaxinit.trace_uses(f, jnp.ones(60), X)[""]
    assert [(use.fan_in, use.fan_out) for use in uses] == [(8, 6), (6, 2)]


def test_parts_of_joined_weights_are_found_again():
    def f(p, x):
        joined = jnp.concatenate([p["a"], p["b"]], axis=1)
        return x @ joined[:, :6], jnp.tanh(x @ joined[:, 6:])

    uses = jaxinit.trace_uses(f, {"a": W, "b": jnp.ones((8, 3))}, X)
    assert [told(use) for use in uses["a"]] == [DENSE]
    assert [told(use) for use in uses["b"]] == [("dot", 8, 3, (0,), (1,))]


def test_an_own_primitive_is_listed_until_it_has_a_rule():
    product = Primitive("tests_quantized_product")
    product.def_abstract_eval(
        lambda w, x: jax.core.ShapedArray((x.shape[0], w.shape[1]), x.dtype)
    )

    def f(w, x):
        return product.bind(w, x)

    assert only(f, W, X).kind == "unknown"
    assert "tests_quantized_product" in only(f, W, X).detail

    def rule(eqn, operand):
        inputs, outputs = eqn.invars[operand].aval.shape
        return jaxinit.Product(("in", "out"), inputs, outputs, other=1 - operand)

    jaxinit.register_product("tests_quantized_product", rule)
    assert told(only(f, W, X)) == DENSE


def test_a_rule_is_for_a_name_and_is_callable():
    with pytest.raises(TypeError, match=r"pass primitive\.name"):
        jaxinit.register_product(Primitive("p"), lambda eqn, operand: None)
    with pytest.raises(TypeError, match=r"function of \(eqn, operand\)"):
        jaxinit.register_product("p", None)


def test_what_is_no_array_is_refused_by_name():
    with pytest.raises(TypeError, match=r"the leaf 'head/mode' is 'fast' \(str\)"):
        jaxinit.trace_uses(lambda p: p, {"head": {"mode": "fast"}})
    with pytest.raises(TypeError, match="args: a leaf is 'mean'"):
        jaxinit.trace_uses(lambda p, how: p, {"w": W}, "mean")


def test_axes_of_many_devices_need_no_devices():
    def f(w, x):
        y = lax.pmean(x @ w, "batch")
        return lax.psum(y, ("batch", "model")), lax.axis_index("model")

    assert told(only(f, W, X)) == DENSE


def test_a_use_is_a_value():
    use = only(FORMS["plain"], W, X)
    assert use == only(FORMS["plain"], W, X)
    with pytest.raises(dataclasses.FrozenInstanceError):
        use.fan_in = 3
