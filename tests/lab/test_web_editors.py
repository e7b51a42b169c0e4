"""JupyterLab and VS Code in Chromium on the lab, from the shipped profiles that have them.

`make soak ARGS=tests/lab/test_web_editors.py` runs this file alone. The first run builds the profile `triton-xpu-code`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.lab import images
from tests.lab.browser import host_of, open_service
from tests.lab.test_web_services import open_ports
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

pytestmark = pytest.mark.soak

NOTEBOOK = "mask.ipynb"
PRINT_MASK = 'import os; print("mask:", os.environ["ZE_AFFINITY_MASK"])'


@pytest.fixture(scope="module")
def dev(lab: Lab, people: dict[str, User]) -> Iterator[str]:
    """A session of alice's with a GPU and both services."""
    for profile in ("triton-xpu", "triton-xpu-code"):
        images.published(lab, profile)
    alice = people["alice"]
    alice.ok("start", "editors", "--profile", "triton-xpu-code", "--gres=gpu:intel:1", "--mem=3G", seconds=300)
    yield "editors"
    alice.remove("editors")


def in_session(user: User, session: str, command: str) -> str:
    return user.berth("ssh", session, command).stdout.decode()


def open_notebook(page: Page, session: str) -> None:
    """Show the notebook, also in a page that shows it already."""
    page.goto(f"{host_of('jupyter', session, 'alice')}lab/tree/{NOTEBOOK}")
    page.locator(".jp-Notebook").wait_for()


def test_notebook_prints_the_gpu_mask_and_is_found_after_a_stop(alice: User, dev: str, page: Page) -> None:
    mask = in_session(alice, dev, 'echo "$ZE_AFFINITY_MASK"').strip()
    assert mask
    open_service(page, alice, dev, "jupyter")
    page.get_by_title("Python 3 (ipykernel)").first.click()
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.insert_text(PRINT_MASK)
    page.keyboard.press("Shift+Enter")
    output = page.locator(".jp-OutputArea-output").first
    expect(output).to_have_text(f"mask: {mask}")
    page.keyboard.press("Control+s")
    name = page.get_by_role("dialog").get_by_role("textbox")  # JupyterLab asks once for a notebook's name
    name.fill(NOTEBOOK)
    name.press("Enter")
    wait_for(lambda: f"mask: {mask}" in in_session(alice, dev, f"cat {NOTEBOOK}"), what="the notebook to be saved")
    cells = json.loads(in_session(alice, dev, f"cat {NOTEBOOK}"))["cells"]
    assert cells[0]["source"] == [PRINT_MASK]

    alice.ok("stop", dev)
    alice.ok("start", dev)
    open_service(page, alice, dev, "jupyter")
    open_notebook(page, dev)
    expect(page.locator(".jp-OutputArea-output").first).to_have_text(f"mask: {mask}")


def test_vs_code_shows_a_folder_listens_on_its_socket_and_keeps_its_files_in_the_home(
    alice: User, dev: str, page: Page
) -> None:
    in_session(alice, dev, "mkdir -p project; echo 'answer = 41' >project/answer.py")
    open_service(page, alice, dev, "code")
    page.goto(f"{host_of('code', dev, 'alice')}?folder=/home/alice/project")
    expect(page.get_by_role("treeitem", name="answer.py")).to_be_visible()
    view = alice.show(dev)
    assert open_ports(alice, view["endpoint"]["node"]) == {view["endpoint"]["port"]}
    assert "User" in in_session(alice, dev, "ls ~/.local/share/code-server")
