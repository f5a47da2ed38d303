"""What other loaders do to leaves silently is impossible here, or an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError


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


# Shapes, dtypes and kinds of numbers


def test_the_shape_of_the_checkpoint_does_not_replace_that_of_the_model():
    report = refused({"w": zeros(4, 16)}, {"w": ones(4, 8)})
    assert codes(report) == ["shape"]
    assert "(4, 8), the target (4, 16)" in report.findings[0].cause


def test_arrays_are_neither_padded_nor_cut_to_fit():
    for shape in ((3,), (5,), (4, 1)):
        assert codes(refused({"w": zeros(4)}, {"w": ones(*shape)})) == ["shape"]


def test_arrays_of_equal_size_are_not_reshaped_unless_said():
    for shape in ((6, 4), (24,), (1, 4, 6), (2, 12)):
        assert codes(refused({"w": zeros(4, 6)}, {"w": ones(*shape)})) == ["shape"]
    rule = tr.layout("w", reshape=True)
    tree, _ = tr.merge({"w": zeros(4, 6)}, {"w": ones(24)}, [rule])
    assert tree["w"].shape == (4, 6)


def test_a_norm_of_four_axes_is_not_squeezed_unless_said():
    report = refused({"scale": zeros(512)}, {"scale": ones(1, 1, 1, 512)})
    assert "layout(..., reshape=True)" in report.findings[0].remedy


def test_a_narrow_dtype_does_not_stay_in_a_wide_model():
    source = {"w": ones(4, dtype=jnp.bfloat16)}
    tree, report = tr.merge({"w": zeros(4)}, source)
    assert tree["w"].dtype == jnp.float32
    assert report.target_fates == {"w": "cast"}
    assert "bfloat16 → float32" in str(report)
    strict = tr.Policy(dtype="error")
    assert codes(refused({"w": zeros(4)}, source, policy=strict)) == ["dtype"]


def test_weights_do_not_become_integers_or_integers_weights():
    for one, other in ((np.int32, np.float32), (np.float32, np.int32), (bool, "f")):
        report = refused({"w": zeros(2, dtype=one)}, {"w": ones(2, dtype=other)})
        assert codes(report) == ["dtype"]


def test_an_integer_that_does_not_fit_is_not_wrapped():
    source = {"ids": np.array([1, 2**40])}
    for policy in (tr.STRICT, tr.Policy(nonfinite="allow")):
        report = refused({"ids": zeros(2, dtype=np.int32)}, source, policy=policy)
        assert codes(report) == ["dtype"]


def test_a_number_that_overflows_in_the_cast_is_named():
    report = refused({"w": zeros(1, dtype=np.float16)}, {"w": np.array([1e6], "f")})
    assert codes(report) == ["nonfinite"]
    assert "1e+06 overflow" in report.findings[0].cause


def test_not_a_number_is_noticed():
    source = {"w": np.array([1.0, np.nan], "f"), "v": np.array([np.inf], "f")}
    target = {"w": zeros(2), "v": zeros(1)}
    report = refused(target, source)
    assert [found.leaf for found in report.findings] == ["v", "w"]
    allowed = tr.Policy(nonfinite="allow")
    tree, report = tr.merge(target, source, policy=allowed)
    assert np.isnan(tree["w"][1])
    assert report.findings == ()
    warned = tr.merge(target, source, policy=tr.Policy(nonfinite="warn"))[1]
    assert warned.counts() == {"error": 0, "warning": 2, "note": 0}


# Leaves that are missing or left over


def test_a_leaf_that_the_checkpoint_lacks_is_no_struct_no_zeros_and_no_draw():
    def init():
        return {"w": jax.random.normal(jax.random.key(0), (2,)), "v": jnp.zeros(2)}

    for target in (init, init(), jax.eval_shape(init)):
        report = refused(target, {"v": ones(2)})
        assert codes(report) == ["missing"]


def test_a_leaf_of_which_only_the_shape_is_known_is_never_returned():
    target = jax.eval_shape(lambda: {"w": jnp.zeros(2), "v": jnp.zeros(2)})
    with pytest.raises(MergeError, match="'w' is kept, but the target knows only its"):
        tr.merge(target, {"v": ones(2)}, [tr.keep("w")])


def test_what_the_checkpoint_has_too_much_is_not_dropped():
    report = refused({"w": zeros(2)}, {"w": ones(2), "w_ema": ones(2)})
    assert codes(report) == ["unexpected"]
    assert report.source_fates == {"w": "used", "w_ema": "unexpected"}


def test_every_failure_is_listed_and_not_one_example():
    target = {f"layer{i}": zeros(2) for i in range(30)}
    report = refused(target, {f"layer{i}": ones(3) for i in range(29)})
    assert len(report.findings) == 30


def test_another_head_leaves_the_rest_strict():
    source = {"body": {"w": ones(2)}, "head": {"w": ones(1000)}}
    rules = [tr.draw("head/w", initializers.normal())]
    target = {"body": {"w": zeros(2)}, "head": {"w": zeros(3)}}
    _, report = tr.merge(target, source, rules, key=jax.random.key(0))
    assert report.target_fates == {"body/w": "copied", "head/w": "drawn"}
    assert report.source_fates == {"body/w": "used", "head/w": "replaced"}
    for less in ({"head": source["head"]}, source | {"stem": ones(1)}):
        refused(target, less, rules, key=jax.random.key(0))


def test_allowed_mismatches_are_kept_in_torchs_layout_too():
    policy = tr.Policy(shape="warn")
    source = {"fc/weight": ones(1000, 8), "body/weight": ones(8, 4)}
    target = {"fc/kernel": zeros(8, 3), "body/kernel": zeros(4, 8)}
    tree, report = tr.merge(target, source, [tr.torch_layout()], policy=policy)
    assert report.target_fates == {"body/kernel": "copied", "fc/kernel": "kept"}
    assert not tree["fc/kernel"].any()
    assert [found.severity for found in report.findings] == ["warning"]
