"""Some of these tests mostly compile, once each, what then runs for a millisecond."""

import jax
import planted_faults
import pytest

# Their tolerances have room for sums in another order. Others hold programs against
# each other to the bit, to the byte, or to float32's last digits.
QUICK = (
    "test_audit_branches",
    "test_audit_faults",
    "test_audit_sound",
    "test_explicit_mesh",
    "test_predict",
)


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled(request):
    """Compiled several times as fast, without most optimizations."""
    quick = request.module.__name__ in QUICK
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick)
    planted_faults.auditor.cache_clear()  # as compiled for the module before
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    if quick:
        jax.clear_caches()  # or they would serve the modules that hold bits
    planted_faults.auditor.cache_clear()
