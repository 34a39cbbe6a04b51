"""What tests of several commands need."""
from __future__ import annotations

import signal

import pytest

from rheos.cli import build
from rheos.cli.errors import run as run_app


@pytest.fixture
def ctrl_c():
    """SIGINT as Python begins with it: a parent such as nohup or a shell in the background may have had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def cli(capsys):
    """Run a command line; gives exit code, stdout, stderr."""
    def call(*argv):
        code = run_app(build(), [str(argument) for argument in argv])
        out, err = capsys.readouterr()
        return code, out, err
    return call
