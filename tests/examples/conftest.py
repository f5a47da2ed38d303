"""The jobs mostly compile what then runs for a moment, some in new processes."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled():
    """Compiled several times as fast, without most optimizations, here and there."""
    before = jax.config.read("jax_disable_most_optimizations")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # or they would serve the modules that hold bits
