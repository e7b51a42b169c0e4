"""JupyterLab and VS Code in Chromium on the lab, from the shipped profiles that have them.

`make soak ARGS=tests/lab/test_web_editors.py` runs this file alone. The first run builds the profile `triton-xpu-code`.
CUT_S sets how long the network is cut, in seconds.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from slurm.lab.progress import ProgressLog
from tests.lab.browser import PORTAL, host_of, open_service, type_in_terminal
from tests.lab.network_cut import cut_network
from tests.lab.notebook import Notebook
from tests.lab.test_web_services import open_ports
from tests.lab.test_web_work import pane, vim_answers, wait_for_text
from tests.lab.vs_code import VsCode
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, Page

    from tests.lab.conftest import User
    from tests.site.deploy import Site

pytestmark = pytest.mark.soak

CUT_S = float(os.environ.get("CUT_S", "600"))
NOTEBOOK = "mask.ipynb"
PRINT_MASK = 'import os; print("mask:", os.environ["ZE_AFFINITY_MASK"])'
NETWORK_IS_BACK = "network-is-back"
WAIT_IN_CELL = f"""import os, time
while not os.path.exists("{NETWORK_IS_BACK}"): time.sleep(0.2)
print("the cell has ended")"""
PIXELS = 3
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAMAAAADCAIAAADZSiLoAAAAEElEQVR42mP4z8AAQQxYWACPjgj4eWJrNgAAAABJRU5ErkJggg=="
"""A PNG of so many pixels in each direction, in base64."""
LIST_SERVICE_WORKERS = "navigator.serviceWorker.getRegistrations().then(found => found.map(each => each.scope))"
READ_CLIPBOARD = "navigator.clipboard.readText()"


@pytest.fixture(scope="module")
def dev(site: Site, people: dict[str, User]) -> Iterator[str]:
    """A session of alice's with a GPU and both services."""
    for profile in ("triton-xpu", "triton-xpu-code"):
        deploy.build_profile(site, profile, ProgressLog())
    alice = people["alice"]
    alice.ok("start", "editors", "--profile", "triton-xpu-code", "--gres=gpu:intel:1", "--mem=3G", seconds=300)
    yield "editors"
    alice.remove("editors")


def in_session(user: User, session: str, command: str) -> str:
    return user.berth("ssh", session, command).stdout.decode()


def wait_for_content(user: User, session: str, file: str, text: str) -> None:
    """Wait until a file of the home has a text."""
    wait_for(lambda: text in in_session(user, session, f"cat {file}"), what=f"{text!r} in {file}")


def open_vs_code(page: Page, user: User, session: str, folder: str, files: dict[str, str]) -> VsCode:
    """Log in, and open a new folder with these files."""
    user.ok("ssh", session, f"rm -rf {folder}; mkdir {folder}")
    for name, text in files.items():
        user.ok("ssh", session, f"cat >{folder}/{name}", stdin=text.encode())
    open_service(page, user, session, "code")
    code = VsCode(page, session)
    code.open_folder(folder)
    return code


def mark_load(*pages: Page) -> None:
    for page in pages:
        page.evaluate("window.isFirstLoad = true")


def assert_not_loaded_again(*pages: Page) -> None:
    assert [page.evaluate("window.isFirstLoad === true") for page in pages] == [True] * len(pages)


def test_notebook_prints_the_gpu_mask_and_is_found_after_a_stop(alice: User, dev: str, page: Page) -> None:
    mask = in_session(alice, dev, 'echo "$ZE_AFFINITY_MASK"').strip()
    assert mask
    open_service(page, alice, dev, "jupyter")
    notebook = Notebook(page, dev)
    notebook.create()
    notebook.run(PRINT_MASK)
    expect(notebook.outputs.first).to_have_text(f"mask: {mask}")
    notebook.save_as(NOTEBOOK)
    wait_for_content(alice, dev, NOTEBOOK, f"mask: {mask}")
    cells = json.loads(in_session(alice, dev, f"cat {NOTEBOOK}"))["cells"]
    assert cells[0]["source"] == [PRINT_MASK]

    alice.ok("stop", dev)
    alice.ok("start", dev)
    open_service(page, alice, dev, "jupyter")
    notebook.open(NOTEBOOK)
    expect(notebook.outputs.first).to_have_text(f"mask: {mask}")


