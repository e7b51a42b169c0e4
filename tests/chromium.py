"""Chromium for tests, driven by Playwright: the distribution's own program, with the tests' deadline for every wait."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from playwright.sync_api import Browser, expect, sync_playwright

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_MS = DEADLINE_S * 1000
NO_SANDBOX = "--no-sandbox"
"""Chromium needs it as root; it opens nothing but pages of tests."""


def chromium_program() -> str:
    """Return the path of the program; AssertionError if it is not installed."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed: `make test-programs` installs it"
    return program


@contextlib.contextmanager
def running_chromium(program: str | Path) -> Iterator[Browser]:
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[NO_SANDBOX], timeout=DEADLINE_MS)
        yield browser
        browser.close()
