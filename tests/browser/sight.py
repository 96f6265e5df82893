"""What a person sees of the page: one window of a browser, which minds every error and everything that was executed."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser.place import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator

PATIENCE = 30_000
"""Milliseconds after which what should be seen is not there."""
WATCHING = """
document.addEventListener("securitypolicyviolation", event =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""
NETWORK = re.compile(r"Failed to load resource|WebSocket connection to|net::ERR_")


class Sight:
    """One window at a gateway's page. `troubles` are errors of the console, violated policies and dialogs."""

    def __init__(self, browser: "Browser", served: Served, name: str, settings: Mapping[str, Any]) -> None:
        self.served, self._name, self._shots = served, name, 0
        self.troubles: list[str] = []
        self.tolerant = False
        """Whether requests may fail, because the test sees to it that they do."""
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(PATIENCE)
        self.context.add_init_script(WATCHING)
        self.page = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._mind)

    def go(self, path: str) -> None:
        """Open a view, such as `#/threads`."""
        self.page.goto(f"{self.served.url}/{path}")

    def see(self, what: "Locator | str", text: str | re.Pattern[str] | None = None) -> "Locator":
        """Wait until that is to be seen, with that text in it."""
        from playwright.sync_api import expect

        found = self.page.get_by_text(what).first if isinstance(what, str) else what
        expect(found).to_be_visible(timeout=PATIENCE)
        if text is not None:
            expect(found).to_contain_text(text, timeout=PATIENCE)
        return found

    def gone(self, what: "Locator") -> None:
        """Wait until nothing of that is to be seen."""
        from playwright.sync_api import expect

        expect(what).to_have_count(0, timeout=PATIENCE)

    def reads(self, what: "Locator", text: str) -> None:
        """Wait until that consists of exactly this text, whitespace aside."""
        from playwright.sync_api import expect

        expect(what).to_have_text(text, timeout=PATIENCE)

    # ------------------------------------------------------------------ of a thread

    def answer(self, agent: str) -> "Locator":
        """The message of an agent."""
        return self.page.locator("li.message.is-agent").filter(has=self.page.locator(".author", has_text=agent))

    def text_of(self, agent: str) -> "Locator":
        """What it wrote."""
        return self.answer(agent).locator(".prose")

    def decided(self, agent: str) -> "Locator":
        """What came of it."""
        return self.answer(agent).locator(".decided")

    def write(self, text: str) -> None:
        """Post a message, as a person does who uses a mouse."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.get_by_role("button", name="Post", exact=True).click()

    # ------------------------------------------------------------------ with the hands

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def settled(self) -> None:
        """Wait until what the view asked for has been answered, and is drawn."""
        self.page.wait_for_load_state("networkidle")
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def is_no_wider_than_its_window(self) -> None:
        """Nothing has to be scrolled to the side."""
        root = "document.documentElement"
        assert self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0

    def shot(self, what: str) -> None:
        """Keep a picture in the folder that TEST_SCREENSHOTS names, if it names one."""
        if folder := os.environ.get("TEST_SCREENSHOTS"):
            self._shots += 1
            plain = re.sub(r"[^\w-]+", "-", f"{self._name}-{self._shots}-{what}")
            self.page.screenshot(path=Path(folder) / f"{plain}.png", full_page=True)

    def close(self) -> None:
        """Close the window."""
        self.shot("end")
        self.context.close()

    def _hear(self, message: "ConsoleMessage") -> None:
        if message.type == "error" and not (self.tolerant and NETWORK.search(message.text)):
            self.troubles.append(f"console: {message.text}")

    def _mind(self, request: Any) -> None:
        if not request.url.startswith((self.served.url, "blob:", "data:", self.served.url.replace("http", "ws", 1))):
            self.troubles.append(f"loaded from elsewhere: {request.url}")
