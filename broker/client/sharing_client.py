"""The part of the client that shares sessions, and lists those of others."""

# ruff: noqa: PLC0415 - each call imports the types that it needs: all of them take long

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.request_sender import RequestSender, quote_segment

if TYPE_CHECKING:
    from broker.schema.grants import EndedGrants, GrantView, SharedContent, SharedList, ShareRequest


class SharingClient(RequestSender):
    """Calls about grants. `OWNER.NAME` names a session of another user."""

    def grants(self, name: str | None = None) -> list[GrantView]:
        """Return the grants on one or all of the caller's sessions, also expired ones."""
        from broker.schema.grants import GrantList

        path = "/v1/grants" if name is None else f"/v1/sessions/{quote_segment(name)}/grants"
        return self._get(path, GrantList).grants

    def share(self, name: str, grantee: str, request: ShareRequest) -> GrantView:
        """Grant a role to a user or `@GROUP`, in place of an earlier grant of the same."""
        from broker.schema.grants import GrantView

        return self._send("PUT", _grant(name, grantee), GrantView, request)

    def unshare(
        self, name: str, grantee: str, *, snapshot: int | None = None, service: str | None = None
    ) -> EndedGrants:
        """Revoke all grants to a user or `@GROUP`, or the one of a snapshot or service, and return them."""
        from broker.schema.grants import EndedGrants

        return self._send("DELETE", _grant(name, grantee) + _query(snapshot, service), EndedGrants)

    def shared_content(self, name: str, snapshot: str) -> SharedContent:
        """Return what others would get of a snapshot, and what is left out."""
        from broker.schema.grants import SharedContent

        return self._get(
            f"/v1/sessions/{quote_segment(name)}/snapshots/{quote_segment(snapshot)}/shared", SharedContent
        )

    def shared_list(self) -> SharedList:
        """Return the sessions, snapshots and services that others share with the caller."""
        from broker.schema.grants import SharedList

        return self._get("/v1/shared", SharedList)

    def leave(self, name: str, *, snapshot: int | None = None, service: str | None = None) -> EndedGrants:
        """Give up the caller's own grants on `OWNER.NAME`, or the one of a snapshot or service, and return them."""
        from broker.schema.grants import EndedGrants

        return self._send("DELETE", f"/v1/shared/{quote_segment(name)}{_query(snapshot, service)}", EndedGrants)


def _grant(name: str, grantee: str) -> str:
    return f"/v1/sessions/{quote_segment(name)}/grants/{quote_segment(grantee)}"


def _query(snapshot: int | None, service: str | None) -> str:
    given = {"snapshot": None if snapshot is None else str(snapshot), "service": service}
    words = [f"{key}={quote_segment(value)}" for key, value in given.items() if value is not None]
    return f"?{'&'.join(words)}" if words else ""
