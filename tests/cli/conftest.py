"""What tests of several commands need."""
from __future__ import annotations

import signal

import pytest


@pytest.fixture
def ctrl_c():
    """SIGINT as Python begins with it: a parent such as nohup or a shell in the background may have had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
