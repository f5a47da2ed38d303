"""Gradual unfreezing: each group as if it were trained alone from its own step on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx
from optimizers import ALIASES, CONTRIB, LINE_SEARCHES, built, extra_arguments

from jaxinit import finetune as ft
from jaxinit._errors import RuleError

PARAMS = {"body": jnp.array([1.0, -0.0, 3.0]), "head": jnp.array([0.5, 2.0])}
GRADIENTS = [
    {
        "body": jax.random.normal(jax.random.key(i), (3,)),
        "head": jax.random.normal(jax.random.key(100 + i), (2,)),
    }
    for i in range(6)
]
LABELS = {"body": "late", "head": "first"}


def run(optimizer, params, gradients):
    """Parameters after each step, by one jitted step, and how often it was traced."""
    traces = 0

    @jax.jit
    def step(params, state, gradient):
        nonlocal traces
        traces += 1
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, history = jax.jit(optimizer.init)(params), []
    for gradient in gradients:
        params, state = step(params, state, gradient)
        history.append(params)
    return history, traces


def only(name, trees):
    return [{name: tree[name]} for tree in trees]


OPTIMIZERS = {
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.5),
    "schedule": lambda: optax.adam(optax.linear_schedule(0.1, 0.5, 3)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(
        optax.linear_schedule(0.1, 0.5, 3)
    ),
    "schedule-free": lambda: optax.contrib.schedule_free_sgd(0.1),
    "noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
    "MultiSteps": lambda: optax.MultiSteps(
        optax.adam(0.1), 2
    ).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.rmsprop(0.1), 2),
    "clip": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.lion(0.1)),
}


def assert_groups_train_as_if_alone(tx, **extra):
    update = partial(optax.with_extra_args_support(tx).update, **extra)
    tx = optax.GradientTransformation(tx.init, update)
    optimizer = ft.gradual_unfreeze(tx, {"late": 2, "first": 0}, LABELS)
    history, traces = run(optimizer, PARAMS, GRADIENTS)
    assert traces == 1

    head, _ = run(tx, {"head": PARAMS["head"]}, only("head", GRADIENTS))
    body, _ = run(tx, {"body": PARAMS["body"]}, only("body", GRADIENTS[2:]))
    # Other programs may be fused in another order: a rounding or two each step of
    # numbers of at most 4.
    for found, wanted in zip(history, head, strict=True):
        np.testing.assert_allclose(found["head"], wanted["head"], rtol=0, atol=2**-19)
    for found in history[:2]:
        ft.assert_frozen(PARAMS, found, "body")
    for found, wanted in zip(history[2:], body, strict=True):
        np.testing.assert_allclose(found["body"], wanted["body"], rtol=0, atol=2**-19)
    assert np.any(np.asarray(history[3]["body"] != PARAMS["body"]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_trains_as_if_it_had_started_at_its_step(name, relaxed_promotion):
    assert_groups_train_as_if_alone(OPTIMIZERS[name]())


@pytest.mark.long
@pytest.mark.parametrize("name", sorted((ALIASES | CONTRIB).keys() - LINE_SEARCHES))
def test_so_it_does_with_every_optimizer_of_optax(name, relaxed_promotion):
    tx = built((ALIASES | CONTRIB)[name])
    assert_groups_train_as_if_alone(tx, **extra_arguments(name, jnp.float32(2.0)))


def test_adam_in_float64_by_hand(x64, relaxed_promotion):
    params, gradients = (
        jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        for tree in (PARAMS, GRADIENTS)
    )
    optimizer = ft.gradual_unfreeze(optax.adam(0.1), {"late": 4, "first": 0}, LABELS)
    history, _ = run(optimizer, params, gradients)

    w = np.asarray(params["body"])
    m = v = np.zeros(3)
    for t, gradient in enumerate(gradients[4:], 1):
        g = np.asarray(gradient["body"])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        # 1 - 0.999^t loses 10 bits of 53, in optax as here.
        np.testing.assert_allclose(history[3 + t]["body"], w, rtol=2**-40)


def test_labels_with_one_step_are_one_group_and_shared_clips_what_trains():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1), "c": jnp.zeros(2)}
    gradients = [{"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0), "c": jnp.full(2, 6.0)}]
    labels, steps = {"a": "x", "b": "y", "c": "z"}, {"x": 0, "y": 0, "z": 1}
    clip = optax.clip_by_global_norm(1.0)

    def updates(optimizer):
        history, traces = run(optimizer, params, gradients * 2)
        assert traces == 1
        first, second = history
        return [
            [-float(leaf[0]) for leaf in jax.tree.leaves(tree)]
            for tree in (first, jax.tree.map(jnp.subtract, second, first))
        ]

    inside = optax.chain(clip, optax.sgd(1.0))
    first, second = updates(ft.gradual_unfreeze(inside, steps, labels))
    # a and b have the norm 5; c has sqrt(72) to itself.
    rounding = 8 * 2**-24
    np.testing.assert_allclose(first, [0.6, 0.8, 0.0], rtol=rounding)
    np.testing.assert_allclose(second, [0.6, 0.8, 6 / 72**0.5], rtol=rounding)

    optimizer = ft.gradual_unfreeze(optax.sgd(1.0), steps, labels, shared=clip)
    first, second = updates(optimizer)
    norm = 97**0.5  # 9 + 16 + 72
    np.testing.assert_allclose(first, [0.6, 0.8, 0.0], rtol=rounding)
    np.testing.assert_allclose(second, [3 / norm, 4 / norm, 6 / norm], rtol=rounding)


def test_gradients_that_are_not_finite_wait_with_their_leaf():
    gradients = {"body": jnp.full(3, jnp.nan), "head": jnp.ones(2)}
    optimizer = ft.gradual_unfreeze(
        optax.sgd(0.5, momentum=0.5),
        {"late": 1, "first": 0},
        LABELS,
        shared=optax.clip_by_global_norm(10.0),
    )
    history, _ = run(optimizer, PARAMS, [gradients, GRADIENTS[0]])
    ft.assert_frozen(PARAMS, history[0], "body")
    assert np.isfinite(np.asarray(history[1]["body"])).all()


def test_frozen_leaves_keep_every_bit_until_their_step_1000():
    optimizer = ft.gradual_unfreeze(
        optax.sgd(1e-3, momentum=0.9), {"late": 1000, "first": 0}, LABELS
    )

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = (params, optimizer.init(params))
        waiting = jax.lax.scan(step, carry, length=1000)[0]
        return waiting[0], step(waiting, None)[0][0]

    waiting, trained = train(PARAMS)
    ft.assert_frozen(PARAMS, waiting, "body")
    with pytest.raises(AssertionError, match="body moved"):
        ft.assert_frozen(PARAMS, trained, "body")


def test_gradual_unfreezing_in_nnx_optimizer():
    model = nnx.Sequential(*(nnx.Linear(2, 2, rngs=nnx.Rngs(i)) for i in range(2)))
    params = nnx.state(model, nnx.Param)
    labels = ft.labels([("layers/0/.*", "late"), (".*", "first")], params)
    tx = ft.gradual_unfreeze(optax.sgd(1.0), {"late": 1, "first": 0}, labels)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    ones = jax.tree.map(jnp.ones_like, params)
    for wanted in ([0.0, -1.0], [-1.0, -2.0]):
        optimizer.update(model, ones)
        biases = [float(layer.bias[...][0]) for layer in model.layers]
        assert biases == wanted


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"late": 2}, "steps: nothing is said for 'first'"),
        ({"late": 2, "first": 0, "lat": 1}, "no leaf has the label 'lat'.*'late'"),
        ({"late": -1, "first": 0}, r"steps\['late'\] must be a whole number from 0"),
        ({"late": 1.5, "first": 0}, r"steps\['late'\] must be .* got 1.5"),
        ({"late": 2**31, "first": 0}, "never trains belongs into freeze"),
        ({"late": True, "first": 0}, r"steps\['late'\] must be a whole number"),
        ([("late", 1)], "steps must map each label to a step"),
    ],
)
def test_bad_steps_are_refused_when_the_optimizer_is_built(steps, message):
    with pytest.raises(RuleError, match=message):
        ft.gradual_unfreeze(optax.sgd(0.1), steps, LABELS)
