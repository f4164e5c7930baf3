"""The system's Chromium, headless, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "there is no chromium, chromium-browser or google-chrome on the path"

# No sandbox: Chromium has none for root. No shared memory: a container's is small. The rest keeps it off the network.
_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
_TIMEOUT = 60_000  # MLflow's first page takes most of it on a busy machine

expect.set_options(timeout=_TIMEOUT)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium for the length of the block."""
    if PROGRAM is None:
        raise FileNotFoundError(MISSING)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=PROGRAM, args=_ARGS) as browser:
        yield browser


def new_page(browser: Browser) -> Page:
    """Open a page that shares nothing with others, in a window of 1280 by 900."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(_TIMEOUT)
    return page
