"""A few seeds allow one to say little, and no more is said."""

import numpy as np
import pytest

from jaxinit.demo._linear import fit
from jaxinit.demo._statistics import Scores, accuracy, compare, log_loss, quality


def verdict(ours, other):
    return compare(Scores(ours), Scores(other), names=("ours", "other"), where="here")


def test_the_spread_is_that_of_a_sample():
    scores = Scores((0.7, 0.8, 0.9))
    assert scores.mean == pytest.approx(0.8, abs=1e-12)
    assert scores.spread == pytest.approx(np.std(scores.values, ddof=1), abs=1e-12)
    assert str(scores) == "0.800 ± 0.100"


def test_one_seed_has_no_spread():
    with pytest.raises(ValueError, match="needs two seeds or more"):
        Scores((0.7,))


def test_far_above_is_more_than_the_spread():
    found = verdict((0.98, 0.99, 0.97), (0.70, 0.74, 0.72))
    assert found.beats
    assert "by more than the spread" in str(found)


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        ((0.98, 0.99, 0.97), (0.85, 0.93, 0.99)),  # above, but one of them scatters
        ((0.9, 0.9, 0.9), (0.9, 0.9, 0.9)),  # the same
        ((0.80, 0.81, 0.82), (0.79, 0.80, 0.81)),  # each seed is above, all are close
        ((0.5, 0.5, 0.5), (0.9, 0.9, 0.9)),  # far below
    ],
)
def test_what_is_not_above_by_more_than_both_spreads_does_not_beat(ours, other):
    assert not verdict(ours, other).beats


def test_worse_is_called_worse():
    assert "worse by more" in str(verdict((0.5, 0.5, 0.5), (0.9, 0.9, 0.9)))
    assert str(verdict((0.5, 0.5), (0.5, 0.5))).endswith("within the spread")


def test_accuracy_and_log_loss_are_those_of_scikit_learn():
    from sklearn import metrics

    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(50, 4)) * 300, random.integers(0, 4, 50)
    assert accuracy(logits, labels) == metrics.accuracy_score(labels, logits.argmax(-1))
    logits /= 300
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert log_loss(logits, labels) == pytest.approx(
        metrics.log_loss(labels, shares), rel=1e-9
    )


def test_with_equal_accuracy_the_surer_one_is_better():
    logits, labels = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1])
    assert quality(3 * logits, labels) > quality(logits, labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_layer_is_scikit_learns_with_the_scales_folded_in(classes):
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    labels = np.arange(30) % classes
    x = random.normal(3, 2, (30, 5)).astype(np.float32)
    x[:, 0] += 5 * labels
    x[:, 4] = 7  # a pixel that never changes
    unseen, wanted = x[:10] + 0.1, labels[:10]
    found = fit(x, labels, unseen, wanted)
    scaled = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    model = LogisticRegression(C=found.strength, max_iter=500).fit(scaled, labels)
    logits = found(x)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(shares, model.predict_proba(scaled), atol=1e-3)
    assert found.kernel.shape == (5, classes)
    assert not found.kernel[4].any()


def test_the_strength_is_chosen_by_what_was_not_trained_on():
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 30)), np.arange(40) % 2
    x[:, 0] += 2.0 * labels
    unseen, wanted = random.normal(size=(200, 30)), np.arange(200) % 2
    unseen[:, 0] += 2.0 * wanted
    found = fit(x, labels, unseen, wanted)
    assert found.quality == quality(
        np.asarray(unseen @ found.kernel + found.bias[None]), wanted
    ) or found.quality[0] == pytest.approx(accuracy(found(unseen), wanted), abs=0.01)
    assert found.strength < 1.0  # the weakest penalty fits the noise
