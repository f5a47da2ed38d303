"""What other loaders do with rules and containers is impossible here, or an error."""

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def refused(target, source, rules=(), **options):
    """The report of a merge that must fail."""
    with pytest.raises(MergeError) as raised:
        tr.merge(target, source, rules, **options)
    return raised.value.report


def codes(report):
    return sorted({finding.code for finding in report.findings})


# Collections


def norm(**values):
    module = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True)])
    return jax.tree.map(
        lambda leaf: np.full_like(leaf, values.get("fill", 0.0)),
        module.init(jax.random.key(0), ones(1, 3)),
    )


def test_parameters_without_their_batch_statistics_are_an_error_by_themselves():
    source = {"params": norm(fill=1.0)["params"]}
    report = refused(norm(), source)
    assert codes(report) == ["missing", "params_without_stats"]
    # Said or allowed, the one does not excuse the other.
    kept = refused(norm(), source, [tr.keep("batch_stats:.*")])
    missing = refused(norm(), source, policy=tr.Policy(missing="allow"))
    assert codes(kept) == codes(missing) == ["params_without_stats"]
    allowed = tr.Policy(params_without_stats="allow")
    tree, _ = tr.merge(norm(), source, [tr.keep("batch_stats:.*")], policy=allowed)
    assert not tree["batch_stats"]["layers_1"]["mean"].any()


def test_statistics_of_the_checkpoint_are_not_dropped_beside_used_parameters():
    target = {"bn": {"scale": zeros(2), "bias": zeros(2)}}
    source = {
        f"bn/{name}": ones(2)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    rules = [tr.drop("bn/running_.*"), tr.torch_layout()]
    assert codes(refused(target, source, rules)) == ["params_without_stats"]


def test_a_name_that_contains_mean_or_var_is_not_taken_for_a_statistic():
    names = ("mean_head/weight", "variance/weight", "running_mean_head/weight")
    source = {name: ones(2, 3) for name in names}
    target = {name.replace("weight", "kernel"): zeros(3, 2) for name in names}
    _, report = tr.merge({"params": target}, source, [tr.torch_layout()])
    assert set(report.target_fates.values()) == {"copied"}


def test_all_collections_are_merged_in_one_call():
    tree, report = tr.merge(norm(), norm(fill=1.0))
    assert set(report.target_fates) == {
        "batch_stats:layers_1/mean",
        "batch_stats:layers_1/var",
        *("layers_0/bias", "layers_0/kernel", "layers_1/bias", "layers_1/scale"),
    }
    assert all(leaf.all() for leaf in jax.tree.leaves(tree))


# Rules


def test_a_rule_that_matches_nothing_is_an_error_with_a_suggestion():
    source, target = {"backbone/w": ones(2)}, {"backbone/w": zeros(2)}
    for rule in (
        tr.drop("bakbone/.*"),
        tr.rename("bakbone/(.*)", r"\1"),
        tr.keep("bakbone/.*"),
        tr.draw("bakbone/.*", initializers.zeros),
        tr.layout("bakbone/.*"),
        tr.adapt("bakbone/.*", lambda x: x),
        tr.torch_layout("bakbone/.*"),
        tr.split("bakbone/.*", ["a", "b"], axis=0),
        tr.unstack("bakbone/.*", "{layer}"),
        tr.stack(r"bakbone/(\d)", "w"),
        tr.fuse(["bakbone/a", "bakbone/b"], "w", axis=0),
    ):
        with pytest.raises(RuleError, match="matches no leaf; did you mean"):
            tr.plan(target, source, [rule])
    tr.plan(target, source, [tr.drop("bakbone/.*", optional=True)]).raise_if()


def test_a_part_of_a_path_is_no_match():
    with pytest.raises(RuleError, match="must match the whole path"):
        tr.plan(
            {"Dense_0": {"w": zeros(2)}}, {"Dense_0/w": ones(2)}, [tr.keep("Dense")]
        )


def test_a_rule_that_an_earlier_one_hides_is_an_error():
    rules = [tr.drop(".*"), tr.rename("w", "v")]
    with pytest.raises(RuleError, match="'w' never applies"):
        tr.plan({"v": zeros(2)}, {"w": ones(2)}, rules)


def test_two_sources_for_one_target_do_not_overwrite_each_other():
    rule = tr.rename("[ab]/(.*)", r"\1")
    with pytest.raises(RuleError, match="two sources for one target, 'a/w', 'b/w'"):
        tr.plan({"w": zeros(2)}, {"a/w": ones(2), "b/w": zeros(2)}, [rule])


def test_a_source_is_used_twice_only_where_it_is_said():
    source, target = {"wte": ones(3, 2)}, {"embed": zeros(3, 2), "head": zeros(3, 2)}
    report = refused(target, source, [tr.rename("wte", "embed")])
    assert codes(report) == ["missing"]
    tree, _ = tr.merge(target, source, [tr.rename("wte", ["embed", "head"])])
    np.testing.assert_array_equal(tree["head"], source["wte"])
    rule = tr.fuse(["a|b", "b|c"], "w", axis=0)
    with pytest.raises(RuleError, match="'b' would be used twice"):
        tr.plan({"w": zeros(2)}, {"a": ones(1), "b": ones(1), "c": ones(1)}, [rule])
    with pytest.raises(RuleError, match="'wte' is sent to 'embed' twice"):
        tr.plan(target, source, [tr.rename("wte", ["embed", "embed"])])


def test_a_square_kernel_is_not_taken_for_either_layout():
    source, target = {"fc/weight": ones(4, 4)}, {"fc/kernel": zeros(4, 4)}
    rename = tr.rename("(.*)/weight", r"\1/kernel")
    report = refused(target, source, [rename])
    assert codes(report) == ["layout"]
    for said in (tr.torch_layout(), tr.layout("fc/kernel")):
        assert tr.plan(target, source, [rename, said]).ok


def test_layers_are_stacked_by_number_and_not_by_name():
    source = {f"h/{i}/w": np.full((1,), i, np.float32) for i in range(12)}
    tree, _ = tr.merge({"w": zeros(12, 1)}, source, [tr.stack(r"h/(\d+)/w", "w")])
    np.testing.assert_array_equal(tree["w"][:, 0], np.arange(12))


def test_a_layer_that_is_missing_from_a_stack_is_named():
    source = {f"h/{i}/w": ones(1) for i in (0, 1, 3)}
    with pytest.raises(RuleError, match=r"has 3 layers, and no layer \[2\]"):
        tr.plan({"w": zeros(3, 1)}, source, [tr.stack(r"h/(\d+)/w", "w")])


def test_the_layers_of_another_depth_do_not_fit():
    source = {f"h/{i}/w": ones(1) for i in range(3)}
    report = refused({"w": zeros(4, 1)}, source, [tr.stack(r"h/(\d+)/w", "w")])
    assert codes(report) == ["shape"]
    less = {"h": [{"w": zeros(1)}] * 2}
    assert codes(refused(less, {"h": [{"w": ones(1)}] * 3})) == ["unexpected"]


# Containers


def test_numbers_as_keys_and_as_texts_are_the_same_layer():
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)]
    state = nnx.state(nnx.Sequential(*layers))
    source = {
        f"layers/{i}/{name}": ones(*shape)
        for i in range(2)
        for name, shape in (("kernel", (2, 2)), ("bias", (2,)))
    }
    tree, report = tr.merge(state, source)
    assert set(report.target_fates.values()) == {"copied"}
    assert jax.tree.structure(tree) == jax.tree.structure(state)


