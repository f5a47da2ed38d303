"""Every test of the command line runs in a folder of its own, with models in net.py."""

import sys

import pytest
from command import NETWORKS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "net.py").write_text(NETWORKS)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]
