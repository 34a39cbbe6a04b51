"""The `seed` fixture, one torch thread, and a limit of CPU time for every test. Imports nothing of rheos: type checking hooks must come first."""
from __future__ import annotations

import os
import random
import time

import pytest

HARD_SECONDS = 10.0


def pytest_addoption(parser):
    parser.addoption("--seed", default="0", help="seed of random tests: a number from 0 to 99, or 'any'")


def pytest_configure(config):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def seed(request) -> int:
    """0, or what --seed says. Random tests must hold for every seed from 0 to 99."""
    asked = request.config.getoption("--seed")
    return random.SystemRandom().randrange(100) if asked == "any" else int(asked)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    begun = time.process_time()
    result = yield
    spent = time.process_time() - begun
    item.user_properties.append(("cpu_seconds", round(spent, 3)))
    limit = item.get_closest_marker("slow")
    allowed = float(limit.kwargs.get("seconds", 3 * HARD_SECONDS)) if limit else HARD_SECONDS
    if spent > allowed:
        pytest.fail(f"took {spent:.1f} s of CPU time, more than {allowed:g}: shrink the problem, or mark it slow and say why", pytrace=False)
    return result


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name == "README.md":
            item.add_marker(pytest.mark.slow(seconds=60))      # it trains a network


@pytest.fixture(autouse=True)
def _documentation_runs_elsewhere(request):
    """Examples in documentation may write files: they run in a folder of their own."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture
def ctrl_c():
    """SIGINT as Python begins with it: a parent such as nohup or a shell in the background may have had it ignored."""
    import signal

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
