"""Routes for sharing: grants on sessions, and the sessions that others share with the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Path, Query

from broker.controller.api.dependencies import GranteeName, SessionName, Who
from broker.schema.grants import (
    EndedGrants,
    GrantList,
    GrantView,
    SharedContent,
    SharedList,
    SharedServiceList,
    ShareRequest,
)
from broker.schema.services import ServiceName
from broker.schema.volumes import SnapshotReference

if TYPE_CHECKING:
    from broker.controller.api.dependencies import Services

Snapshot = Annotated[int | None, Query(ge=1)]
"""The number of a snapshot, to end its grant alone."""


def add_sharing_routes(app: FastAPI, services: Services) -> None:
    shares = services.shares

    @app.get("/v1/grants")
    async def list_grants(who: Who) -> GrantList:
        return GrantList(grants=await shares.all(who.user))

    @app.get("/v1/sessions/{name}/grants")
    async def list_session_grants(who: Who, name: SessionName) -> GrantList:
        return GrantList(grants=await shares.all(who.user, name))

    @app.put("/v1/sessions/{name}/grants/{grantee}")
    async def share_session(who: Who, name: SessionName, grantee: GranteeName, request: ShareRequest) -> GrantView:
        return await shares.share(who.user, name, grantee, request)

    @app.delete("/v1/sessions/{name}/grants/{grantee}")
    async def unshare_session(
        who: Who,
        name: SessionName,
        grantee: GranteeName,
        snapshot: Snapshot = None,
        service: ServiceName | None = None,
    ) -> EndedGrants:
        return await shares.unshare(who.user, name, grantee, snapshot=snapshot, service=service)

    @app.get("/v1/sessions/{name}/snapshots/{reference}/shared")
    async def shared_content(
        who: Who, name: SessionName, reference: Annotated[SnapshotReference, Path()]
    ) -> SharedContent:
        return await shares.content(who.user, name, reference)

    @app.get("/v1/shared")
    async def list_shared(who: Who) -> SharedList:
        return await shares.shared_list(who.user)

    @app.get("/v1/shared/services")
    async def list_shared_services(who: Who) -> SharedServiceList:
        return SharedServiceList(services=(await shares.shared_list(who.user)).services)

    @app.delete("/v1/shared/{name}")
    async def leave_session(
        who: Who, name: SessionName, snapshot: Snapshot = None, service: ServiceName | None = None
    ) -> EndedGrants:
        return await shares.leave(who.user, name, snapshot=snapshot, service=service)
