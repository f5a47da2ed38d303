"""Adapters give the numbers of timm, torch and JAX; see make_adapters.py."""

import ast
import pathlib

import jax
import numpy as np
import pytest

from jaxinit.transfer import adapters
from jaxinit.transfer.adapters._resizing import resizing_matrix

RECORD = np.load(pathlib.Path(__file__).parent / "fixtures" / "adapters.npz")
EPS = float(np.finfo(np.float32).eps)


def recorded(kind):
    return [*_recorded(kind)]


def _recorded(kind):
    for key in RECORD.files:
        parts = key.split(":")
        if parts[0] == kind and parts[-1] == "output":
            options = [ast.literal_eval(part) for part in parts[1:-1]]
            yield key.removesuffix(":output"), options


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("name", "options"), recorded("grid"))
def test_position_grids_are_those_of_timm(name, options):
    old, new, prefix = options
    table = RECORD[f"{name}:input"]
    found = adapters.resize_position_grid(
        table, old_grid=old, new_grid=new, prefix=prefix
    )
    assert relative(found, RECORD[f"{name}:output"]) < 1e-5
    np.testing.assert_array_equal(found[:, :prefix], table[:, :prefix])


@pytest.mark.parametrize(("name", "options"), recorded("patch"))
def test_patch_kernels_are_those_of_timm(name, options):
    _, new = options
    found = adapters.resize_patch_kernel(RECORD[f"{name}:input"], size=new)
    assert relative(found, RECORD[f"{name}:output"]) < 1e-5


@pytest.mark.parametrize("method", ["cubic", "linear", "nearest"])
@pytest.mark.parametrize(("old", "new"), [(5, 8), (8, 5), (1, 3)])
def test_resizing_is_that_of_jax(method, old, new):
    for antialias in (False, True):
        resize = jax.jit(jax.image.resize, static_argnums=(1, 2, 3))
        eye = np.eye(old, dtype=np.float32)
        expected = resize(eye, (old, new), method, antialias)
        found = resizing_matrix(old, new, method, antialias)
        np.testing.assert_allclose(found, expected, atol=8 * EPS)


@pytest.mark.parametrize(("name", "options"), recorded("length"))
def test_lengths_are_those_of_torch(name, options):
    _, new = options
    found = adapters.resize_positions(RECORD[f"{name}:input"], length=new)
    assert relative(found, RECORD[f"{name}:output"]) < 1e-5


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_channels_are_those_of_timm(channels):
    found = adapters.inflate_channels(
        RECORD["channels:input"],
        channels=channels,
        mode="sum" if channels == 1 else "tile",
    )
    expected = RECORD[f"channels:{channels}"]
    assert relative(found, expected) < 4 * EPS
