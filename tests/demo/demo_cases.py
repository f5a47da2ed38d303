"""A result of the demo with small reports and made-up accuracies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxinit
from jaxinit import transfer as tr
from jaxinit.demo import _deep, _experiment, _figures, _medical
from jaxinit.demo._pictures import Task
from jaxinit.demo._proof import Proof
from jaxinit.demo._run import Found
from jaxinit.demo._start import Start
from jaxinit.demo._statistics import Scores

LABELS, SEEDS = (5, 10, 20), (0, 1, 2)


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["last"]


@functools.cache
def reports():
    """Of an audit, a calibration, a plan that does not fit, and a merge."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "first": jax.random.normal(keys[0], (8, 8)),
        "last": jax.random.normal(keys[1], (8, 2)),
    }
    x = jax.random.normal(keys[2], (16, 8))
    audit = jaxinit.audit(network, params, x)
    _, calibration = jaxinit.calibrate(network, params, x)
    plan = tr.plan({"first": jnp.zeros((8, 4))}, {"first": jnp.zeros((8, 8))})
    _, merge = tr.merge({"first": jnp.zeros((8, 8))}, {"first": params["first"]})
    return audit, calibration, plan, merge


def without_pictures(monkeypatch):
    """Pages with empty pictures, for what is said in words."""
    uri = "data:image/png;base64,"
    blank = _figures.Picture(light=uri, dark=uri, words="", width=1)
    monkeypatch.setattr(_figures, "picture", lambda *args, **options: blank)


def task(title="Noise: which one?", channels=1):
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 70)
    images = random.normal(0, 0.3, (140, 8, 8, channels)).astype(np.float32)
    images += (labels * 0.5)[:, None, None, None].astype(np.float32)
    about = "Two kinds of noise."
    wide = images.repeat(4, 1).repeat(4, 2)
    return Task("noise", title, about, ("dark", "bright"), images, wide, labels)


def scores(mean, spread=0.01):
    """Three seeds with this mean and this spread."""
    return Scores((mean - spread, mean, mean + spread))


MEANS = {
    _experiment.RECIPE: 0.98,
    _experiment.FROZEN: 0.97,
    _experiment.SMALL: 0.8,
    _experiment.SCRATCH: 0.7,
    _experiment.LAGGING: 0.5,
    _experiment.LINEAR: 0.6,
}


def found(*, means=MEANS, given=None, relative=1e-6, identical=True):
    """What a run returns."""
    audit, calibration, plan, merge = reports()
    names = (_deep.XAVIER, _deep.HE, _deep.REPAIRED)
    deep = _deep.Deep(
        audits=dict.fromkeys(names, audit),
        losses={
            name: np.full((50, 3), level)
            for name, level in zip(names, (2.3, 1.0, 0.9), strict=True)
        },
        scores=dict(zip(names, (scores(0.1), scores(0.92), scores(0.93)), strict=True)),
        calibration=calibration,
        steps=50,
    )
    experiment = _experiment.Experiment(
        task=given or task(),
        labels=LABELS,
        seeds=SEEDS,
        scores={
            (name, n): scores(mean) for name, mean in means.items() for n in LABELS
        },
        depths={(cut, n): scores(0.9) for cut in (8, 11, 16) for n in LABELS},
        cut=11,
        chosen={"rate": "0.001 (on validation: 0.001 0.97)"},
        merge=merge,
        tested=100,
        seconds={"linear": 1.0},
    )
    return Found(
        seeds=SEEDS,
        quick=False,
        start=Start(247, 4_652_008, 0.5, 8.0, identical, audit, 3.0, "all"),
        deep=deep,
        proof=Proof(
            unplanned=plan,
            report=merge,
            relative=relative,
            same_pictures=True,
            classes=(442, 985),
            slices=tuple(_medical.examples()),
            one_channel=1e-7,
        ),
        experiment=experiment,
        seconds={"first parameters": 12.0, "all": 100.0},
    )
