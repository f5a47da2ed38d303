"""plan and merge: from a file and rules in JSON to a file of the model's parameters."""

import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import answered, jaxinit

from jaxinit import transfer as tr
from jaxinit.cli import _files

LINEN = ("net:Net", "--input", "2,8")
NNX = ("net.py:Model",)
RULES = [
    {"rename": "fc/(.*)", "replacement": "head/\\1"},
    {"torch_layout": ".*"},
    {"draw": "head/kernel", "initializer": "normal(0.5)"},
    {"keep": "head/bias"},
]


def numbers(shape, start):
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture
def torch_file(folder):
    """What torch would have saved of a network with 1000 classes."""
    state = {
        "body.weight": numbers((16, 8), 0),
        "body.bias": numbers((16,), 1),
        "norm.weight": numbers((16,), 2),
        "norm.bias": numbers((16,), 3),
        "norm.running_mean": numbers((16,), 4),
        "norm.running_var": numbers((16,), 5),
        "norm.num_batches_tracked": np.array(7),
        "fc.weight": numbers((1000, 16), 0),
        "fc.bias": numbers((1000,), 0),
    }
    from safetensors.numpy import save_file

    save_file(state, "torch.safetensors")
    (folder / "rules.json").write_text(json.dumps(RULES))
    return "torch.safetensors"


def test_a_plan_that_does_not_fit_is_a_finding_and_is_not_written(torch_file, folder):
    done = jaxinit("plan", torch_file, *LINEN, "--out", "plan.json")
    assert done.code == 1
    assert "plan.json is not written, since the plan has errors" in done.err
    assert not (folder / "plan.json").exists()
    assert "fc/weight: the target has no such leaf" in done.out.replace("\n", " ")
    assert max(map(len, done.out.splitlines())) <= 80
    findings = answered("plan", torch_file, *LINEN, code=1)["findings"]
    assert {"fc/weight", "head/kernel"} <= {finding["leaf"] for finding in findings}


@pytest.mark.parametrize("model", [LINEN, NNX], ids=["linen", "nnx"])
def test_a_merge_fills_the_model_and_draws_the_head(model, torch_file):
    arguments = (torch_file, *model, "--rules", "rules.json", "--seed", 4)
    report = answered("merge", *arguments, "--out", "merged.safetensors")
    fates = {leaf["name"]: leaf["fate"] for leaf in report["targets"]}
    assert fates["body/kernel"] == fates["batch_stats:norm/mean"] == "copied"
    assert fates["head/kernel"] == "drawn"
    merged = tr.open_checkpoint("merged.safetensors")
    np.testing.assert_array_equal(merged["body/kernel"].read(), numbers((16, 8), 0).T)
    np.testing.assert_array_equal(
        merged["batch_stats:norm/var"].read(), numbers((16,), 5)
    )
    assert merged["head/kernel"].shape == (16, 3)
    # The standard error of the deviation of 48 numbers is a tenth; 1 in 1e9.
    assert 0.5 * 0.37 < merged["head/kernel"].read().std() < 0.5 * 1.63
    assert "jaxinit.provenance" in merged.metadata


def test_the_file_is_what_the_library_would_have_merged(torch_file):
    arguments = (torch_file, *LINEN, "--rules", "rules.json", "--seed", 4)
    assert jaxinit("merge", *arguments, "--out", "merged.safetensors").code == 0
    key, network = jax.random.key(4), runpy.run_path("net.py")["Net"]()
    wanted, report = tr.merge(
        lambda: network.init(key, jnp.ones((2, 8))),
        tr.open_checkpoint(torch_file),
        tr.rules_from_json(json.dumps(RULES)),
        key=key,
    )
    tr.save("wanted.safetensors", wanted, provenance=report)
    assert answered("diff", "wanted.safetensors", "merged.safetensors")["equal"]
    other = (*arguments[:-1], 5, "--out", "other.safetensors")
    assert jaxinit("merge", *other).code == 0
    report = answered("diff", "merged.safetensors", "other.safetensors", code=1)
    assert [row[0] for row in report["rows"]] == ["head/kernel"]


