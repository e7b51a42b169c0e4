"""Open addresses in the user's browser, where there is a display."""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import threading
from pathlib import Path

from broker.cli import output

REDIRECT_NAME = "berth-login.html"
"""The file in $XDG_RUNTIME_DIR, which is private to the user; the next login replaces it."""
OPENER_WAIT_S = 2.0
"""Seconds to learn that the desktop cannot open a page. Some desktops keep xdg-open running as long as the browser."""


def has_display() -> bool:
    """Whether this machine can open a browser or an IDE for the user."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) and shutil.which("xdg-open") is not None


def open_address(url: str) -> None:
    """Hand the address to the desktop; print a failure. Return when the browser has ended, if the desktop waits for it.

    The browser is in a session of its own, so that Ctrl-C does not reach it.
    """
    opener, nothing = shutil.which("xdg-open") or "xdg-open", subprocess.DEVNULL
    try:
        done = subprocess.run(
            [opener, url], stdin=nothing, stdout=nothing, stderr=nothing, check=False, start_new_session=True
        )
        failure = f"xdg-open ended with {done.returncode}" if done.returncode else ""
    except OSError as error:
        failure = str(error.strerror)
    if failure:
        output.print_note(f"the browser could not be opened: {failure}")


def open_secret_address(url: str) -> None:
    """Open an address with a secret where there is a display; print a failure.

    Other users can read the arguments of a program. So the browser gets a file that leads to the address, in a
    directory that is private to the user.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime or not has_display():
        return
    page = Path(runtime) / REDIRECT_NAME
    content = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={html.escape(url)}">\n'
    try:
        page.unlink(missing_ok=True)
        with os.fdopen(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        output.print_note(f"the browser could not be opened: {error}")
        return
    opening = threading.Thread(target=open_address, args=[page.as_uri()], daemon=True)
    opening.start()
    opening.join(OPENER_WAIT_S)
