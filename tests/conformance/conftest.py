"""The gateway of these tests: a real server, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def engine_gateway() -> Iterator[int]:
    """The port at which the engine's door is, for whatever engine."""
    command = [sys.executable, "-m", "tests.conformance.doors"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.communicate()
