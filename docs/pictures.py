"""Take the README's pictures of the page: `make pictures`, while `make demo` is alive."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
CARDS = 9
"""Cards that request data."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8124/", help="address of the page")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium", help="the browser")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        for scheme, place in (("light", "main"), ("dark", "#volatility")):
            page = browser.new_context(
                viewport={"width": 1280, "height": 1500}, color_scheme=scheme
            ).new_page()
            page.goto(arguments.url)
            _wait(page)
            page.evaluate("place => document.querySelector(place).scrollIntoView()", place)
            page.wait_for_timeout(500)
            page.screenshot(path=DOCS / f"page-{scheme}.png")
        browser.close()


def _wait(page: Page) -> None:
    """Until every card has drawn."""
    for _ in range(1200):
        if page.locator(".card[data-version]").count() == CARDS:
            return
        page.wait_for_timeout(100)
    raise SystemExit("The page has not drawn its charts after two minutes; is `make demo` alive?")


if __name__ == "__main__":
    main()
