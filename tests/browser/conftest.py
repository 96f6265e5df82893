"""These tests run where they are asked for by name: `make test-all` sees to Chromium first."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.brokers.node import Installation, Node
from tests.browser.place import Place, Served
from tests.browser.sight import PATIENCE, Sight
from tests.daemons.harness import Nursery

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but loopback is reached, whatever the page would like.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of a run of all tests."""
    return None if any("tests/browser" in argument for argument in config.args) else True


def program() -> str:
    """The machine's own Chromium."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert found, "no Chromium: run tests/browser/install.sh"
    return found


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What forks the processes of all tests."""
    nursery = Nursery("agentq.cli.serve", "agentq.gateway.server")
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """The machine's own Chromium; every test gets contexts of it that know nothing of each other."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def place(tmp_path: Path, nursery: Nursery) -> Iterator[Place]:
    """A deployment with the embedded engine."""
    place = Place(tmp_path, nursery, {"AGENTQ_BROKER": f"sqlite://{tmp_path}/queue.db"})
    yield place
    place.close()


@pytest.fixture(params=["sqlite", "rabbitmq"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path, nursery: Nursery) -> Iterator[Place]:
    """A deployment on each engine in turn."""
    if request.param == "sqlite":
        yield request.getfixturevalue("place")
        return
    place = Place(tmp_path, nursery, on(request.getfixturevalue("rabbitmq")))
    yield place
    place.close()


@pytest.fixture(scope="session")
def stopped_broker(rabbitmq_installations: dict[str, Installation]) -> Iterator[Node]:
    """A node for the tests that stop it."""
    with next(iter(rabbitmq_installations.values())).new() as node:
        yield node


@pytest.fixture
def on_broker(stopped_broker: Node, tmp_path: Path, nursery: Nursery) -> Iterator[Place]:
    """A deployment on that node, which runs."""
    place = Place(tmp_path, nursery, on(stopped_broker.start()))
    yield place
    place.close()


@pytest.fixture
def gateway(place: Place) -> Served:
    """A gateway of the place with the embedded engine."""
    return place.serve()


@pytest.fixture
def look(browser: "Browser", request: pytest.FixtureRequest) -> "Iterator[Callable[..., Sight]]":
    """Each call opens the page in a browser window of its own; in the end none of them saw an error."""
    sights: list[Sight] = []

    def opened(served: Served, path: str = "", **settings: object) -> Sight:
        sights.append(Sight(browser, served, request.node.name, settings))
        sights[-1].go(path)
        return sights[-1]

    yield opened
    for sight in sights:
        sight.close()
    assert [trouble for sight in sights for trouble in sight.troubles] == []


def on(node: Node) -> dict[str, str]:
    """The settings for a namespace of one's own on a broker."""
    return {"AGENTQ_BROKER": node.url, "AGENTQ_NAMESPACE": f"page-{secrets.token_hex(4)}"}


def pytest_configure() -> None:
    """Where screenshots go when nobody says otherwise: nowhere."""
    if folder := os.environ.get("TEST_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
