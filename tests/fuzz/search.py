"""A coverage-guided run of one target, by atheris (dependency group `fuzz`)."""

import sys

import atheris


def search(name: str, flags: list[str]) -> None:
    """Feed the target until its time is over; ends the process."""
    with atheris.instrument_imports(include=["agentq"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()