def test_vs_code_edits_a_file_of_a_folder_and_saves_it(alice: User, dev: str, page: Page) -> None:
    code = open_vs_code(page, alice, dev, "project", {"answer.py": "answer = 41\n"})
    code.open_file("answer.py")
    expect(code.editor).to_contain_text("answer")
    code.type_at_end("answer = 42")
    code.save()
    wait_for_content(alice, dev, "project/answer.py", "answer = 41\nanswer = 42")
    view = alice.show(dev)
    assert open_ports(alice, view["endpoint"]["node"]) == {view["endpoint"]["port"]}
    assert "User" in in_session(alice, dev, "ls ~/.local/share/code-server")


def test_terminal_of_vs_code_is_a_shell_of_the_session(alice: User, dev: str, page: Page) -> None:
    code = open_vs_code(page, alice, dev, "shell", {})
    code.open_terminal()
    code.type_in_terminal("echo $PWD $ZE_AFFINITY_MASK >facts.txt")
    mask = in_session(alice, dev, 'echo "$ZE_AFFINITY_MASK"').strip()
    wait_for_content(alice, dev, "shell/facts.txt", f"/home/alice/shell {mask}\n")
    code.type_in_terminal("code facts.txt")
    expect(page.get_by_role("tab", name="facts.txt")).to_be_visible()


def test_previews_and_service_worker_of_vs_code_are_of_its_own_origin(alice: User, dev: str, page: Page) -> None:
    code = open_vs_code(page, alice, dev, "notes", {"notes.md": "# Results\n\nIt is **fast**.\n"})
    alice.ok("ssh", dev, "cat >notes/plot.png", stdin=base64.b64decode(PICTURE))
    code.open_file("notes.md")
    code.run_command("Markdown: Open Preview")
    expect(code.preview().get_by_role("heading", name="Results")).to_be_visible()
    expect(code.preview().locator("strong")).to_have_text("fast")
    code.run_command("View: Close All Editors")
    code.open_file("plot.png")
    picture = code.preview().locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("element => element.naturalWidth") == PIXELS

    origin = host_of("code", dev, "alice")
    workers = page.evaluate(LIST_SERVICE_WORKERS)
    assert workers
    assert all(scope.startswith(origin) for scope in workers)
    for other in (host_of("jupyter", dev, "alice"), host_of("terminal", dev, "alice"), f"{PORTAL}/"):
        page.goto(other)
        assert page.evaluate("location.origin") + "/" == other
        assert page.evaluate(LIST_SERVICE_WORKERS) == []


def test_vs_code_copies_and_pastes_in_editor_and_terminal(
    alice: User, dev: str, context: BrowserContext, page: Page
) -> None:
    code = open_vs_code(page, alice, dev, "clips", {"words.txt": "some words"})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=host_of("code", dev, "alice"))
    code.open_file("words.txt")
    code.editor.click()
    for keys in ("Control+a", "Control+c", "Control+End", "Control+v"):
        page.keyboard.press(keys)
    code.save()
    wait_for_content(alice, dev, "clips/words.txt", "some wordssome words")
    assert page.evaluate(READ_CLIPBOARD) == "some words"

    code.open_terminal()
    page.keyboard.type("echo pasted ")
    page.keyboard.press("Control+Shift+V")
    page.keyboard.type(" >pasted.txt\n")
    wait_for_content(alice, dev, "clips/pasted.txt", "pasted some words\n")

    code.type_in_terminal("clear; echo from-terminal-$((40 + 2)); touch printed")
    wait_for(lambda: "printed" in in_session(alice, dev, "ls clips"), what="the output in the terminal")
    code.run_command("Terminal: Select All")
    page.keyboard.press("Control+Shift+C")
    code.type_at_end("")
    page.keyboard.press("Control+v")
    code.save()
    wait_for_content(alice, dev, "clips/words.txt", "from-terminal-42")


