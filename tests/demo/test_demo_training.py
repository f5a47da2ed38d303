"""Training, on networks that are cut short so that they compile in seconds."""

import io
import json

import demo_cases
import jax
import numpy as np
import pytest
from rich.console import Console

from jaxinit.demo import _deep, _experiment, _finetuning, _page, _run, _summary
from jaxinit.demo._linear import fit
from jaxinit.demo._network import EfficientNetLite0, checkpoint
from jaxinit.demo._training import Scratch, SmallNetwork, orders

EFFORT = _experiment.Effort(
    unfreezing=4,
    small=2,
    scratch=2,
    unfreezing_rates=(1e-4, 1e-3),
    small_rates=(1e-3,),
    starts=(("he_normal()", 1e-3),),
    labels=(5,),
)


@pytest.fixture(scope="module")
def short():
    """The pretrained network may end behind its third block only.

    Optax's Adam needs JAX's own promotion rules.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        patch.setattr(_finetuning, "STARTS", {3: 1})
        yield


@pytest.fixture(scope="module")
def experiment(short):
    begun = []

    def progress(name, total):
        begun.append([name, total])

        def tick():
            begun[-1][1] -= 1

        return tick

    runner = _experiment.Runner(
        demo_cases.task(), seeds=(0, 1, 2), effort=EFFORT, progress=progress
    )
    found = runner.run()
    assert all(left == 0 for _, left in begun), begun  # the bars end at 100%
    return found


def test_every_method_has_a_number_for_every_seed(experiment):
    assert {name for name, _ in experiment.scores} == set(_experiment.METHODS)
    for scores in experiment.scores.values():
        assert len(scores.values) == 3
        assert all(0 <= value <= 1 for value in scores.values)


def test_bright_and_dark_are_told_apart_by_pretrained_features(experiment):
    # An easy task: a chain of mistakes (labels, splits, heads) would show as chance.
    # The mean brightness differs by 0.5 in images of 64 pixels with deviation 0.3.
    assert experiment.scores[_experiment.LINEAR, 5].mean > 0.9
    assert experiment.scores[_experiment.FROZEN, 5].mean > 0.9
    assert experiment.scores[_experiment.RECIPE, 5].mean > 0.9


def test_each_leaf_of_the_new_network_is_accounted_for(experiment):
    fates = experiment.merge.target_fates
    assert {name for name, fate in fates.items() if fate == "drawn"} == {
        "classifier/kernel",
        "classifier/bias",
    }
    adapted = [name for name, fate in fates.items() if fate == "adapted"]
    assert adapted == ["stem/conv/kernel"]
    assert not experiment.merge.findings


def test_what_was_chosen_is_told_with_what_it_was_chosen_from(experiment):
    assert "on validation: 0.0001" in experiment.chosen["rate of unfreezing"]
    assert "rate of the small CNN" not in experiment.chosen  # nothing to choose from


def test_the_page_and_the_summary_hold_what_was_measured(experiment, monkeypatch):
    demo_cases.without_pictures(monkeypatch)
    found = demo_cases.found()
    found = found.__class__(**{**vars(found), "experiment": experiment})
    page = _page.page(found)
    assert str(experiment.scores[_experiment.RECIPE, 5]) in page
    console = Console(width=80, file=io.StringIO())
    console.print(_summary.summary(found, "r.html"))
    assert max(map(len, console.file.getvalue().splitlines())) <= 80
    json.dumps(found.to_dict(), allow_nan=False)


def test_unfreezing_moves_what_it_should_and_no_bit_of_the_rest(short):
    classes, size = 2, 16
    given = demo_cases.task()
    variables, _ = _finetuning.merged(
        classes, cut=3, channels=1, key=jax.random.key(0), size=size
    )
    found = _finetuning.features(variables, given.wide[:80:4], classes)
    labels = given.labels[:80:4]
    head = fit(found["mean 3"], labels, found["mean 3"], labels)
    network = _finetuning.Unfreezing(variables, classes=classes, cut=3, steps=4)
    before = network.with_head(head)
    logits = network.logits(before, found["block 1"])
    # Three blocks in float32 on either side of the same sums.
    np.testing.assert_allclose(logits, head(found["mean 3"]), rtol=1e-3, atol=1e-3)
    after = network.train(head, found["block 1"], labels, rate=1e-3, seed=0)

    def moved(part):
        one, other = before["params"][part], after["params"][part]
        return max(
            float(np.abs(a - b).max())
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        )

    assert moved("stem") == moved("blocks_0") == 0
    # Adam's steps are of the size of the rate, less by depth; so many at the most:
    # 4 of the head, 3 of the upper block, 2 of the lower one.
    assert 0 < moved("blocks_1") < moved("blocks_2") < moved("classifier") < 0.01
    jax.tree.map(
        np.testing.assert_array_equal, before["batch_stats"], after["batch_stats"]
    )


def test_renewed_statistics_are_those_of_the_images_given():
    model = EfficientNetLite0(classes=2, cut=1)
    network, images = Scratch(model), demo_cases.task().wide[:20]
    variables = network.draw(jax.random.key(0), images)
    renewed = network.renewed(variables, images)
    conv = jax.lax.conv_general_dilated(
        images,
        variables["params"]["stem"]["conv"]["kernel"],
        (2, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    statistics = renewed["batch_stats"]["stem"]["norm"]
    expected = np.asarray(conv, np.float64)
    # Sums of 5120 float32 numbers of size 1.
    np.testing.assert_allclose(statistics["mean"], expected.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(statistics["var"], expected.var((0, 1, 2)), rtol=1e-3)


def test_a_network_without_statistics_has_none_to_renew():
    network, images = Scratch(SmallNetwork(2)), demo_cases.task().images[:20]
    variables = network.draw(jax.random.key(0), images)
    assert network.renewed(variables, images) is variables


def test_every_image_comes_once_before_any_comes_again():
    found = orders(30, 6, seed=0)
    assert found.shape == (6, 20)
    for part in found.reshape(-1, 30):
        assert sorted(part) == list(range(30))


def test_he_passes_the_signal_on_that_xavier_loses_and_calibrate_restores():
    found = _deep.measure([0, 1], 2, lambda: None)

    def falls(name):
        rows = found.audits[name].records()
        assert len(rows) == _deep.LAYERS
        return rows[0]["out"] / rows[-1]["out"]

    # 28 factors of sqrt(2) are 16384, He's are 1: each within what width 64 scatters.
    assert falls(_deep.XAVIER) > 1000
    assert falls(_deep.HE) < 30
    assert falls(_deep.REPAIRED) == pytest.approx(1, rel=1e-3)
    assert [f.code for f in found.audits[_deep.XAVIER].findings] == ["vanishing"]
    assert found.losses[_deep.HE].shape == (2, 2)


@pytest.mark.long
def test_the_quick_run_finds_what_the_demo_claims():
    from jaxinit.demo import _builtin

    found = _run.run(_builtin.textures(), seed=100, quick=True)
    assert found.sound
    assert all(verdict.beats for verdict in found.deep_verdicts())
    verdicts = found.experiment.verdicts()
    assert all(v.beats for v in verdicts if v.other in _experiment.BASELINES)


def test_the_checkpoint_is_the_one_that_was_pinned():
    assert checkpoint()["_fc/weight"].shape == (1000, 1280)
