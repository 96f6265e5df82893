"""These tests run where they are asked for by name: `make test-all` sees to systemd first."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of a run of all tests."""
    return None if any("tests/systemd" in argument for argument in config.args) else True