def test_frozen_and_plain_dictionaries_meet_and_the_targets_kind_comes_back():
    plain, frozen = {"a": {"w": zeros(2)}}, freeze({"a": {"w": ones(2)}})
    for target, source in ((plain, frozen), (frozen, plain)):
        tree, _ = tr.merge(target, source)
        assert type(tree) is type(target)
        np.testing.assert_array_equal(tree["a"]["w"], source["a"]["w"])


def test_a_module_of_nnx_never_gets_a_kernel_of_another_shape():
    model = nnx.Linear(4, 16, rngs=nnx.Rngs(0))
    source = {"kernel": ones(4, 8), "bias": ones(16)}
    assert codes(refused(nnx.state(model), source)) == ["shape"]
    assert codes(refused(nnx.state(model), {"bias": ones(16)})) == ["missing"]


def test_the_state_of_random_numbers_is_never_merged():
    state = nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(3)))
    tree, report = tr.merge(state, nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(4))))
    jax.tree.map(lambda a, b: np.testing.assert_equal(str(a), str(b)), tree, state)
    assert set(report.target_fates.values()) == {"kept"}
    assert report.source_fates == {}
    assert "random-number state of the source is not merged" in report.notes[0]


def test_positions_are_never_resized_unless_said_and_the_grid_is_never_guessed():
    target, source = {"pos": zeros(1, 50, 4)}, {"pos": ones(1, 197, 4)}
    assert codes(refused(target, source)) == ["shape"]
    adapter = tr.adapters.resize_position_grid
    rule = tr.adapt("pos", adapter, old_grid=(14, 14), new_grid=(7, 7))
    report = refused(target, source, [rule])
    assert "197 rows, not 0 of a prefix and 196" in report.findings[0].cause
    rule = tr.adapt("pos", adapter, old_grid=(14, 14), new_grid=(7, 7), prefix=1)
    assert tr.merge(target, source, [rule])[1].target_fates == {"pos": "adapted"}


def test_neither_the_target_nor_the_source_is_changed():
    target, source = {"w": zeros(2), "v": ones(1)}, {"w": ones(2)}
    tree, _ = tr.merge(target, source, [tr.keep("v")])
    source["w"][:] = 5
    assert not target["w"].any()
    np.testing.assert_array_equal(tree["w"], [1, 1])
