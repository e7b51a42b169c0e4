"""Routes for sharing: grants on sessions, and the sessions that others share with the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from broker.controller.api.dependencies import GranteeName, SessionName, Who
from broker.schema.grants import GrantList, GrantView, SharedList, SharedSession, ShareRequest

if TYPE_CHECKING:
    from broker.controller.api.dependencies import Services


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
    async def unshare_session(who: Who, name: SessionName, grantee: GranteeName) -> GrantView:
        return await shares.unshare(who.user, name, grantee)

    @app.get("/v1/shared")
    async def list_shared(who: Who) -> SharedList:
        return SharedList(sessions=await shares.shared_with(who.user))

    @app.delete("/v1/shared/{name}")
    async def leave_session(who: Who, name: SessionName) -> SharedSession:
        return await shares.leave(who.user, name)
