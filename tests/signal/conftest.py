"""Jitted audits that tests share live for one module, with its compiler settings."""

import planted_faults
import pytest


@pytest.fixture(autouse=True, scope="module")
def auditors_of_this_module():
    """None that was compiled for the module before, none left for the next."""
    planted_faults.auditor.cache_clear()
    yield
    planted_faults.auditor.cache_clear()
