"""Chromium in the network of a lab's login node, where every name below `.localhost` leads to berth-web's HAProxy."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from playwright.sync_api import Browser, sync_playwright

from slurm.lab import network
from slurm.lab.spec import LOGIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab_cluster import Lab

NO_SANDBOX = "--no-sandbox"
"""Chromium needs it as root; it opens nothing but pages of the lab."""


@contextlib.contextmanager
def chromium_on_login(lab: Lab, directory: Path) -> Iterator[Browser]:
    """Run Chromium, with the machine's files and the login node's network, for the time of the block."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed: `make test-programs` installs it"
    namespace = network.NAMESPACES / lab.place.netns(LOGIN)
    wrapper = directory / "chromium"
    wrapper.write_text(f'#!/bin/sh\nexec nsenter --net={namespace} {program} "$@"\n')
    wrapper.chmod(0o755)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=wrapper, args=[NO_SANDBOX])
        yield browser
        browser.close()
