"""Decay to an anchor, against float64 numpy and optax's own decay to zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit import finetune as ft
from jaxinit._errors import RuleError

START = {
    "body": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]])},
    "head": {"kernel": jnp.array([[0.25], [4.0]]), "bias": jnp.array([1.0])},
}


def moved(tree):
    return jax.tree.map(lambda leaf: 2 * leaf + 1, tree)


def one(optimizer, gradients, params):
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_the_gradient_of_the_l2_sp_penalty(x64):
    start, params = (
        jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        for tree in (START, moved(START))
    )

    def penalty(params):
        parts = jax.tree.map(lambda w, w0: jnp.sum((w - w0) ** 2), params, start)
        return 0.3 / 2 * sum(jax.tree.leaves(parts))

    zeros = jax.tree.map(jnp.zeros_like, params)
    found = one(ft.decay_to(start, 0.3), zeros, params)
    wanted = jax.grad(penalty)(params)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=4 * 2**-53)


def test_ten_steps_of_sgd_by_hand():
    tx = optax.chain(ft.decay_to(START, 0.25), optax.sgd(0.5))
    params = moved(START)
    zeros = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(zeros, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=10)[0][0]

    after = train(params)
    for w, w0, begin in zip(*map(jax.tree.leaves, (after, START, params)), strict=True):
        # The distance shrinks by 1 - 1/8 each step; a rounding or two each step.
        wanted = np.asarray(w0) + 0.875**10 * np.asarray(begin - w0)
        np.testing.assert_allclose(w, wanted, rtol=20 * 2**-24)


def test_an_anchor_of_zeros_is_weight_decay_of_optax():
    zeros = jax.tree.map(jnp.zeros_like, START)
    found = one(ft.decay_to(zeros, 0.1, mask=ft.decayed), START, moved(START))
    plain = optax.add_decayed_weights(0.1, mask=ft.decayed)
    wanted = one(plain, START, moved(START))
    for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        # A rounding of the product, which may be left out, and one of the sum.
        np.testing.assert_allclose(ours, theirs, rtol=2**-23)
    np.testing.assert_array_equal(found["head"]["bias"], START["head"]["bias"])


MASKS = {
    "a pattern": "body/.*",
    "several": ["body/.*"],
    "bools": {"body": {"kernel": True}, "head": {"kernel": False, "bias": False}},
    "a function": lambda params: jax.tree.map(lambda leaf: leaf.size == 4, params),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_chooses_what_decays_and_the_rest_needs_no_anchor(mask):
    anchor = {"body": START["body"], "head": {"kernel": jnp.ones((9, 9))}}
    found = one(ft.decay_to(anchor, 0.5, mask=mask), START, moved(START))
    pull = 0.5 * (moved(START)["body"]["kernel"] - START["body"]["kernel"])
    np.testing.assert_array_equal(
        found["body"]["kernel"], START["body"]["kernel"] + pull
    )
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(found["head"][name], START["head"][name])


def test_the_state_holds_the_arrays_of_the_anchor_and_no_copies():
    state = ft.decay_to(START, 0.1, mask="body/.*").init(moved(START))
    assert state.anchor["body"]["kernel"] is START["body"]["kernel"]
    assert len(jax.tree.leaves(state)) == 1


def test_the_anchor_is_no_constant_of_the_compiled_step():
    tx = ft.decay_to({"w": jnp.full((64, 64), 0.125)}, 0.1)
    params = {"w": jnp.ones((64, 64))}
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    assert not any(np.size(constant) > 1 for constant in jaxpr.consts)


def test_a_sixteen_bit_anchor_of_float32_parameters():
    anchor = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), START)
    found = one(ft.decay_to(anchor, 0.5), START, moved(START))
    wanted = one(ft.decay_to(START, 0.5), START, moved(START))  # exact in bfloat16
    for ours, theirs in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


def test_sixteen_bit_parameters_decay_in_float32_and_round_once():
    w, w0, g = jax.random.normal(jax.random.key(0), (3, 300), jnp.bfloat16)
    found = one(ft.decay_to({"w": w0}, 0.01), {"w": g}, {"w": w})["w"]
    wide = [np.asarray(x, np.float32) for x in (g, w, w0)]
    wanted = wide[0] + np.float32(0.01) * (wide[1] - wide[2])
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jnp.asarray(wanted).astype(jnp.bfloat16))


def test_in_nnx_the_anchor_does_not_move_with_the_model():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    start = jnp.copy(model.kernel[...])
    tx = optax.chain(ft.decay_to(params, 0.5, mask="kernel"), optax.sgd(1.0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    ones = jax.tree.map(jnp.ones_like, params)
    for _ in range(40):
        optimizer.update(model, ones)
    # w <- w - 1 - (w - w0) / 2 ends at w0 - 2, not at minus infinity.
    np.testing.assert_allclose(model.kernel[...], start - 2, rtol=0, atol=2**-20)
    np.testing.assert_array_equal(model.bias[...], np.float32(-40))


def test_on_a_mesh_the_anchor_keeps_its_sharding():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put({"w": jnp.arange(16.0)}, rows)
    tx = ft.decay_to(jax.tree.map(jnp.zeros_like, params), 0.5)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)(params, state, params)
    assert updates["w"].sharding == state.anchor["w"].sharding == rows
    np.testing.assert_array_equal(updates["w"], 1.5 * np.arange(16.0, dtype=np.float32))


def test_inside_freeze_frozen_leaves_have_no_anchor():
    tx = ft.freeze(optax.chain(ft.decay_to(START, 0.5), optax.sgd(1.0)), "body/.*")
    state = tx.init(START)
    assert len(jax.tree.leaves(state)) == 2
    updates, _ = tx.update(START, state, moved(START))
    ft.assert_frozen(START, optax.apply_updates(START, updates), "body/.*")


def test_a_missing_anchor_another_shape_and_missing_parameters_are_refused():
    with pytest.raises(RuleError, match=r"anchor: no leaf for 'head/bias', 'head/kern"):
        ft.decay_to({"body": START["body"]}, 0.1).init(START)
    other = {**START, "body": {"kernel": jnp.ones(3)}}
    with pytest.raises(
        RuleError, match=r"anchor: 'body/kernel' has shape \(3,\).*mask"
    ):
        ft.decay_to(other, 0.1).init(START)
    with pytest.raises(RuleError, match="params: decay_to needs"):
        ft.decay_to(START, 0.1).update(START, ft.decay_to(START, 0.1).init(START))
    with pytest.raises(RuleError, match="weight must be a number >= 0"):
        ft.decay_to(START, -0.1)
    with pytest.raises(RuleError, match=r"mask: the pattern 'bdy/.*' matches no leaf"):
        ft.decay_to(START, 0.1, mask="bdy/.*").init(START)
    with pytest.raises(RuleError, match=r"mask: nothing is said for 'head/bias'"):
        ft.decay_to(START, 0.1, mask={"body": {"kernel": True}}).init(START)
