"""Some of these tests mostly compile, once each, what then runs for a millisecond."""

import jax
import pytest

# What they compare is one program with another, or with room for sums in another order.
QUICK = (
    "test_efficientnet_mistakes",
    "test_adapter_promises",
    "test_torch_layers",
    "test_compare",
    "test_other_libraries",
)


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled(request):
    """Compiled several times as fast, without most optimizations."""
    quick = request.module.__name__ in QUICK
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    if quick:
        jax.clear_caches()  # or they would serve the modules that hold bits
