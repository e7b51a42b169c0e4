"""The part of the client for the versions of a session's profile."""

# ruff: noqa: PLC0415 - each call imports the types that it needs: all of them take long

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.request_sender import RequestSender, quote_segment

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView
    from broker.schema.volumes import UpgradeRequest


class VersionClient(RequestSender):
    """Calls about what a session follows."""

    def set_follow(self, name: str, follow: str | None) -> SessionView:
        """Set the channel or version that the session follows; None: it keeps its image."""
        from broker.schema.sessions import FollowChoice, SessionView

        path = f"/v1/sessions/{quote_segment(name)}/follow"
        return self._send("PUT", path, SessionView, FollowChoice(follow=follow))

    def upgrade(self, name: str, request: UpgradeRequest) -> SessionView:
        """Take the version that the session follows now."""
        from broker.schema.sessions import SessionView

        return self._send("POST", f"/v1/sessions/{quote_segment(name)}/upgrade", SessionView, request)
