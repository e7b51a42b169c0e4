"""Chromium in the network of a lab's login node, where every name below `.localhost` leads to berth-web's HAProxy.

And what its pages are used for: to log in, and to work in a terminal.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from playwright.sync_api import Error as PlaywrightError

from slurm.lab import network
from slurm.lab.spec import LOGIN
from tests.chromium import DEADLINE_MS, chromium_program, running_chromium
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

PORTAL = f"http://{deploy.WEB_HOST}:{deploy.WEB_PORT}"


@contextlib.contextmanager
def chromium_on_login(lab: Lab, directory: Path) -> Iterator[Browser]:
    """Run Chromium, with the machine's files and the login node's network, for the time of the block."""
    namespace = network.NAMESPACES / lab.place.netns(LOGIN)
    wrapper = directory / "chromium"
    wrapper.write_text(f'#!/bin/sh\nexec nsenter --net={namespace} {chromium_program()} "$@"\n')
    wrapper.chmod(0o755)
    with running_chromium(wrapper) as browser:
        yield browser


@contextlib.contextmanager
def new_browser(chromium: Browser) -> Iterator[BrowserContext]:
    """Have a browser without cookies, which waits as long as tests do, for the time of the block."""
    with chromium.new_context() as context:
        context.set_default_timeout(DEADLINE_MS)
        yield context


def host_of(service: str, session: str, user: str) -> str:
    """Return the address of a service."""
    return f"http://{service}--{session}--{user}.berth.localhost:{deploy.WEB_PORT}/"


def login_link(user: User, *command: str) -> str:
    """Return the link that a command of the user prints."""
    output = user.ok(*command, "--print")
    found = re.search(rf"{re.escape(PORTAL)}/login#\S+", output)
    assert found, output
    return found[0]


def log_in(page: Page, user: User, *command: str) -> None:
    """Follow the link that a command of the user prints, and confirm whose login it is."""
    page.goto(login_link(user, *command))
    page.get_by_role("button", name="Log in as").click()


def open_service(page: Page, user: User, session: str, service: str) -> None:
    """Log in and come to a service of the user's session."""
    log_in(page, user, "open", session, service)
    page.wait_for_url(f"{host_of(service, session, user.name)}**")


def wait_for_terminal(page: Page) -> None:
    page.locator(".xterm-helper-textarea").wait_for(state="attached")


def type_in_terminal(page: Page, line: str) -> None:
    """Type a line and Enter."""
    wait_for_terminal(page)
    page.keyboard.type(line + "\n")


def reopen(page: Page, address: str) -> None:
    """Load a page until berth-web answers again, and wait for the terminal."""

    def answers() -> bool:
        try:
            page.goto(address)
        except PlaywrightError:
            return False
        return True

    wait_for(answers, what=f"an answer at {address}")
    wait_for_terminal(page)
