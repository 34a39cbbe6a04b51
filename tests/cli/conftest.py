"""What tests of several commands need."""
from __future__ import annotations

import pytest

from rheos.cli import build
from rheos.cli.errors import run as run_app


@pytest.fixture
def cli(capsys):
    """Run a command line; gives exit code, stdout, stderr."""
    def call(*argv):
        code = run_app(build(), [str(argument) for argument in argv])
        out, err = capsys.readouterr()
        return code, out, err
    return call
