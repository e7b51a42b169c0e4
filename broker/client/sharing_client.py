"""The part of the client that shares sessions, and lists those of others."""

# ruff: noqa: PLC0415 - each call imports the types that it needs: all of them take long

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.request_sender import RequestSender, quote_segment

if TYPE_CHECKING:
    from broker.schema.grants import GrantView, SharedSession, ShareRequest


class SharingClient(RequestSender):
    """Calls about grants. `OWNER.NAME` names a session of another user."""

    def grants(self, name: str | None = None) -> list[GrantView]:
        """Return the grants on one or all of the caller's sessions, also expired ones."""
        from broker.schema.grants import GrantList

        path = "/v1/grants" if name is None else f"/v1/sessions/{quote_segment(name)}/grants"
        return self._get(path, GrantList).grants

    def share(self, name: str, grantee: str, request: ShareRequest) -> GrantView:
        """Grant a role to a user or `@GROUP`, in place of an earlier grant to the same one."""
        from broker.schema.grants import GrantView

        return self._send("PUT", _grant(name, grantee), GrantView, request)

    def unshare(self, name: str, grantee: str) -> GrantView:
        """Revoke a grant, and return it."""
        from broker.schema.grants import GrantView

        return self._send("DELETE", _grant(name, grantee), GrantView)

    def shared(self) -> list[SharedSession]:
        """Return the sessions that others share with the caller."""
        from broker.schema.grants import SharedList

        return self._get("/v1/shared", SharedList).sessions

    def leave(self, name: str) -> SharedSession:
        """Give up the caller's own grant on `OWNER.NAME`, and return it."""
        from broker.schema.grants import SharedSession

        return self._send("DELETE", f"/v1/shared/{quote_segment(name)}", SharedSession)


def _grant(name: str, grantee: str) -> str:
    return f"/v1/sessions/{quote_segment(name)}/grants/{quote_segment(grantee)}"
