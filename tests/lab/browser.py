"""Chromium in the network of a lab's login node, where every name below `.localhost` leads to berth-web's HAProxy."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from slurm.lab import network
from slurm.lab.spec import LOGIN
from tests.chromium import chromium_program, running_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.lab_cluster import Lab


@contextlib.contextmanager
def chromium_on_login(lab: Lab, directory: Path) -> Iterator[Browser]:
    """Run Chromium, with the machine's files and the login node's network, for the time of the block."""
    namespace = network.NAMESPACES / lab.place.netns(LOGIN)
    wrapper = directory / "chromium"
    wrapper.write_text(f'#!/bin/sh\nexec nsenter --net={namespace} {chromium_program()} "$@"\n')
    wrapper.chmod(0o755)
    with running_chromium(wrapper) as browser:
        yield browser