def test_a_plan_is_written_and_applied(torch_file, folder):
    arguments = (torch_file, *LINEN)
    planned = jaxinit("plan", *arguments, "--rules", "rules.json", "--out", "plan.json")
    assert planned.code == 0
    assert "the plan is in plan.json" in planned.err
    by_plan = ("merge", *arguments, "--plan", "plan.json", "--out", "by_plan.st")
    assert jaxinit(*by_plan).code == 0
    by_rules = ("merge", *arguments, "--rules", "rules.json", "--out", "by_rules.st")
    assert jaxinit(*by_rules).code == 0
    assert answered("diff", "by_plan.st", "by_rules.st")["equal"]
    assert tr.Plan.from_json((folder / "plan.json").read_text()).ok
    assert answered("plan", *arguments, "--rules", "rules.json") == json.loads(
        (folder / "plan.json").read_text()
    )


def test_a_plan_for_another_model_is_refused(torch_file):
    arguments = (torch_file, *LINEN, "--rules", "rules.json", "--out", "plan.json")
    assert jaxinit("plan", *arguments).code == 0
    other = ("merge", torch_file, "net.py:made", "--input", "2,8")
    done = jaxinit(*other, "--plan", "plan.json", "--out", "m.safetensors")
    assert done.code == 2
    assert "not what the plan was made for" in done.err


def test_a_merge_that_fails_writes_nothing_and_leaves_what_is_there(torch_file, folder):
    (folder / "m.safetensors").write_text("precious")
    arguments = (torch_file, *LINEN, "--out", "m.safetensors")
    assert jaxinit("merge", *arguments, "--rules", "rules.json").code == 2
    done = jaxinit("merge", *arguments, "--force")
    assert done.code == 1
    assert "nothing in the source goes here" in done.out.replace("\n", " ")
    assert (folder / "m.safetensors").read_text() == "precious"
    assert not list(folder.glob(".*.tmp"))
    done = jaxinit("merge", *arguments, "--force", "--rules", "rules.json")
    assert done.code == 0
    assert tr.open_checkpoint("m.safetensors")["head/kernel"].shape == (16, 3)


def test_numbers_that_are_not_finite_are_refused_unless_allowed(torch_file, folder):
    state = {name: leaf.read() for name, leaf in tr.open_checkpoint(torch_file).items()}
    state["body/weight"][3, 3] = np.nan
    np.savez("bad.npz", **state)
    arguments = ("bad.npz", *LINEN, "--rules", "rules.json", "--out", "m.safetensors")
    assert jaxinit("plan", *arguments[:-2]).code == 0  # no number is read
    report = answered("merge", *arguments, code=1)
    assert [finding["leaf"] for finding in report["findings"]] == ["body/kernel"]
    assert not (folder / "m.safetensors").exists()
    assert jaxinit("merge", *arguments, "--policy", "nonfinite=allow").code == 0


def test_a_warning_is_a_finding_though_the_file_is_written(torch_file, folder):
    (folder / "some.json").write_text(json.dumps(RULES[1:]))
    arguments = (torch_file, *LINEN, "--rules", "some.json", "--out", "m.safetensors")
    done = jaxinit("merge", *arguments, "--policy", "unexpected=warn")
    assert done.code == 1
    assert (folder / "m.safetensors").exists()
    allowed = (*arguments, "--policy", "unexpected=allow", "--force")
    assert jaxinit("merge", *allowed).code == 0


def test_a_rule_that_matches_nothing_is_wrong_use(torch_file, folder):
    rules = [{"rename": "fcc/(.*)", "replacement": "head/\\1"}]
    (folder / "rules.json").write_text(json.dumps(rules))
    done = jaxinit("plan", torch_file, *LINEN, "--rules", "rules.json")
    assert done.code == 2
    assert "rules[0]" in done.err
    assert "did you mean 'fc/.*'?" in done.err


def test_a_text_is_written_whole_or_not_at_all(folder):
    path = folder / "new.json"
    _files.write_text(path, "text")
    before = set(folder.iterdir())
    with pytest.raises(UnicodeEncodeError):
        _files.write_text(path, "other \ud800")
    assert path.read_text() == "text"
    assert set(folder.iterdir()) == before
