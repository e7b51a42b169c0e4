"""Routes for the site's operators, who act on the sessions of all users as themselves."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query

from broker.controller.api.dependencies import Services, Who
from broker.names import FULL_NAME_PATTERN, MAX_AUDIT_EVENTS, MAX_OPERATOR_SESSIONS, NODE_PATTERN
from broker.schema.admin import (
    AuditReport,
    NodeReport,
    OperatorExtendRequest,
    OperatorRequest,
    OperatorSessionList,
    OperatorSessionView,
    UserLimits,
)
from broker.schema.base import Timestamp, UserName

FullName = Annotated[str, Path(alias="name", pattern=FULL_NAME_PATTERN)]
"""`OWNER.NAME`, also for a session of the operator's own."""

NodeName = Annotated[str, Path(alias="node", pattern=NODE_PATTERN)]


def add_admin_routes(app: FastAPI, services: Services) -> None:
    operators = services.operators

    @app.get("/v1/admin/sessions")
    async def list_all_sessions(
        who: Who,
        owner: UserName | None = None,
        node: Annotated[str | None, Query(pattern=NODE_PATTERN)] = None,
        after: Annotated[str | None, Query(pattern=FULL_NAME_PATTERN)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_OPERATOR_SESSIONS)] = MAX_OPERATOR_SESSIONS,
    ) -> OperatorSessionList:
        return await operators.sessions(who.user, owner=owner, node=node, after=after, limit=limit)

    @app.post("/v1/admin/sessions/{name}/stop", status_code=202)
    async def stop_as_operator(who: Who, name: FullName, request: OperatorRequest) -> OperatorSessionView:
        return await operators.stop(who.user, name, request.message)

    @app.post("/v1/admin/sessions/{name}/extend")
    async def extend_as_operator(who: Who, name: FullName, request: OperatorExtendRequest) -> OperatorSessionView:
        return await operators.extend(who.user, name, request)

    @app.post("/v1/admin/sessions/{name}/message")
    async def write_to_terminals(who: Who, name: FullName, request: OperatorRequest) -> OperatorSessionView:
        return await operators.message(who.user, name, request.message)

    @app.post("/v1/admin/nodes/{node}/drain", status_code=202)
    async def drain_node(who: Who, node: NodeName, request: OperatorRequest) -> NodeReport:
        return await operators.drain(who.user, node, request.message)

    @app.post("/v1/admin/nodes/{node}/message")
    async def write_to_node(who: Who, node: NodeName, request: OperatorRequest) -> NodeReport:
        return await operators.message_node(who.user, node, request.message)

    @app.get("/v1/admin/users/{owner}/limits")
    async def show_limits(who: Who, owner: Annotated[UserName, Path()]) -> UserLimits:
        return await operators.limits(who.user, owner)

    @app.get("/v1/admin/events")
    async def audit_events(
        who: Who,
        owner: UserName | None = None,
        since: Timestamp = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_AUDIT_EVENTS)] = 100,
    ) -> AuditReport:
        return await operators.audit(who.user, owner=owner, since=since, limit=limit)
