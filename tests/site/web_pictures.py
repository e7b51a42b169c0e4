"""The pictures of web access in docs/images: the portal, JupyterLab, VS Code and the terminal, of sessions on the lab.

`make web-pictures` makes them. The lab is that of `make demo`; it is brought up if it does not run, and stays up.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from playwright.sync_api import expect

from slurm.lab.progress import ProgressLog
from tests.chromium import DEADLINE_MS
from tests.lab.browser import PORTAL, chromium_on_login, host_of, type_in_terminal
from tests.lab.notebook import Notebook
from tests.lab.vs_code import VsCode
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page

NAME = os.environ.get("LAB_NAME", "lab")
USER = "alice"
PROFILES = ("base", "triton-xpu", "triton-xpu-code")
IMAGES = deploy.CHECKOUT / "docs/images"
SESSION = "dev"
SESSIONS = (SESSION, "docs", "train")
STEP_S = 300.0
DRAWING_MS = 2000
"""Time in which a page draws what its terminal has received."""
WIDTH, HEIGHT = 1100, 660
MAX_BYTES = 150_000
PROGRAM = '''\
"""Multiply two matrices."""

import os

GPU = os.environ["ZE_AFFINITY_MASK"]


def multiply(left, right):
    return [
        [sum(a * b for a, b in zip(row, column)) for column in zip(*right)]
        for row in left
    ]


if __name__ == "__main__":
    print("session with GPU", GPU)
    print(multiply([[1, 2], [3, 4]], [[5, 6], [7, 8]]))
'''
CELLS = (
    "import sys\nsys.path.append('work')\nimport matmul\n\nf'The GPU of this session: {matmul.GPU}'",
    "matmul.multiply([[1, 2], [3, 4]], [[5, 6], [7, 8]])",
)
PRODUCT = "[43, 50]"
"""The last row of the product."""
PREPARATION = (
    "berth start train --profile base --mem=500M --time=2:00:00",
    "berth set train --continue always",
    "berth start docs --profile base --mem=500M",
    "berth stop docs",
    f"berth start {SESSION} --profile triton-xpu-code --gres=gpu:intel:1 --mem=3G --time=8:00:00",
    f"berth exec {SESSION} -- sh -c {shlex.quote(f'mkdir -p work; printf %s {shlex.quote(PROGRAM)} >work/matmul.py')}",
    f"berth snapshot {SESSION} clean",
)


@dataclass(frozen=True, slots=True)
class WebPicture:
    """A page, in one colour scheme: what leads to its content from a browser that is logged in."""

    name: str
    scheme: Literal["light", "dark"]
    show: Callable[[deploy.Site, Page], None]

    @property
    def file(self) -> Path:
        return IMAGES / f"{self.name}.png"


def show_sessions(_: deploy.Site, page: Page) -> None:
    page.goto(f"{PORTAL}/")
    expect(page.get_by_role("link", name=SESSION, exact=True)).to_be_visible()


def show_session(_: deploy.Site, page: Page) -> None:
    page.goto(f"{PORTAL}/sessions/{SESSION}")
    expect(page.locator("#service-code")).to_be_visible()


def show_notebook(_: deploy.Site, page: Page) -> None:
    notebook = Notebook(page, SESSION)
    notebook.create()
    for cell in CELLS:
        notebook.run(cell)
    expect(notebook.outputs.last).to_contain_text(PRODUCT)


def show_editor(site: deploy.Site, page: Page) -> None:
    code = VsCode(page, SESSION)
    code.open_folder("work")
    code.hide_chat()
    code.open_terminal()
    code.type_in_terminal("clear; python3 matmul.py; touch .ran")
    code.open_file("matmul.py")
    expect(code.editor).to_contain_text("multiply")
    deploy.wait_until(
        lambda: ".ran" in site.run(f"berth exec {SESSION} -- ls -A work", user=USER), "its output", STEP_S
    )
    page.wait_for_timeout(DRAWING_MS)


def show_terminal(site: deploy.Site, page: Page) -> None:
    page.goto(host_of("terminal", SESSION, USER))
    type_in_terminal(page, "clear; vim.tiny -c 'set number' work/matmul.py")
    capture = f"berth exec {SESSION} -- tmux capture-pane -p -t web"
    deploy.wait_until(lambda: "Multiply" in site.run(capture, user=USER), "vim in the terminal", STEP_S)


PICTURES = (
    WebPicture("portal-sessions", "light", show_sessions),
    WebPicture("portal-session", "dark", show_session),
    WebPicture("web-jupyter", "light", show_notebook),
    WebPicture("web-code", "light", show_editor),
    WebPicture("web-terminal", "dark", show_terminal),
)


def main() -> int:
    progress = ProgressLog()
    site = deploy.up(NAME, progress=progress)
    for profile in PROFILES:
        deploy.build_profile(site, profile, progress)
    remove_sessions(site)
    try:
        for command in PREPARATION:
            site.run(command, user=USER, seconds=STEP_S)
        with tempfile.TemporaryDirectory() as folder, chromium_on_login(site.lab, Path(folder)) as chromium:
            for picture in PICTURES:
                progress.say(f"picture {picture.name}")
                take_picture(site, chromium, picture)
    finally:
        remove_sessions(site)
    return 0


def remove_sessions(site: deploy.Site) -> None:
    script = f"for name in {shlex.join(SESSIONS)}; do berth stop $name; berth delete $name --purge --yes; done"
    site.lab.run(["sh", "-c", script], user=USER, seconds=STEP_S)


def take_picture(site: deploy.Site, chromium: Browser, picture: WebPicture) -> None:
    """Write a picture. AssertionError if it is too large for a page of the documentation."""
    size = {"width": WIDTH, "height": HEIGHT}
    with chromium.new_context(color_scheme=picture.scheme, viewport=size) as context:  # type: ignore[arg-type]
        context.set_default_timeout(DEADLINE_MS)
        page = context.new_page()
        found = re.search(rf"{re.escape(PORTAL)}/login#\S+", site.run("berth portal --print", user=USER))
        assert found is not None
        page.goto(found[0])
        page.get_by_role("button", name="Log in as").click()
        page.wait_for_url(f"{PORTAL}/")
        picture.show(site, page)
        content = page.screenshot(animations="disabled", caret="hide")
    assert len(content) < MAX_BYTES, f"{picture.name} has {len(content)} bytes"
    picture.file.write_bytes(content)


if __name__ == "__main__":
    raise SystemExit(main())
