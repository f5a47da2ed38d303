"""The collector of garbage is as it was found, whatever happened meanwhile."""

import gc

import pytest

from jaxinit._collector import collector_paused


@collector_paused()
def paused_twice_and_failing():
    assert not gc.isenabled()
    with collector_paused():
        pass
    assert not gc.isenabled()
    raise KeyError


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_paused_and_then_as_it_was(enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError):
            paused_twice_and_failing()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
