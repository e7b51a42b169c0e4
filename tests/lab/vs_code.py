"""VS Code in a page: what its users click and type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.lab.browser import host_of

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator, Page

TRUST = re.compile("Yes, I trust the authors")


@dataclass(frozen=True, slots=True)
class VsCode:
    """The service `code` of alice's session, in a page of a browser that is logged in."""

    page: Page
    session: str

    @property
    def dialog(self) -> Locator:
        return self.page.locator(".monaco-dialog-box")

    @property
    def editor(self) -> Locator:
        """The lines of the editor that is shown."""
        return self.page.locator(".editor-instance .monaco-editor .view-lines").first

    def open_folder(self, folder: str) -> None:
        """Open a folder of the home, and trust its authors, as VS Code asks in each new browser."""
        self.page.goto(f"{host_of('code', self.session, 'alice')}?folder=/home/alice/{folder}")
        self.dialog.get_by_role("button", name=TRUST).click()
        expect(self.dialog).to_have_count(0)

    def open_file(self, name: str) -> None:
        """Open a file of the folder, to stay open."""
        self.page.get_by_role("treeitem", name=name).dblclick()
        expect(self.page.get_by_role("tab", name=name)).to_be_visible()

    def type_at_end(self, text: str) -> None:
        """Type a text after the last line of the file that is shown."""
        self.editor.click()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.insert_text(text)

    def save(self) -> None:
        self.page.keyboard.press("Control+s")

    def run_command(self, title: str) -> None:
        """Run a command of the palette."""
        self.page.keyboard.press("F1")
        self.page.locator(".quick-input-widget input").fill(f">{title}")
        self.page.locator(".quick-input-list").get_by_role("option", name=title).first.click()

    def open_terminal(self) -> None:
        """Open the terminal, and wait for the prompt of its shell."""
        self.run_command("Terminal: Create New Terminal")
        self.page.locator(".terminal-wrapper.active .xterm-helper-textarea").wait_for(state="attached")
        expect(self.page.locator(".terminal-wrapper.active .xterm-screen")).to_be_visible()

    def type_in_terminal(self, line: str) -> None:
        """Type a line and Enter into the terminal, wherever the focus is."""
        self.page.locator(".terminal-wrapper.active .xterm-helper-textarea").focus()
        self.page.keyboard.type(line + "\n")

    def preview(self) -> FrameLocator:
        """The content of the preview that is shown."""
        return self.page.frame_locator("iframe.webview.ready").frame_locator("#active-frame")
