"""What a merge says where a checkpoint does not fit yet: the line to write."""

import pathlib

import numpy as np
import pytest
from flax import nnx
from merge_helpers import ones, zeros

from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError

TORCH = {
    "conv/weight": ones(8, 3, 5, 5),
    "bn/weight": ones(8),
    "bn/bias": ones(8),
    "bn/running_mean": ones(8),
    "bn/running_var": ones(8),
    "bn/num_batches_tracked": np.array(7),
    "fc/weight": ones(4, 8),
    "fc/bias": ones(4),
}
PARAMS = {
    "conv": {"kernel": zeros(5, 5, 3, 8)},
    "bn": {"scale": zeros(8), "bias": zeros(8)},
    "fc": {"kernel": zeros(8, 4), "bias": zeros(4)},
}
STATISTICS = {"bn": {"mean": zeros(8), "var": zeros(8)}}
TARGET = {"params": PARAMS, "batch_stats": STATISTICS}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (5, 5), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.fc = nnx.Linear(8, 4, rngs=rngs)


def remedies(target, source, rules=()):
    """By leaf of the source, what is said about each that has nowhere to go."""
    found = tr.plan(target, source, rules).findings
    return {f.leaf: f.remedy for f in found if f.code == "unexpected"}


@pytest.mark.parametrize("target", [TARGET, lambda: nnx.state(Net(nnx.Rngs(0)))])
def test_names_of_torch_ask_for_its_layout(target):
    said = remedies(target, TORCH)
    assert sorted(said) == sorted(set(TORCH) - {"bn/bias", "fc/bias"})
    for remedy in said.values():
        assert remedy.startswith("Its name is torch's: say torch_layout()")
    _, report = tr.merge(target, TORCH, [tr.torch_layout()])
    assert report.ok


@pytest.mark.parametrize("prefix", ["module", "state_dict/module", "state_dict/net.0"])
def test_a_prefix_is_taken_off_by_the_line_that_is_given(prefix):
    source = {f"{prefix}/{name}": value for name, value in TORCH.items()}
    said = remedies(TARGET, source)
    assert sorted(said) == sorted(source)
    first = said[f"{prefix}/conv/weight"]
    assert first.endswith("and torch_layout(), since it is torch's, or drop(...) it.")
    written = first.removeprefix("Say ").partition(", and torch_layout()")[0]
    rule = eval(written, {"rename": tr.rename})
    _, report = tr.merge(TARGET, source, [rule, tr.torch_layout()])
    assert report.target_fates == dict.fromkeys(report.target_fates, "copied")


def test_a_prefix_without_torch_says_nothing_of_torch():
    source = {"ema/fc": {"kernel": ones(8, 4), "bias": ones(4)}}
    said = remedies({"fc": PARAMS["fc"]}, source)
    remedy = r"Say rename(r'ema/(.*)', r'\1'), or drop(...) it."
    assert said == {"ema/fc/kernel": remedy, "ema/fc/bias": remedy}


def test_statistics_without_their_collection_get_the_line_that_names_it():
    saved = nnx.to_pure_dict(nnx.state(Net(nnx.Rngs(0)), (nnx.Param, nnx.BatchStat)))
    target = nnx.state(Net(nnx.Rngs(1)))
    said = remedies(target, saved)
    assert sorted(said) == ["bn/mean", "bn/var"]
    written = [remedy.removeprefix("Say ") for remedy in said.values()]
    lines = [line.partition(", or drop(...)")[0] for line in written]
    assert r"rename(r'(.*/mean)', r'batch_stats:\1')" in lines
    rules = [eval(line, {"rename": tr.rename}) for line in lines]
    _, report = tr.merge(target, saved, rules)
    assert report.target_fates["batch_stats:bn/var"] == "copied"


def test_the_rest_of_a_training_state_gets_the_line_that_drops_it():
    saved = {"params": PARAMS, "step": np.array(3), "opt_state": [{"mu": PARAMS}]}
    said = remedies({"params": PARAMS}, saved)
    lines = {
        remedy.removeprefix("Say ").partition(", or")[0] for remedy in said.values()
    }
    assert lines == {"drop('step:.*')", "drop('opt_state:.*')"}
    rules = [eval(line, {"drop": tr.drop}) for line in sorted(lines)]
    assert tr.merge({"params": PARAMS}, saved, rules)[1].ok


def test_names_of_keras_get_the_line_that_ends_them(tmp_path):
    np.savez(
        tmp_path / "keras.npz", **{"fc/kernel:0": ones(8, 4), "fc/bias:0": ones(4)}
    )
    source = tr.open_checkpoint(tmp_path / "keras.npz")
    target = {"fc": PARAMS["fc"]}
    (remedy,) = set(remedies(target, source).values())
    assert remedy == r"Say rename('(.*):0', r'\1'), or drop(...) it."
    _, report = tr.merge(target, source, [tr.rename("(.*):0", r"\1")])
    assert report.ok


def test_statistics_without_a_place_ask_for_the_whole_variables():
    said = remedies(PARAMS, TORCH, [tr.torch_layout()])
    assert sorted(said) == ["bn/running_mean", "bn/running_var"]
    assert all("Give the whole variables" in remedy for remedy in said.values())


def test_three_channels_into_one_gets_its_adapter_by_name():
    target = {"conv": {"kernel": zeros(5, 5, 1, 8)}}
    source = {"conv/weight": TORCH["conv/weight"]}
    with pytest.raises(MergeError) as raised:
        tr.merge(target, source, [tr.torch_layout()])
    (finding,) = raised.value.report.findings
    written = finding.remedy.removeprefix("Say ").removesuffix(".")
    assert written == (
        "adapt('conv/kernel', adapters.inflate_channels, channels=1, mode=\"sum\")"
    )
    rule = eval(written, {"adapt": tr.adapt, "adapters": tr.adapters})
    tree, _ = tr.merge(target, source, [tr.torch_layout(), rule])
    np.testing.assert_array_equal(tree["conv"]["kernel"], 3 * ones(5, 5, 1, 8))


def test_an_adapter_without_its_option_is_refused_where_it_is_written():
    with pytest.raises(
        RuleError,
        match=r"inflate_channels needs the option 'mode'; write adapt\('w', "
        r"inflate_channels, mode=\.\.\.\)",
    ):
        tr.adapt("w", tr.adapters.inflate_channels, channels=1)

    def own(array, *, shape, key, factor=2.0):
        return array * factor

    tr.adapt("w", own)  # a merge gives shape and key


def test_what_an_adapter_says_ends_before_the_advice_begins():
    rule = tr.adapt("w", tr.adapters.inflate_channels, channels=1, mode="zero")
    with pytest.raises(MergeError, match='use "sum"\\. Correct the rule, or say'):
        tr.merge({"w": zeros(1, 1, 1, 8)}, {"w": ones(1, 1, 3, 8)}, [rule])


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_a_path_in_the_place_of_a_source_is_refused(kind):
    with pytest.raises(MergeError, match=r"source: .*open_checkpoint\('model.pth'\)"):
        tr.merge(TARGET, kind("model.pth"))


def test_tensors_of_torch_in_the_place_of_a_source_are_refused():
    tensor = type("Tensor", (), {"__module__": "torch"})()
    source = {"fc.weight": tensor}
    with pytest.raises(MergeError, match=r"'fc.weight'.*torch.save"):
        tr.merge(TARGET, source, [tr.torch_layout()])
