"""A cache of its own for tests that read files."""
from __future__ import annotations

import pytest


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """An empty cache folder, which $RHEOS_CACHE names."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RHEOS_CACHE", str(folder))
    return folder
