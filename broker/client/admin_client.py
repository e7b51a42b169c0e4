"""The part of the client for the site's operators."""

# ruff: noqa: PLC0415 - each call imports the types that it needs: all of them take long

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.request_sender import RequestSender, encode_query, quote_segment
from broker.names import MAX_OPERATOR_SESSIONS

if TYPE_CHECKING:
    from broker.schema.admin import AuditReport, NodeReport, OperatorSessionList, OperatorSessionView, UserLimits

_NODE_CALL_S = 300
"""Additional time for calls that write a file for each session of a node."""


class AdminClient(RequestSender):
    """Calls of operators. `name` is `OWNER.NAME`; `message` is the reason, which the owner reads."""

    def sessions_page(
        self,
        *,
        owner: str | None = None,
        node: str | None = None,
        after: str | None = None,
        limit: int = MAX_OPERATOR_SESSIONS,
    ) -> OperatorSessionList:
        """Return the first `limit` sessions of all users, or of one, or those with a job on a node.

        `after`: the `OWNER.NAME` behind which the list begins.
        """
        from broker.schema.admin import OperatorSessionList

        fields = {"owner": owner, "node": node, "after": after, "limit": limit}
        chosen = {word: value for word, value in fields.items() if value is not None}
        return self._get(f"/v1/admin/sessions{encode_query(chosen)}", OperatorSessionList)

    def all_sessions(self, *, owner: str | None = None, node: str | None = None) -> list[OperatorSessionView]:
        """Return all such sessions, page by page."""
        page = self.sessions_page(owner=owner, node=node)
        found = list(page.sessions)
        while page.more and page.sessions:
            page = self.sessions_page(owner=owner, node=node, after=page.sessions[-1].session)
            found += page.sessions
        return found

    def stop_as_operator(self, name: str, message: str) -> OperatorSessionView:
        """Request the stop of any user's session."""
        return self._act(name, "stop", message)

    def message_as_operator(self, name: str, message: str) -> OperatorSessionView:
        """Have a line written to the terminals of any user's session."""
        return self._act(name, "message", message)

    def extend_as_operator(self, name: str, seconds: float, message: str) -> OperatorSessionView:
        """Raise the time limit of the job of any user's session."""
        from broker.schema.admin import OperatorExtendRequest, OperatorSessionView

        request = OperatorExtendRequest(message=message, seconds=seconds)
        return self._send("POST", f"/v1/admin/sessions/{quote_segment(name)}/extend", OperatorSessionView, request)

    def drain(self, node: str, message: str) -> NodeReport:
        """Request the stop of all sessions with a job on a node."""
        return self._act_on_node(node, "drain", message)

    def message_node(self, node: str, message: str) -> NodeReport:
        """Have a line written to the terminals of all ready sessions on a node."""
        return self._act_on_node(node, "message", message)

    def user_limits(self, user: str) -> UserLimits:
        """Return the limits of a user, with their use."""
        from broker.schema.admin import UserLimits

        return self._get(f"/v1/admin/users/{quote_segment(user)}/limits", UserLimits)

    def audit(self, *, owner: str | None = None, since: float | None = None, limit: int = 100) -> AuditReport:
        """Return the newest `limit` events of the sessions of all users, or of one."""
        from broker.schema.admin import AuditReport

        fields = {"owner": owner, "since": since, "limit": limit}
        chosen = {word: value for word, value in fields.items() if value is not None}
        return self._get(f"/v1/admin/events{encode_query(chosen)}", AuditReport)

    def _act(self, name: str, verb: str, message: str) -> OperatorSessionView:
        from broker.schema.admin import OperatorRequest, OperatorSessionView

        path = f"/v1/admin/sessions/{quote_segment(name)}/{verb}"
        return self._send("POST", path, OperatorSessionView, OperatorRequest(message=message))

    def _act_on_node(self, node: str, verb: str, message: str) -> NodeReport:
        from broker.schema.admin import NodeReport, OperatorRequest

        path = f"/v1/admin/nodes/{quote_segment(node)}/{verb}"
        return self._send("POST", path, NodeReport, OperatorRequest(message=message), extra_time=_NODE_CALL_S)
