"""Bad input: at once where it can be, and always by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import initializers as init

KEY = jax.random.key(0)


AT_BUILD = [
    (
        lambda: init.variance_scaling(1.0, "fanin", "normal"),
        "mode must be one of ('fan_in', 'fan_out', 'fan_avg', 'fan_geo_avg'), "
        "got 'fanin'",
    ),
    (
        lambda: init.variance_scaling(1.0, "fan_in", "gaussian"),
        "distribution must be one of ('truncated_normal', 'normal', 'uniform') or a "
        "sampler (key, shape, dtype) -> array of variance 1, got 'gaussian'",
    ),
    (
        lambda: init.variance_scaling(-1.0, "fan_in", "normal"),
        "scale must be finite and not negative, got -1.0",
    ),
    (lambda: init.normal(-0.1), "stddev must be finite and not negative, got -0.1"),
    (lambda: init.normal(np.inf), "stddev must be finite and not negative, got inf"),
    (lambda: init.uniform(-1), "scale must be finite and not negative, got -1"),
    (lambda: init.orthogonal(-1), "scale must be finite and not negative, got -1"),
    (lambda: init.normal(float("nan")), "stddev of normal is NaN"),
    (lambda: init.constant(np.array([1, np.nan])), "value of constant is NaN"),
    (lambda: init.normal("0.1"), "stddev must be a real number, got '0.1'"),
    (lambda: init.normal(1j), "stddev must be a real number, got 1j"),
    (
        lambda: init.truncated_normal(1.0, lower=2.0, upper=-2.0),
        "lower must be below upper, got 2.0 and -2.0",
    ),
    (
        lambda: init.he_normal(in_axis=0, out_axis=0),
        "axis 0 is named in in_axis and out_axis; every axis has one role",
    ),
    (
        lambda: init.he_normal(in_axis=(0, 0)),
        "axis 0 is named in in_axis, twice; every axis has one role",
    ),
    (
        lambda: init.he_normal(batch_axis=-2),
        "axis -2 is named in batch_axis and in_axis; every axis has one role",
    ),
    (
        lambda: init.he_normal(in_axis="in"),
        "in_axis must be an axis or several (integers), got 'in'",
    ),
    (lambda: init.he_normal(groups=0), "groups must be at least 1, got 0"),
    (lambda: init.he_normal(groups=2.0), "groups must be an integer, got 2.0"),
    (
        lambda: init.he_normal(strides=(2, 0)),
        "strides must be integers of at least 1, got (2, 0)",
    ),
    (
        lambda: init.normal(dtype=jnp.int32),
        "dtype of normal must be floating or complex, got int32",
    ),
    (
        lambda: init.uniform(dtype=jnp.complex64),
        "dtype of uniform must be floating, got complex64",
    ),
    (
        lambda: init.he_normal(KEY, (2, 3)),
        "he_normal builds an initializer and was given a key and a shape; write "
        "he_normal()(key, shape), or pass he_normal() where an initializer is wanted",
    ),
    (
        lambda: init.he_normal(axis=1),
        "he_normal: got an unexpected keyword argument 'axis'",
    ),
    (
        lambda: init.stacked("normal"),
        "base of stacked must be an initializer (key, shape, dtype) -> array, "
        "got 'normal'",
    ),
    (lambda: init.blocked(init.ones, blocks=0), "blocks must be at least 1, got 0"),
    (
        lambda: init.blocked(init.ones, blocks="qkv"),
        "blocks must be a number of blocks or their sizes, got 'qkv'",
    ),
    (
        lambda: init.he_normal(equation="bd,df->bf", groups=2),
        "equation says how every axis is used, so groups cannot be given with it "
        "(got groups=2)",
    ),
    (
        lambda: init.he_normal(equation="bd,df"),
        "equation must read 'input,weight->output', got 'bd,df'; the weight is the "
        "second operand, the output is written out",
    ),
    (
        lambda: init.he_normal(equation="bsd,df->bf"),
        "equation 'bsd,df->bf' sums axis 's' of the input alone, whose size the weight "
        "does not tell: sum the input first, and give the equation without it",
    ),
    (
        lambda: init.he_normal(equation="bd,dd->bd"),
        "equation 'bd,dd->bd': 'dd' repeats an axis (a diagonal), which has no fans",
    ),
    (
        lambda: init.he_normal(equation="bd,...df->...bf"),
        "equation 'bd,...df->...bf': write out the axes of the weight",
    ),
    (
        lambda: init.he_normal(equation="bd,df->bfg"),
        "equation 'bd,df->bfg': 'g' is in the output only",
    ),
    (
        lambda: init.he_normal(equation="bd,d1->b1"),
        "equation 'bd,d1->b1': 'd1' is not a list of axes",
    ),
]

AT_CALL = [
    (
        lambda: init.he_normal(in_axis=2, out_axis=0)(KEY, (3, 4)),
        "in_axis 2 does not exist in a weight of shape (3, 4); name the axes: "
        "in_axis=, out_axis= (and batch_axis=)",
    ),
    (
        lambda: init.he_normal()(KEY, (3,)),
        "Can't compute input and output sizes of a 1-dimensional weights tensor with "
        "default in_axis. Must be at least 2D or specify in_axis explicitly. "
        "Got shape (3,)",
    ),
    (
        lambda: init.he_normal(in_axis=(0, 1), out_axis=-2)(KEY, (3, 4)),
        "axis 0 in a weight of shape (3, 4) is named in in_axis and out_axis; every "
        "axis has one role",
    ),
    (
        lambda: init.he_normal(groups=3)(KEY, (3, 3, 8, 16)),
        "groups=3 does not divide the 16 outputs of a weight of shape (3, 3, 8, 16)",
    ),
    (
        lambda: init.he_normal(strides=(2, 2))(KEY, (3, 8, 16)),
        "strides (2, 2) names 2 axes, but a weight of shape (3, 8, 16) has 1 spatial "
        "axes (0,)",
    ),
    (
        lambda: init.he_normal(equation="bd,dnh->bnh")(KEY, (8, 16)),
        "equation 'bd,dnh->bnh' has a weight of 3 axes 'dnh', which does not fit the "
        "shape (8, 16)",
    ),
    (
        lambda: init.normal()(KEY, (2,), jnp.int32),
        "dtype of normal must be floating or complex, got int32",
    ),
    (
        lambda: init.lecun_normal()(KEY, (2, 2), bool),
        "dtype of lecun_normal must be floating or complex, got bool",
    ),
    (
        lambda: init.truncated_normal()(KEY, (2,), jnp.complex64),
        "dtype of truncated_normal must be floating, got complex64",
    ),
    (
        lambda: init.normal()(KEY, None),
        "the shape given to normal must be a tuple of integers, got None",
    ),
    (
        lambda: init.normal()(KEY, (2.0, 3)),
        "the shape given to normal must be a tuple of integers, got (2.0, 3)",
    ),
    (
        lambda: init.normal()(KEY, (2, -3)),
        "the shape given to normal has a negative size: (2, -3)",
    ),
    (
        lambda: init.orthogonal()(KEY, (3,)),
        "orthogonal needs a shape of at least 2 axes, got (3,); vectors have no "
        "orthogonality",
    ),
    (
        lambda: init.orthogonal(column_axis=2)(KEY, (3, 4)),
        "column_axis 2 does not exist in shape (3, 4)",
    ),
    (
        lambda: init.delta_orthogonal()(KEY, (3, 4)),
        "delta_orthogonal needs a shape (*spatial, in, out) of 3 to 5 axes, got (3, 4)",
    ),
    (
        lambda: init.delta_orthogonal()(KEY, (3, 8, 4)),
        "delta_orthogonal needs fan_in <= fan_out, got 8 inputs and 4 outputs in shape "
        "(3, 8, 4)",
    ),
    (
        lambda: init.constant(np.ones(3))(KEY, (2, 2)),
        "value of shape (3,) does not broadcast to the shape (2, 2)",
    ),
    (
        lambda: init.stacked(init.ones, axis=2)(KEY, (2, 2)),
        "axis 2 of stacked does not exist in shape (2, 2)",
    ),
    (
        lambda: init.stacked(init.he_normal())(KEY, (8, 4)),
        "Can't compute input and output sizes of a 1-dimensional weights tensor with "
        "default in_axis. Must be at least 2D or specify in_axis explicitly. "
        "Got shape (4,)",
    ),
    (
        lambda: init.blocked(init.he_normal(), blocks=3)(KEY, (8, 16)),
        "3 blocks do not fill axis 1 of shape (8, 16), which has size 16",
    ),
    (
        lambda: init.blocked(init.he_normal(), blocks=(8, 4))(KEY, (8, 16)),
        "sizes (8, 4) do not fill axis 1 of shape (8, 16), which has size 16",
    ),
    (
        lambda: init.scaled(init.ones, np.ones(3))(KEY, (2, 2)),
        "factor of shape (3,) does not broadcast to the shape (2, 2)",
    ),
    (
        lambda: init.scaled(lambda key, shape, dtype: jnp.ones(()), 2.0)(KEY, (2,)),
        "base was asked for shape (2,) and returned ()",
    ),
    (
        lambda: init.scaled(init.zeros, 2.0)(KEY, (2,), jnp.int32),
        "dtype of scaled must be floating or complex, got int32",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), AT_BUILD, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_what_can_be_wrong_at_build_time_fails_at_build_time(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()


@pytest.mark.parametrize(
    ("act", "text"), AT_CALL, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_a_call_names_what_does_not_fit(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()


def test_initializers_are_immutable():
    he_normal = init.he_normal()
    with pytest.raises(AttributeError, match=r"he_normal\(\) cannot be changed"):
        he_normal.scale = 3.0


def test_an_array_option_cannot_change_under_the_initializer():
    value = np.ones(3)
    filled = init.constant(value)
    value[:] = 7
    np.testing.assert_array_equal(filled(KEY, (3,)), np.ones(3))
    assert filled == init.constant(np.ones(3))


def test_options_that_differ_make_different_values():
    assert init.normal(0.1) != init.normal(0.2)
    assert init.constant(-0.0) != init.constant(0.0)
    assert init.normal(0) == init.normal(0.0)
    assert init.constant(np.ones(2)) != init.constant(np.ones(3))
    assert init.normal(dtype="bfloat16") == init.normal(dtype=jnp.bfloat16)
    assert init.he_normal() != init.variance_scaling(2.0, "fan_in", "truncated_normal")
    assert init.he_normal() != "he_normal()"


def test_truncation_to_32_bits_warns_at_the_line_of_the_caller():
    with pytest.warns(UserWarning, match="float64 was asked of normal") as warned:
        init.normal()(KEY, (2,), jnp.float64)
    assert [warning.filename for warning in warned] == [__file__]
