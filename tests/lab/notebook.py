"""JupyterLab in a page: a notebook, its cells and their output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.lab.browser import host_of

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


@dataclass(frozen=True, slots=True)
class Notebook:
    """A notebook of the service `jupyter` of alice's session, in a page of a browser that is logged in."""

    page: Page
    session: str

    @property
    def outputs(self) -> Locator:
        return self.page.locator(".jp-OutputArea-output")

    def create(self) -> None:
        """Make a new notebook."""
        self.page.goto(f"{host_of('jupyter', self.session, 'alice')}lab?reset")
        self.page.get_by_title("Python 3 (ipykernel)").first.click()
        expect(self.page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute("data-status", "idle")

    def open(self, name: str) -> None:
        """Show a notebook of the home, also in a page that shows it already."""
        self.page.goto(f"{host_of('jupyter', self.session, 'alice')}lab/tree/{name}")
        self.page.locator(".jp-Notebook").wait_for()

    def run(self, code: str) -> None:
        """Type code into the last cell, and run it; a new cell is the last one then."""
        cells = self.page.locator(".jp-Notebook .jp-CodeCell .cm-content")
        count = cells.count()
        cells.last.click()
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Shift+Enter")
        expect(cells).to_have_count(count + 1)

    def dismiss_errors(self) -> None:
        """Dismiss each message that the server is not reachable, whenever it is in the way of something else."""
        button = self.page.get_by_role("dialog").get_by_role("button", name="Dismiss")
        self.page.add_locator_handler(button, lambda each: each.click())

    def save_as(self, name: str) -> None:
        """Save the notebook for the first time: JupyterLab asks for its name."""
        self.page.keyboard.press("Control+s")
        field = self.page.get_by_role("dialog").get_by_role("textbox")
        field.fill(name)
        field.press("Enter")
