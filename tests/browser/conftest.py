"""Fixtures of the browser: one for a module, a fresh page for a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.launch import chromium, new_page


# Not for the session: while Playwright's synchronous API runs, `asyncio.run` fails in this thread, in other modules' tests too.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with new_page(browser) as page:
        yield page
