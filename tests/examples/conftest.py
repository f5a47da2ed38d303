"""Some of the jobs run in new processes, which are compiled quickly as well."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def new_processes_compile_quickly():
    """As tests/conftest.py says for this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield
