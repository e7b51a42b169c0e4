"""VS Code in a page: what its users click and type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.lab.browser import host_of

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator, Page


@dataclass(frozen=True, slots=True)
class VsCode:
    """The service `code` of alice's session, in a page of a browser that is logged in."""

    page: Page
    session: str

    @property
    def editor(self) -> Locator:
        """The lines of the editor that is shown."""
        return self.page.locator(".editor-instance .monaco-editor .view-lines").first

    def open_folder(self, folder: str) -> None:
        """Open a folder of the home, and trust its authors: VS Code is in Restricted Mode in each new browser."""
        self.page.goto(f"{host_of('code', self.session, 'alice')}?folder=/home/alice/{folder}")
        banner = self.page.get_by_role("banner").or_(self.page.locator(".part.banner"))
        banner.get_by_role("button", name="Manage").click()
        trust = self.page.locator(".workspace-trust-editor")
        trust.get_by_role("button", name="Trust", exact=True).click()
        expect(trust).to_contain_text("You trust the authors")
        self.page.keyboard.press("Control+w")

    def hide_chat(self) -> None:
        """Hide the view that VS Code opens beside the editor."""
        self.page.get_by_role("button", name="Hide Secondary Side Bar").click()

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
