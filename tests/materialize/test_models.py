"""Models of four frameworks: every leaf has the bits of jit."""

import pytest
from identical import assert_as_jit
from zoo import ZOO

from jaxinit import _materialize, materialize


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.usefixtures("relaxed_promotion")
def test_models_of_every_kind(name):
    init, arguments = ZOO[name]
    assert_as_jit(init, *arguments)


@pytest.mark.parametrize("name", ["residual", "scan and remat", "recurrent", "nnx"])
@pytest.mark.usefixtures("relaxed_promotion")
def test_programs_for_accelerators_are_right_too(name, monkeypatch):
    """Where nothing is filled on the host, every leaf is compiled for its device."""
    monkeypatch.setattr(_materialize, "_platform", lambda shardings: "elsewhere")
    init, arguments = ZOO[name]
    made = {row[3] for row in materialize(init).explain(*arguments).rows}
    assert "in chunks" not in made
    assert_as_jit(init, *arguments)
