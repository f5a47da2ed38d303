"""The conditions under which everything of ours is tested.

Eight simulated CPU devices, strict dtype promotion, rank promotion "raise": what
survives here survives the settings of the most careful user.
"""

import gc
import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Folders and modules that mostly compile, once each, what then runs for a millisecond.
# They compare one program with another, or with room for sums in another order; what
# is not named holds programs to the bit, to the byte, or to float32's last digits.
QUICKLY_COMPILED = {
    "cli",
    "demo",
    "examples",
    "finetune",
    "groups",
    "presets",
    "signal/test_audit_branches",
    "signal/test_audit_faults",
    "signal/test_audit_handed",
    "signal/test_audit_sound",
    "signal/test_explicit_mesh",
    "signal/test_predict",
    "transfer/test_adapter_promises",
    "transfer/test_compare",
    "transfer/test_efficientnet_mistakes",
    "transfer/test_other_libraries",
    "transfer/test_torch_layers",
}

# Tracing makes many objects that stay: the collector would walk them again and again.
gc.set_threshold(100_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def optimized_or_not(request):
    """Without most optimizations, XLA compiles several times as fast."""
    folder = request.path.parent.name
    quick = not QUICKLY_COMPILED.isdisjoint({folder, f"{folder}/{request.path.stem}"})
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    if quick:
        jax.clear_caches()  # or they would serve the modules that hold bits


@pytest.fixture
def relaxed_promotion():
    """JAX's default promotion rules, for code that is not ours and needs them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def x64():
    """64-bit mode for one test."""
    with jax.enable_x64(True):
        yield


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="run the tests marked long as well"
    )


def pytest_collection_modifyitems(config, items):
    """Deselect (not skip) what this run is not for, so that a skip means a gap."""
    platform = jax.default_backend()
    kept, left = [], []
    for item in items:
        wanted = config.getoption("--long") or "long" not in item.keywords
        wanted = wanted and ("gpu" not in item.keywords or platform != "cpu")
        (kept if wanted else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
