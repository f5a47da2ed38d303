"""Models of every kind: each leaf resolved, and told in the words that fit it."""

import functools
import re

import jax
import pytest
from network_zoo import MODELS

import jaxinit


@functools.cache
def uses_of(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jaxinit.trace_uses(*MODELS[name]())


# Leaves of which another kind is expected than their last key says.
ODD = {
    "cls": {"placed"},
    "positions": {"bias", "gather"},
    "wide": {"dot"},
    "narrow": {"dot"},
    "embedding": {"gather", "dot"},
}
USUAL = {"kernel": {"dot", "conv"}, "bias": {"bias"}, "scale": {"scale"}}


@pytest.mark.parametrize("name", MODELS)
def test_every_leaf_is_resolved(name):
    for path, several in uses_of(name).items():
        key = path.rpartition("/")[2]
        allowed = {**USUAL, **ODD}[key]
        assert {use.kind for use in several} <= allowed, path
        for use in several:
            assert not use.stopped
            assert use.where is not None
            assert use.tied == (len(several) > 1)


@pytest.mark.parametrize("name", MODELS)
def test_the_place_in_the_users_own_code_is_told(name):
    for path, several in uses_of(name).items():
        for use in several:
            assert re.search(r"network_zoo\.py:\d+ \(", use.where), (path, use.where)


def test_stacked_leaves_are_told_by_axis():
    for path, (use, *_) in uses_of("scan of remat").items():
        assert use.stacked == (0,), path
        assert 0 in use.batch_axis
        assert use.count == 1
    for path, (use, *_) in uses_of("remat_scan").items():
        assert use.stacked == (0, 1), path


def test_recurrent_kernels_are_those_that_meet_the_state():
    uses = uses_of("recurrent") | uses_of("nnx recurrent")
    recurrent = {path for path, several in uses.items() if several[0].recurrent}
    kernels = {path for path in uses if path.endswith("kernel")}
    state = re.compile(r".*/(h[a-z]|dense_h|h)/kernel")
    assert recurrent == {path for path in kernels if state.fullmatch(path)}
    for path in recurrent:
        assert uses[path][0].count in (5, 7)


def test_a_shared_table_has_all_of_its_uses():
    table = uses_of("translator")["Embed_0/embedding"]
    assert [use.kind for use in table] == ["gather", "gather", "dot"]
    assert all(use.tied for use in table)


def test_activations_and_norms_are_told():
    resnet = uses_of("ResNet")
    assert resnet["Conv_0/kernel"][0].activation_name == "relu"
    for path, several in resnet.items():
        if re.fullmatch(r"Residual_\d/Conv_\d/kernel", path):
            assert several[0].feeds_norm, path
    evaluated = uses_of("ResNet in evaluation")
    assert not any(use.feeds_norm for (use, *_) in evaluated.values())
    assert uses_of("nnx decoder")["layers/gate/kernel"][0].activation_name == "silu"
    assert uses_of("nnx decoder")["layers/up/kernel"][0].activation_name == "identity"
    assert uses_of("experts")["wide"][0].activation_name == "relu"


def test_a_bias_site_is_the_equation_of_the_bias():
    uses = uses_of("ViT")
    for path, several in uses.items():
        if path.endswith("kernel"):
            bias = uses[path.replace("kernel", "bias")][0]
            assert several[0].bias_site == bias.site, path
