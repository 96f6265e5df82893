"""These tests run where they are asked for by name: `make test-all` fetches promtool for them first."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of a run of all tests."""
    return None if any("monitoring" in argument for argument in config.args) else True
