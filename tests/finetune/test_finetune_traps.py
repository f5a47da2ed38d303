"""Each way in which "frozen" was measured not to be, and what holds here instead.

Every test shows the trap with plain optax first, by its number, and then the remedy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxinit import finetune as ft
from jaxinit._errors import RuleError


def ones():
    return {"backbone": {"w": jnp.ones(3)}, "head": {"w": jnp.ones(3)}}


def trained(optimizer, params, gradients, steps=10):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_the_11_0_of_masked_optimizers_that_add_raw_gradients(relaxed_promotion):
    # optax.masked passes the gradients of what it masks on, and 10 of 1.0 are added.
    head_only = {"backbone": {"w": False}, "head": {"w": True}}
    trap = trained(optax.masked(optax.adam(0.1), head_only), ones(), ones())
    np.testing.assert_array_equal(trap["backbone"]["w"], np.float32(11.0))

    after = trained(ft.freeze(optax.adam(0.1), "backbone/.*"), ones(), ones())
    ft.assert_frozen(ones(), after, "backbone/.*")
    # XLA may fuse trees of one and of two leaves differently: a rounding each step.
    np.testing.assert_allclose(
        after["head"]["w"], trap["head"]["w"], rtol=0, atol=10 * 2**-24
    )


def test_the_0_904_of_weight_decay_behind_a_frozen_gradient(relaxed_promotion):
    # Decay is added after the gradients were zeroed: 0.99^10 = 0.904.
    frozen = {"backbone": {"w": True}, "head": {"w": False}}
    trap = optax.chain(
        optax.masked(optax.set_to_zero(), frozen), optax.adamw(0.1, weight_decay=0.1)
    )
    decayed = trained(trap, ones(), ones())
    # Ten roundings of float32, at most 2^-24 each, and 0.1 * 0.1 in float32.
    np.testing.assert_allclose(decayed["backbone"]["w"], 0.99**10, rtol=30 * 2**-24)
    with pytest.raises(AssertionError, match="weight decay"):
        ft.assert_frozen(ones(), decayed, "backbone/.*")

    remedy = ft.freeze(optax.adamw(0.1, weight_decay=0.1), "backbone/.*")
    after = trained(remedy, ones(), ones())
    ft.assert_frozen(ones(), after, "backbone/.*")
    # XLA may fuse trees of one and of two leaves differently: a rounding each step.
    np.testing.assert_allclose(
        after["head"]["w"], decayed["head"]["w"], rtol=0, atol=10 * 2**-24
    )


def test_the_173x_of_frozen_gradients_in_the_clipping_norm():
    # 173^2 - 1 frozen entries and one that trains, each with gradient 1.
    params = {"backbone": jnp.zeros(173**2 - 1), "head": jnp.zeros(1)}
    gradients = jax.tree.map(jnp.ones_like, params)

    def step_of_head(optimizer):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return float(updates["head"][0])

    clip = optax.clip_by_global_norm(1.0)
    outside = step_of_head(optax.chain(clip, ft.freeze(optax.sgd(1.0), "backbone")))
    inside = step_of_head(ft.freeze(optax.chain(clip, optax.sgd(1.0)), "backbone"))
    assert inside == -1.0
    # The norm is the root of a sum of 173^2 ones, exact in float32; one division.
    np.testing.assert_allclose(inside / outside, 173, rtol=2**-22)


def test_the_inverted_mask_that_trains_the_backbone_alone():
    # A mask says nothing of which half is frozen; `'backbone' in path` chose the one
    # that trains.
    def trainable(params):
        return {"backbone": {"w": True}, "head": {"w": False}}

    trap = optax.chain(
        optax.masked(optax.sgd(0.1), trainable),
        optax.masked(
            optax.set_to_zero(), lambda p: jax.tree.map(lambda m: not m, trainable(p))
        ),
    )
    after = trained(trap, ones(), ones())
    with pytest.raises(AssertionError, match="backbone/w moved by up to 1"):
        ft.assert_frozen(ones(), after, "backbone/.*")

    after = trained(ft.freeze(optax.sgd(0.1), "backbone/.*"), ones(), ones())
    ft.assert_frozen(ones(), after, "backbone/.*")
    with pytest.raises(AssertionError, match="head/w moved by up to 1"):
        ft.assert_frozen(ones(), after, "head/.*")


@pytest.mark.parametrize("pattern", ["bakbone/.*", "Backbone/.*", "backbone", "back*"])
def test_the_rule_that_matches_nothing_is_refused_with_what_was_meant(pattern):
    # With `'bakbone' in path` everything trains, and nobody is told.
    rules = [(pattern, "frozen"), (".*", "trained")]
    for attempt in (
        lambda: ft.freeze(optax.sgd(0.1), pattern).init(ones()),
        lambda: ft.labels(rules, ones()),
        lambda: ft.assert_frozen(ones(), ones(), pattern),
    ):
        with pytest.raises(RuleError, match=r"matches no leaf.*back.*\."):
            attempt()


def test_a_pattern_matches_the_whole_path_where_keys_of_tuples_match_none_of_it():
    params = {"Dense_0": {"kernel": jnp.ones(2)}, "Dense_1": {"kernel": jnp.ones(2)}}
    assert "Dense" not in ("Dense_0", "kernel")  # what the tuple of a path says
    assert ft.labels([("Dense_0/.*", "a"), ("Dense_.*", "b")], params) == {
        "Dense_0": {"kernel": "a"},
        "Dense_1": {"kernel": "b"},
    }


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(3, name="backbone")(x)
        x = nn.BatchNorm(use_running_average=not train, name="backbone_norm")(x)
        return nn.Dense(1, name="head")(x)


def test_the_drifting_statistics_of_batch_norm_in_a_frozen_backbone(relaxed_promotion):
    model = Normed()
    x = jax.random.normal(jax.random.key(0), (8, 2)) + 3
    before = model.init(jax.random.key(1), x, train=False)
    optimizer = ft.freeze(optax.adamw(0.1), "backbone.*")

    def step(variables, *, train):
        def loss(params):
            out, moved = model.apply(
                {**variables, "params": params},
                x,
                train=train,
                mutable=["batch_stats"],
            )
            return jnp.mean(out**2), moved

        gradients, moved = jax.grad(loss, has_aux=True)(variables["params"])
        params = variables["params"]
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return {"params": optax.apply_updates(params, updates), **moved}

    after = step(before, train=True)
    ft.assert_frozen(before, after, "params:backbone.*")  # every parameter is the same
    with pytest.raises(AssertionError) as raised:
        ft.assert_frozen(before, after, "backbone.*")
    text = str(raised.value)
    assert "batch_stats:backbone_norm/mean moved by up to" in text
    assert "batch_stats:backbone_norm/var moved by up to" in text
    assert "use_running_average=True" in text
    assert "outermost" not in text  # no optimizer is to blame

    ft.assert_frozen(before, step(before, train=False), "backbone.*")
