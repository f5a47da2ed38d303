"""Functions as targets, and leaves that are drawn or adapted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from merge_helpers import KEY, Module, ones, zeros

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError
from jaxinit._keys import fold_name


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="body")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        return nn.Dense(3, name="head", bias_init=nn.initializers.normal())(x)


def init():
    return Net().init(KEY, jnp.ones((1, 4)))


def test_of_a_function_only_the_missing_leaves_are_drawn():
    body = {
        "params": {
            "body": {"kernel": ones(4, 8), "bias": ones(8)},
            "norm": {"scale": ones(8), "bias": ones(8)},
        },
        "batch_stats": {"norm": {"mean": ones(8), "var": ones(8)}},
    }
    tree, report = tr.merge(init, body, [tr.keep("head/.*")])
    expected = jax.jit(init)()
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for name, leaf in tree["params"]["head"].items():
        np.testing.assert_array_equal(leaf, expected["params"]["head"][name])
    np.testing.assert_array_equal(tree["params"]["body"]["kernel"], ones(4, 8))
    drawn = {name for name, fate in report.target_fates.items() if fate == "drawn"}
    assert drawn == {"head/kernel", "head/bias"}
    missing = tr.Policy(missing="warn")
    again, report = tr.merge(init, body, policy=missing)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    assert report.counts()["warning"] == 2


def test_a_function_that_makes_an_nnx_state_is_a_target_too():
    def make():
        return nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))

    tree, report = tr.merge(make, {"kernel": ones(2, 3)}, [tr.keep("bias")])
    assert isinstance(tree, nnx.State)
    assert report.target_fates == {"bias": "drawn", "kernel": "copied"}
    assert not tree["bias"][...].any()


def test_a_function_that_returns_no_arrays_is_refused_with_advice():
    with pytest.raises(MergeError, match="target: the function cannot be traced"):
        tr.merge(lambda: Module(jnp.zeros(2)), {"weight": ones(2)})
    with pytest.raises(MergeError, match="it takes no arguments"):
        tr.merge(lambda key: {"w": key}, {"w": ones(2)})


def test_a_drawn_leaf_depends_on_the_key_and_its_name_alone():
    normal = initializers.normal()
    target = {"a": zeros(4), "b": zeros(4)}
    both = tr.draw("[ab]", normal)
    tree, _ = tr.merge(target, {}, [both], key=KEY)
    for name in target:
        draw = jax.jit(lambda key: normal(key, (4,), jnp.float32))
        expected = draw(fold_name(KEY, name))
        np.testing.assert_array_equal(tree[name], expected)
    alone, _ = tr.merge({"b": zeros(4)}, {}, [tr.draw("b", normal)], key=KEY)
    np.testing.assert_array_equal(alone["b"], tree["b"])


def test_drawing_without_a_key_is_an_error_that_names_the_leaf():
    with pytest.raises(ValueError, match="key is needed to draw 'w', and there is no"):
        tr.merge({"w": zeros(2)}, {}, [tr.draw("w", initializers.normal())])


def test_what_a_function_makes_must_be_what_was_asked_for():
    def wrong(key, shape, dtype):
        return jnp.zeros((*shape, 1), dtype)

    with pytest.raises(MergeError, match=r"'w' is to be float32 of shape \(2,\), and"):
        tr.merge({"w": zeros(2)}, {}, [tr.draw("w", wrong)], key=KEY)
    rule = tr.adapt("w", lambda array: array[:1])
    with pytest.raises(MergeError, match=r"w has shape \(1,\).*the target \(2,\)"):
        tr.merge({"w": zeros(2)}, {"w": ones(4)}, [rule])


def test_an_adapter_is_given_the_shape_and_a_key_of_its_own():
    seen = []

    def adapter(array, *, shape, key, factor):
        seen.append((shape, key))
        return jnp.broadcast_to(array * factor, shape)

    rule = tr.adapt("w", adapter, factor=3.0)
    tree, _ = tr.merge({"w": zeros(2)}, {"w": ones(1)}, [rule], key=KEY)
    np.testing.assert_array_equal(tree["w"], [3, 3])
    shape, key = seen[-1]
    assert shape == (2,)
    np.testing.assert_array_equal(
        jax.random.key_data(key), jax.random.key_data(fold_name(KEY, "w"))
    )


def test_an_adapter_that_refuses_is_a_finding_of_its_leaf():
    rule = tr.adapt("w", tr.adapters.inflate_channels, channels=2, mode="zero")
    source, target = {"w": ones(1, 1, 3, 4)}, {"w": zeros(1, 1, 2, 4)}
    with pytest.raises(
        MergeError, match=r"w: from w: adapters\.inflate_channels.*refuse"
    ):
        tr.merge(target, source, [rule])
