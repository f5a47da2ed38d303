"""inspect and diff: what they say of files is what numpy says of the arrays."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import answered, jaxinit

from jaxinit import transfer as tr
from jaxinit._errors import CheckpointError

FIXTURES = pathlib.Path(__file__).parent.parent / "transfer" / "fixtures"


def tree():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    layers = [{"kernel": rows + i, "bias": np.zeros(4, np.float16)} for i in range(9)]
    return {"layers": layers, "head": {"kernel": rows.T.copy()}}


@pytest.fixture
def file(folder):
    tr.save("a.safetensors", tree())
    return "a.safetensors"


def records(report):
    return [dict(zip(report["columns"], row, strict=True)) for row in report["rows"]]


def test_every_leaf_is_shown_with_shape_dtype_and_bytes(file):
    found = {row["leaf"]: row for row in records(answered("inspect", file))}
    flat = {name: leaf for name, leaf in tr.open_checkpoint(file).items()}
    assert set(found) == set(flat)
    for name, leaf in flat.items():
        assert found[name]["shape"] == list(leaf.shape)
        assert found[name]["dtype"] == leaf.dtype.name
        assert found[name]["bytes"] == leaf.size * leaf.dtype.itemsize


def test_layers_that_are_alike_share_a_line(file):
    done = jaxinit("inspect", file)
    assert done.code == 0
    assert "layers/{0..8}/kernel" in done.out
    assert "19 leaves, 156 numbers, 552 B" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert "\x1b" not in done.out


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_tables_stay_within_the_columns_that_there_are(file, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (("inspect", file), ("diff", file, file, "--all")):
        lines = jaxinit(*arguments).out.splitlines()
        assert max(map(len, lines)) <= columns
        assert any("layers/" in line for line in lines)


def test_values_are_measured_as_numpy_measures_them(file):
    found = {row["leaf"]: row for row in records(answered("inspect", file, "--values"))}
    for name, leaf in tr.open_checkpoint(file).items():
        wide = leaf.read().astype(np.float64)
        assert found[name]["rms"] == pytest.approx(np.sqrt(np.mean(wide**2)), rel=1e-12)
        assert found[name]["nonfinite"] == 0


def test_values_that_are_not_finite_are_counted_and_are_findings():
    broken = tree()
    broken["head"]["kernel"][0, :2] = np.nan, np.inf
    broken["half"] = jnp.array([1, -jnp.inf], jnp.bfloat16)
    tr.save("b.safetensors", broken)
    report = answered("inspect", "b.safetensors", "--values", code=1)
    bad = {row["leaf"]: row["nonfinite"] for row in records(report)}
    assert {name: n for name, n in bad.items() if n} == {"half": 1, "head/kernel": 2}
    assert {finding["leaf"] for finding in report["findings"]} == {
        "half",
        "head/kernel",
    }
    assert jaxinit("inspect", "b.safetensors").code == 0  # which reads no values


def test_leaves_are_chosen_by_pattern(file):
    report = answered("inspect", file, "--only", "head/.*", "--only", "layers/0/.*")
    names = [row["leaf"] for row in records(report)]
    assert sorted(names) == ["head/kernel", "layers/0/bias", "layers/0/kernel"]


def test_where_the_numbers_of_a_merged_file_come_from_is_told(file):
    source = tr.open_checkpoint(file)
    rules = [tr.rename("head/(.*)", r"top/\1"), tr.drop("layers/.*")]
    merged, report = tr.merge({"top": {"kernel": jnp.zeros((4, 3))}}, source, rules)
    tr.save("merged.safetensors", merged, provenance=report)
    out = jaxinit("inspect", "merged.safetensors").out.replace("\n", " ")
    assert "written by jaxinit" in out
    assert f"from {file}, " in out
    assert f"sha256 {source.origins[0].sha256[:12]}…" in out
    assert "1 copied" in out
    assert "drop('layers/.*')" in out
    data = answered("inspect", "merged.safetensors")
    record = json.loads(data["metadata"]["jaxinit.provenance"])["record"]
    assert record["source"]["files"][0]["sha256"] == source.origins[0].sha256


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"record": {"source": 3}}'])
def test_provenance_that_somebody_else_wrote_is_no_fault(text, folder):
    from safetensors.numpy import save_file

    save_file({"w": np.ones(2)}, "c.safetensors", {"jaxinit.provenance": text})
    assert jaxinit("inspect", "c.safetensors").code == 0


def test_a_file_does_not_differ_from_itself_in_another_format(file):
    names = {name: leaf.read() for name, leaf in tr.open_checkpoint(file).items()}
    np.savez("a.npz", **names)
    report = answered("diff", file, "a.npz")
    assert report["equal"] is True
    assert report["rows"] == []
    assert "0 of 19 leaves differ" in jaxinit("diff", file, "a.npz").out
    assert len(answered("diff", file, "a.npz", "--all")["rows"]) == 19


def test_each_kind_of_difference_is_told(file):
    other = tree()
    other["layers"][0]["kernel"][1, 2] += 0.5
    other["layers"][1]["bias"] = other["layers"][1]["bias"].astype(np.float32)
    other["layers"][2]["kernel"] = other["layers"][2]["kernel"].T.copy()
    other["extra"] = other.pop("head")
    tr.save("b.safetensors", other)
    report = answered("diff", file, "b.safetensors", code=1)
    found = {row["leaf"]: row for row in records(report)}
    assert {name: row["differs"] for name, row in found.items()} == {
        "layers/0/kernel": "values",
        "layers/1/bias": "dtype",
        "layers/2/kernel": "shape",
        "head/kernel": "only in the first",
        "extra/kernel": "only in the second",
    }
    changed = found["layers/0/kernel"]
    assert (changed["largest"], changed["relative"]) == (0.5, 0.5 / 11)
    assert report["equal"] is False
    out = jaxinit("diff", file, "b.safetensors").out
    assert "float16 (4) → float32 (4)" in out.replace("\n", " ")
    assert max(map(len, out.splitlines())) <= 80


def test_differences_within_the_tolerance_are_none(folder):
    values = jax.random.normal(jax.random.key(0), (64,))
    tr.save("full.safetensors", {"w": values})
    tr.save("half.safetensors", {"w": values.astype(jnp.bfloat16)})
    pair = ("diff", "full.safetensors", "half.safetensors")
    assert jaxinit(*pair).code == 1
    assert jaxinit(*pair, "--ignore-dtype").code == 1
    # Rounding to 8 bits errs by at most 2^-9 of each number, so of the largest.
    assert jaxinit(*pair, "--ignore-dtype", "--rtol", 2**-8).code == 0
    assert jaxinit(*pair, "--ignore-dtype", "--atol", 2**-6).code == 0
    assert jaxinit(*pair, "--rtol", 2**-8).code == 1  # the type still differs


def test_nan_equals_nan_and_nothing_else(folder):
    tr.save("a.npz.safetensors", {"w": np.array([1.0, np.nan])})
    tr.save("b.safetensors", {"w": np.array([1.0, np.nan])})
    tr.save("c.safetensors", {"w": np.array([1.0, 2.0])})
    assert jaxinit("diff", "a.npz.safetensors", "b.safetensors").code == 0
    arguments = ("diff", "b.safetensors", "c.safetensors", "--rtol", 1, "--atol", 1)
    (row,) = records(answered(*arguments, code=1))
    assert row["largest"] == {"float": "inf"}


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.p*t*")), ids=lambda p: p.name)
def test_files_of_torch_are_shown_or_refused_with_a_reason(path):
    done = jaxinit("inspect", path, "--values")
    names, reason = [], ""
    try:
        names = list(tr.open_checkpoint(path))
    except CheckpointError as error:
        reason = str(error)
    if reason:
        assert (done.code, done.out) == (2, "")
        assert reason in done.err
    else:
        assert done.code == 0
        rows = answered("inspect", path, "--values")["rows"]
        assert [row[0] for row in rows] == names
