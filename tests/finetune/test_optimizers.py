"""Every optimizer of optax under freeze, against itself on the other leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from optimizers import ALIASES, CONTRIB, LINE_SEARCHES, built, extra_arguments

from jaxinit import finetune as ft
from jaxinit._errors import RuleError


def tree(seed):
    """Frozen leaves on both sides of those that train, in the order of keys."""
    kernel, bias = jax.random.normal(jax.random.key(seed), (2, 4, 4))
    return {
        "a_stem": {"w": kernel + 1, "zeros": jnp.array([0.0, -0.0])},
        "head": {"bias": bias[0], "kernel": kernel},
        "z_body": {"w": bias},
    }


def two_steps(optimizer, params, gradients, **extra):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params


GRADIENTS = [tree(1), tree(2)]
HEADS = [{"head": gradient["head"]} for gradient in GRADIENTS]


def assert_same_as_the_trainable_leaves_alone(optimizer, **extra):
    optimizer = optax.with_extra_args_support(optimizer)
    params = tree(0)
    frozen = ft.freeze(optimizer, ["a_stem/.*", "z_body/.*"])

    @jax.jit
    def both(params):
        ours = two_steps(frozen, params, GRADIENTS, **extra)
        return ours, two_steps(optimizer, {"head": params["head"]}, HEADS, **extra)

    ours, alone = both(params)
    # The two may be fused in another order: a few roundings of numbers of the size of
    # the parameters, 4 at most.
    for key in ("bias", "kernel"):
        np.testing.assert_allclose(
            ours["head"][key], alone["head"][key], rtol=1e-5, atol=2**-20
        )
        assert np.any(np.asarray(ours["head"][key] != params["head"][key])), key
    ft.assert_frozen(params, ours, ["a_stem/.*", "z_body/.*"])


@pytest.mark.parametrize("name", sorted(ALIASES.keys() - LINE_SEARCHES))
def test_an_alias_optimizer_freezes_and_is_itself(name, relaxed_promotion):
    extra = extra_arguments(name, jnp.float32(2.0))
    assert_same_as_the_trainable_leaves_alone(built(ALIASES[name]), **extra)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(CONTRIB))
def test_a_contributed_optimizer_freezes_and_is_itself(name, relaxed_promotion):
    extra = extra_arguments(name, jnp.float32(2.0))
    assert_same_as_the_trainable_leaves_alone(built(CONTRIB[name]), **extra)


def test_the_list_is_that_of_the_installed_optax():
    assert {"adam", "adamw", "sgd", "lion", "adafactor"} <= ALIASES.keys()
    assert len(ALIASES) >= 25


WRAPPED = {
    "MultiSteps": lambda: optax.MultiSteps(optax.adamw(0.1), every_k_schedule=2),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 3),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(
        learning_rate=optax.linear_schedule(0.1, 0.2, 2), weight_decay=0.1
    ),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
    "clipping and a mask": lambda: optax.chain(
        optax.clip_by_global_norm(0.1), optax.adamw(0.1, mask=ft.decayed)
    ),
    "partition": lambda: optax.partition(
        {"kernel": optax.adam(0.1), "bias": optax.sgd(0.1)},
        lambda params: ft.labels([(".*bias", "bias")], params, default="kernel"),
    ),
    "adaptive_grad_clip": lambda: optax.chain(
        optax.adaptive_grad_clip(0.1), optax.sgd(0.1)
    ),
    "muon": lambda: optax.contrib.muon(0.1),
    "mechanize": lambda: optax.contrib.mechanize(optax.adam(0.1)),
    "lbfgs without line search": lambda: optax.lbfgs(0.1, linesearch=None),
    "noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_optimizer_freezes_and_is_itself(name, relaxed_promotion):
    optimizer = WRAPPED[name]()
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    assert_same_as_the_trainable_leaves_alone(optimizer)


def test_multisteps_may_be_given_as_it_is(relaxed_promotion):
    params = tree(0)
    steps = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2)
    ours = two_steps(ft.freeze(steps, "[az]_.*"), params, GRADIENTS)
    mean = (GRADIENTS[0]["head"]["kernel"] + GRADIENTS[1]["head"]["kernel"]) / 2
    np.testing.assert_allclose(
        ours["head"]["kernel"], params["head"]["kernel"] - 0.1 * mean, atol=2**-21
    )
    ft.assert_frozen(params, ours, "[az]_.*")


SEARCHES = {
    "scale_by_zoom_linesearch": lambda: optax.lbfgs(),
    "scale_by_backtracking_linesearch": lambda: optax.chain(
        optax.sgd(0.1), optax.scale_by_backtracking_linesearch(10)
    ),
}
WRAPPERS = {
    "freeze": lambda tx: ft.freeze(tx, "v"),
    "learning_rates": lambda tx: ft.learning_rates(
        tx, {"a": 0.5}, {"v": "a", "w": "a"}
    ),
    "layerwise_decay": lambda tx: ft.layerwise_decay(tx, 0.5, layer_of=lambda path: 0),
    "gradual_unfreeze": lambda tx: ft.gradual_unfreeze(
        tx, {"a": 3}, {"v": "a", "w": "a"}
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_line_search_is_refused_by_name(search, wrapper, relaxed_promotion):
    optimizer = WRAPPERS[wrapper](SEARCHES[search]())
    with pytest.raises(RuleError, match=rf"tx: {search} is a line search.*{wrapper}"):
        optimizer.init({"v": jnp.ones(2), "w": jnp.ones(2)})


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_function_of_all_parameters_is_refused_by_its_argument(wrapper):
    params = {"v": jnp.ones(2), "w": jnp.ones(2)}
    optimizer = WRAPPERS[wrapper](optax.sgd(0.1))
    with pytest.raises(RuleError, match=rf"value_fn: {wrapper} cannot pass"):
        optimizer.update(params, optimizer.init(params), params, value_fn=sum)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_no_transformation_is_refused(wrapper):
    with pytest.raises(
        RuleError, match=rf"tx: {wrapper} wraps an optax transformation"
    ):
        WRAPPERS[wrapper](0.1)
