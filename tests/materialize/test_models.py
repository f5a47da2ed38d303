"""Models of four frameworks: every leaf has the bits of jit."""

import pytest
from identical import assert_as_jit
from zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.usefixtures("relaxed_promotion")
def test_models_of_every_kind(name):
    init, arguments = ZOO[name]
    assert_as_jit(init, *arguments)
