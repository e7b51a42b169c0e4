"""Messages that workers post to the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from tui.core.connection_state import ConnectionState
    from tui.core.site_facts import SiteFacts


class NewsArrived(Message):
    """The feed's worker has changes of sessions; `FeedWorker.take` returns them."""


class ConnectionChanged(Message):
    """The state of the connection to the controller has changed."""

    def __init__(self, state: ConnectionState) -> None:
        super().__init__()
        self.state = state


class SiteLearned(Message):
    """The facts about the site are known."""

    def __init__(self, site: SiteFacts) -> None:
        super().__init__()
        self.site = site
