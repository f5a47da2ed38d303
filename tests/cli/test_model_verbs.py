"""audit and materialize: the numbers of the library, for linen and for nnx."""

import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import answered, jaxinit
from flax import nnx

import jaxinit as library
from jaxinit import transfer as tr
from jaxinit.cli._inputs import Input, drawn, parsed

LINEN = ("net.py:Net", "--input", "16,8")
NNX = ("net.py:Model", "--input", "16,8")


def linen():
    return runpy.run_path("net.py")["Net"]()


def test_the_audit_is_that_of_the_library():
    (inputs,) = drawn(parsed(["16,8"]), seed=5)
    variables = library.materialize(linen().init)(jax.random.key(5), inputs)
    wanted = library.audit(*library.from_linen(linen(), variables, inputs))
    found = library.AuditReport.from_dict(answered("audit", *LINEN, "--seed", 5))
    assert found.rows == wanted.rows
    assert [row[0] for row in found.rows] == ["body/kernel", "head/kernel"]
    assert found.examples == 16


def test_a_bad_start_is_found_with_its_remedy(folder):
    arguments = ("audit", "net.py:Forgets", "--input", "32,64")
    only = ("--only", "Dense_3/.*")
    done = jaxinit(*arguments, "--html", "audit.html")
    assert done.code == 1
    assert "jaxinit.reinit(key" in done.out.replace("\n", " ")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "Dense_0/kernel" in (folder / "audit.html").read_text()
    assert not answered(*arguments, *only)["findings"]


def test_what_makes_the_exit_code_1_can_be_said():
    # A parameter that changes nothing is a warning, a head of zeros a note.
    idle = ("audit", "net.py:Idle", "--input", "16,8")
    report = answered(*idle, code=1)
    assert {finding["severity"] for finding in report["findings"]} == {
        "warning",
        "note",
    }
    assert answered(*idle, "--fail-on", "error") == report


def test_options_of_the_call_reach_the_model():
    plain, training = (
        answered("audit", *LINEN, "--call", f"train={word}")
        for word in ("false", "true")
    )
    assert plain["rows"] != training["rows"]


@pytest.mark.parametrize("model", [LINEN, NNX], ids=["linen", "nnx"])
def test_parameters_of_a_file_are_audited_if_every_leaf_fits(model, folder):
    start = ("materialize", *model, "--seed", 3, "--out", "start.safetensors")
    assert jaxinit(*start).code == 0
    checkpoint = ("--checkpoint", "start.safetensors")
    found = {row[0]: row for row in answered("audit", *model, *checkpoint)["rows"]}
    kernel = tr.open_checkpoint("start.safetensors")["head/kernel"].read()
    gain = float(np.sqrt(np.mean(kernel.astype(np.float64) ** 2) * 16))
    assert found["head/kernel"][2] == pytest.approx(gain, rel=1e-5)
    report = answered("audit", "net.py:made", *LINEN[1:], *checkpoint, code=1)
    assert {finding["leaf"] for finding in report["findings"]} >= {"head/kernel"}


@pytest.mark.parametrize("model", [LINEN, NNX, ("net.py:model",)], ids=str)
def test_the_parameters_are_those_of_jit(model, folder):
    done = jaxinit("materialize", *model, "--out", "start.safetensors", "--seed", 7)
    assert done.code == 0
    assert "start.safetensors" in done.err
    names = runpy.run_path("net.py")
    if model is LINEN:
        init = jax.jit(linen().init)
        wanted = init(jax.random.key(7), jnp.ones((16, 8)))
    else:
        build = {"net.py:model": names["model"]}.get(model[0]) or (
            lambda: names["Model"](rngs=nnx.Rngs(7))
        )
        wanted = jax.jit(lambda: nnx.state(build()))()
    tr.save("wanted.safetensors", wanted)
    assert answered("diff", "wanted.safetensors", "start.safetensors")["equal"]


def test_only_what_is_named_is_made_and_written(folder):
    done = ("materialize", *LINEN, "--only", "head/.*", "--out", "head.safetensors")
    assert len(answered(*done)["rows"]) == 2
    assert sorted(tr.open_checkpoint("head.safetensors")) == [
        "head/bias",
        "head/kernel",
    ]


def test_how_each_leaf_is_made_is_explained():
    report = answered("materialize", *LINEN, "--explain")
    assert report["columns"][3] == "made"
    assert {row[3] for row in report["rows"]} <= {"constant", "in chunks", "compiled"}
    assert "not written" not in jaxinit("materialize", *LINEN, "--explain").out


def test_parameters_that_are_not_finite_are_a_finding():
    report = answered("materialize", "net.py:Undefined", "--input", "2,8", code=1)
    (finding,) = report["findings"]
    assert (finding["leaf"], finding["code"]) == ("Dense_0/kernel", "nonfinite")
    assert "16 of 16 values" in finding["cause"]


def test_a_factory_may_look_at_numbers():
    assert jaxinit("materialize", "net.py:looks_at_numbers", "--input", "2,8").code == 0


def test_tokens_are_in_range_and_a_guess_is_told():
    arguments = ("audit", "net.py:Tokens", "--input")
    guessed = jaxinit(*arguments, "16,5:int32")
    assert guessed.code == 0
    assert "input 1 holds 0 and 1 only" in guessed.err
    told = jaxinit(*arguments, "16,5:int32:7")
    assert told.code == 0
    assert told.err == ""


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "complex64"])
def test_floats_are_standard_normal(dtype):
    (values,) = drawn([Input((4096,), dtype)], seed=0)
    assert values.dtype == jnp.dtype(dtype)
    square = np.mean(np.abs(np.asarray(values).astype(np.complex128)) ** 2)
    # The mean of 4096 squares errs by 0.022 (of a complex number by 0.016); 1 in 1e9.
    assert abs(square - 1) < 6.2 * 0.0225


@pytest.mark.parametrize(
    ("given", "high"),
    [("99:int32", 2), ("99:uint8", 256), ("99:int16:7", 7), ("99:uint32:1", 1)],
)
def test_whole_numbers_lie_below_their_bound_and_reach_it(given, high):
    (made,) = parsed([given])
    assert made.limit == high
    (values,) = drawn([Input((64 * high,), made.dtype, made.high)], seed=1)
    # One number of `high` is left out by chance with probability high * e^-64.
    assert set(np.unique(values)) <= set(range(high))
    assert values.max() >= high - 1 - high // 8


def test_booleans_are_both():
    (values,) = drawn(parsed(["64:bool"]), seed=0)
    assert set(np.unique(values)) == {False, True}  # but for 2 in 2^64 keys


def test_an_input_does_not_depend_on_those_beside_it():
    one = drawn(parsed(["3", "4"]), seed=0)
    other = drawn(parsed(["7", "4"]), seed=0)
    np.testing.assert_array_equal(one[1], other[1])
