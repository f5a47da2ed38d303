"""A linear layer, fitted exactly: on raw pixels, and on frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxinit.demo._statistics import quality

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse regularization, chosen on validation data


@dataclass(frozen=True)
class Linear:
    """``x @ kernel + bias``, and what the choice of its regularization rested on."""

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    quality: tuple[float, float]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.kernel + self.bias[None]


def fit(
    x: np.ndarray, labels: np.ndarray, unseen: np.ndarray, wanted: np.ndarray
) -> Linear:
    """Logistic regression with an L2 penalty; the strength is chosen on `unseen`.

    The features are standardized with the training data's own mean and spread, which
    is then folded into kernel and bias. A convex problem: it has no initialization.
    """
    return max(
        (_fit(x, labels, unseen, wanted, strength) for strength in STRENGTHS),
        key=lambda linear: linear.quality,
    )


def _fit(
    x: np.ndarray,
    labels: np.ndarray,
    unseen: np.ndarray,
    wanted: np.ndarray,
    strength: float,
) -> Linear:
    from sklearn.linear_model import LogisticRegression

    x = np.asarray(x, np.float64)
    mean, spread = x.mean(0), x.std(0)
    # A pixel that never changes says nothing, and must not become a division by zero.
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
    model = LogisticRegression(C=strength, max_iter=500)
    model.fit((x - mean) * scale, labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes have one row of their difference
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    kernel = (coefficients * scale).T
    bias = intercept - mean @ kernel
    logits = np.asarray(unseen, np.float64) @ kernel + bias
    return Linear(
        kernel.astype(np.float32),
        bias.astype(np.float32),
        strength,
        quality(logits, wanted),
    )
