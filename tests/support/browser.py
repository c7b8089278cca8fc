"""Pages in a real headless Chromium, with what they requested and what they reported."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="needs a headless Chromium; on Debian: apt-get install chromium"
)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


@dataclass
class Visit:
    """An open page; `hosts` of its requests, `errors` of its scripts and console."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Wait for what the page shows; its events arrive meanwhile."""

        def holds() -> object:
            self.page.wait_for_timeout(50)
            return condition()

        wait_until(holds, timeout_s)


Visitor = Callable[..., Visit]


@contextmanager
def open_browser() -> Iterator[Visitor]:
    """A function that opens a URL in a new page, with the options of a browser context."""
    with sync_playwright() as playwright:
        browser: Browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))

        def visit(url: str, **options: Any) -> Visit:
            visited = Visit(browser.new_context(**options).new_page())
            visited.page.goto(url)
            return visited

        yield visit
        browser.close()