def test_terminal_copies_what_is_selected_and_pastes(
    alice: User, dev: str, context: BrowserContext, page: Page
) -> None:
    open_service(page, alice, dev, "terminal")
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=host_of("terminal", dev, "alice"))
    type_in_terminal(page, "clear; echo copied-$((40 + 2))")
    wait_for_text(alice, dev, "copied-42")
    page.locator(".xterm-screen").dblclick(
        position={"x": 20, "y": 8}, modifiers=["Shift"]
    )  # tmux has the mouse without
    wait_for(lambda: page.evaluate(READ_CLIPBOARD) == "copied-42", what="the selection in the clipboard")
    page.keyboard.type("echo pasted >")
    page.keyboard.press("Control+Shift+V")
    page.keyboard.press("Enter")
    wait_for_content(alice, dev, "copied-42", "pasted\n")


def test_vs_code_goes_on_by_itself_after_lost_connections(alice: User, dev: str, page: Page, crashing: Site) -> None:
    code = open_vs_code(page, alice, dev, "lost", {"story.txt": "Once"})
    code.open_file("story.txt")
    code.open_terminal()
    code.type_in_terminal("mark=of-$((40 + 2))")
    mark_load(page)
    for program, text in (("ssh", " there was a tunnel"), ("haproxy", " and a proxy")):
        crashing.lab.sh(f"pkill -KILL -u berth-web {program}")
        code.type_at_end(text)
        code.save()
        wait_for_content(alice, dev, "lost/story.txt", text)
    code.type_in_terminal("echo it is $mark >mark.txt")
    wait_for_content(alice, dev, "lost/mark.txt", "it is of-42\n")
    assert in_session(alice, dev, "cat lost/story.txt") == "Once there was a tunnel and a proxy"
    assert_not_loaded_again(page)


@pytest.mark.parametrize("restarts", [False, True], ids=["cut", "cut-and-restart"])
def test_work_goes_on_by_itself_after_a_cut_of_the_network(
    alice: User, dev: str, context: BrowserContext, crashing: Site, *, restarts: bool
) -> None:
    """vim is open, a cell runs, and VS Code has text that it could not save."""
    terminal, laboratory, editor = (context.new_page() for _ in range(3))
    code = open_vs_code(editor, alice, dev, "cut", {"story.txt": "Before"})
    code.open_file("story.txt")
    code.open_terminal()
    code.type_in_terminal("mark=of-$((40 + 2))")
    laboratory.goto(host_of("jupyter", dev, "alice"))
    notebook = Notebook(laboratory, dev)
    alice.ok("ssh", dev, f"rm -f {NETWORK_IS_BACK}")
    notebook.create()
    notebook.dismiss_errors()
    notebook.run("print('a cell runs')")
    expect(notebook.outputs.first).to_have_text("a cell runs")
    notebook.run(WAIT_IN_CELL)
    terminal.goto(host_of("terminal", dev, "alice"))
    type_in_terminal(terminal, "clear; vim.tiny cut/vim.txt")
    wait_for(lambda: pane(alice, dev)[1] == "vim.tiny", what="vim")
    shell = pane(alice, dev)[0]
    terminal.keyboard.type("iBefore")
    wait_for_text(alice, dev, "Before")
    mark_load(terminal, laboratory, editor)

    with cut_network(crashing.lab):
        code.type_at_end(" and after")
        code.save()
        terminal.wait_for_timeout(CUT_S * 1000 / 2)
        if restarts:
            for service in ("web", "gateway"):
                crashing.kill(service)
                crashing.start(service)
        terminal.wait_for_timeout(CUT_S * 1000 / 2)
    alice.ok("ssh", dev, f"touch {NETWORK_IS_BACK}")

    expect(notebook.outputs.last).to_have_text("the cell has ended")
    notebook.run("print(6 * 7)")
    expect(notebook.outputs.last).to_have_text("42")
    wait_for_content(alice, dev, "cut/story.txt", "Before and after")
    code.type_in_terminal("echo it is $mark >mark.txt")
    wait_for_content(alice, dev, "cut/mark.txt", "it is of-42\n")
    wait_for(lambda: vim_answers(alice, dev, terminal), what="vim in the page")
    assert pane(alice, dev)[:2] == [shell, "vim.tiny"]
    terminal.keyboard.type("A and after")
    terminal.keyboard.press("Escape")
    terminal.keyboard.type(":wq\n")
    wait_for_content(alice, dev, "cut/vim.txt", "Before and after\n")
    assert_not_loaded_again(terminal, laboratory, editor)
