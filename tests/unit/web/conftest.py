from __future__ import annotations

import pytest

from tests.fakes.portal_browser import PortalBrowser


@pytest.fixture
def browser() -> PortalBrowser:
    """A logged-in browser of alice's, who has the ready session dev."""
    made = PortalBrowser()
    made.controller.add("dev")
    return made
