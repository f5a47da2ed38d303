"""The report as a value: table, dictionary, page, pictures, errors, assertions."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import planted_faults as plant
import pytest

import jaxinit
from jaxinit import plots, testing
from jaxinit._errors import AuditError, RuleError
from jaxinit._signal import _handed
from jaxinit._signal._direction import DEFAULT_SEED, probe_loss


@pytest.fixture(scope="module")
def sound():
    return plant.audited("tanh", plant.sound(1.0))


@pytest.fixture(scope="module")
def faulty():
    return plant.audited("tanh", plant.with_kernels(plant.sound(1.0), plant.large))


def test_the_table_has_80_columns_and_says_what_to_do(faulty):
    text = str(faulty)
    assert max(map(len, text.splitlines())) <= 80
    assert "25.6 k parameters in 13 leaves, 7 in products, batch of 16" in text
    assert "jaxinit.reinit(key, f, params" in text
    assert "1 error" in text


def test_the_dictionary_gives_the_report_back(faulty):
    text = json.dumps(faulty.to_dict(), allow_nan=False)
    assert type(faulty).from_dict(json.loads(text)) == faulty
    assert json.loads(text)["examples"] == plant.BATCH


def test_raise_if_raises_and_carries_the_report(faulty, sound):
    with pytest.raises(AuditError, match=r"rms\(w\) sqrt\(fan_in\)") as caught:
        faulty.raise_if("error")
    assert caught.value.report is faulty
    assert sound.raise_if("note") is sound


def test_the_page_needs_no_other_file(faulty):
    page = faulty.to_html()
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)
    assert "layer_0/kernel" in page
    assert "sqrt(fan_in)" in page


def test_only_restricts_rows_and_findings():
    params = plant.with_kernels(plant.sound(1.0), plant.large)
    f = plant.network(jnp.tanh)
    report = jaxinit.audit(f, params, plant.batch(), only="head/.*")
    assert [row[0] for row in report.rows] == ["head/kernel"]
    assert not report.findings
    with pytest.raises(RuleError, match="only: the pattern 'tail' matches no leaf"):
        jaxinit.audit(f, params, plant.batch(), only="tail")


def test_pictures_show_every_layer_and_mark_what_is_wrong(faulty, sound):
    figure = plots.audit(faulty)
    signal, gradient, *_ = figure.axes
    (line,) = signal.lines
    np.testing.assert_allclose(line.get_ydata(), [r["out"] for r in faulty.records()])
    assert signal.get_yscale() == gradient.get_yscale() == "log"
    marks = [len(axes.patches) for axes in (*figure.axes, *plots.audit(sound).axes)]
    assert marks == [plant.DEPTH] * 4 + [0] * 4
    figure.canvas.draw()


def test_pictures_say_what_to_install(monkeypatch, sound):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxinit\[plots\]'"):
        plots.audit(sound)


def test_assert_signal_fails_on_findings_and_on_numbers(faulty, sound):
    testing.assert_signal(sound, rms=(0.1, 3.0), gradient_range=100.0)
    testing.assert_signal(faulty, allow=["gain"])
    for report, options, text in (
        (faulty, {}, r"error: layer_0/kernel: rms\(w\)"),
        (sound, {"rms": (0.1, 1.0)}, "layer_0/kernel: its product has rms 1.0"),
        (sound, {"gradient_range": 2.0}, "the gradient at head/kernel, rms 1, is"),
    ):
        with pytest.raises(AssertionError, match=text):
            testing.assert_signal(report, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"severity": "fatal"}, "severity must be one of"),
        ({"rms": (2.0, 1.0)}, "rms must be a pair"),
        ({"gradient_range": 0.5}, "gradient_range must be at least 1, got 0.5"),
    ],
)
def test_assert_signal_names_bad_options(options, text, sound):
    with pytest.raises(ValueError, match=text):
        testing.assert_signal(sound, **options)


def test_gradients_and_memory_are_those_of_plain_jax(monkeypatch):
    """Every parameter's gradient; and the program takes no more than a gradient's.

    Beside the small arrays that leave it: here none.
    """
    monkeypatch.setattr(_handed, "TOTAL", 0)
    f, params = plant.network(jnp.tanh), plant.sound(1.0)
    meter = plant.auditor.__wrapped__("tanh").meter  # not the one that others share
    measured = meter(jax.tree.leaves(params))
    seed = jnp.uint32(DEFAULT_SEED)

    def loss(params, x):
        return probe_loss(jax.tree.leaves(f(params, x)), seed)

    plain = jax.jit(jax.grad(loss)).lower(params, plant.batch()).compile()
    expected = jax.tree.leaves(plain(params, plant.batch()))
    for ours, theirs in zip(measured.gradient_rms, expected, strict=True):
        rms = float(jnp.sqrt(jnp.mean(jnp.square(theirs))))
        assert float(ours) == pytest.approx(rms, rel=1e-4)
    sizes = [
        memory.temp_size_in_bytes + memory.output_size_in_bytes
        for memory in (meter.compiled.memory_analysis(), plain.memory_analysis())
    ]
    assert sizes[0] <= 1.5 * sizes[1]


def test_another_key_is_another_direction_and_the_same_one_is_the_same():
    f, params = plant.network(jnp.tanh), plant.sound(1.0)
    args = f, params, plant.batch()
    one, again = jaxinit.audit(*args), plant.audited("tanh", params)
    other = jaxinit.audit(*args, key=jax.random.key(5))
    assert one.rows == again.rows
    assert one.loss == again.loss != other.loss
    assert not other.findings


def test_signs_are_fair_and_differ_between_outputs():
    """Mean of n signs within 5 standard errors; the sums of squares are exact."""
    n = 4096
    gradient = jax.grad(lambda ys: probe_loss(ys, jnp.uint32(DEFAULT_SEED)))
    first, second = gradient([jnp.zeros((n,)), jnp.zeros((64, n // 64))])
    for signs in (first, second.ravel(), first * second.ravel()):
        np.testing.assert_array_equal(jnp.abs(signs), 1.0)
        assert abs(float(jnp.mean(signs))) < 5 / n**0.5
    neighbours = float(jnp.mean(first[1:] * first[:-1]))
    assert abs(neighbours) < 5 / n**0.5
