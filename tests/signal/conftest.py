"""Most of these tests compile, once each, what then runs for a millisecond."""

import jax
import pytest

# They hold a compiled program against another one, to the bit or to the byte.
OPTIMIZED = ("test_audit_memory", "test_audit_report", "test_calibrate_full_size")


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled(request):
    """What is measured is rounded otherwise, and compiled three times as fast."""
    name = request.module.__name__
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", name not in OPTIMIZED)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
