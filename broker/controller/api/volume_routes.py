"""Routes for volumes: snapshots, root mode, deleted sessions."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query

from broker.controller.api.dependencies import DeletedName, Services, SessionName, Who, refuse_policies
from broker.controller.sessions.guest_view import errors_for_guest, view_for_user
from broker.schema import volumes
from broker.schema.sessions import (
    DeletedList,
    SessionView,
)


def add_volume_routes(app: FastAPI, services: Services) -> None:  # noqa: C901 - a list of paths, not branches
    snapshots = services.snapshots

    @app.post("/v1/sessions/{name}/snapshots", status_code=202)
    async def take_snapshot(who: Who, name: SessionName, request: volumes.SnapshotRequest) -> SessionView:
        with errors_for_guest(name):
            return view_for_user(who.user, await snapshots.snapshot(who.user, name, request))

    @app.get("/v1/sessions/{name}/snapshots")
    async def list_snapshots(who: Who, name: SessionName) -> volumes.SnapshotList:
        return volumes.SnapshotList(snapshots=await snapshots.snapshots(who.user, name))

    @app.delete("/v1/sessions/{name}/snapshots/{reference}")
    async def delete_snapshot(
        who: Who, name: SessionName, reference: Annotated[volumes.SnapshotReference, Path()]
    ) -> volumes.SnapshotView:
        return await snapshots.delete_snapshot(who.user, name, reference)

    @app.post("/v1/sessions/{name}/rollback", status_code=202)
    async def roll_back(who: Who, name: SessionName, request: volumes.RollbackRequest) -> SessionView:
        return await snapshots.rollback(who.user, name, request)

    @app.post("/v1/sessions/{name}/switch", status_code=202)
    async def switch_profile(who: Who, name: SessionName, request: volumes.SwitchRequest) -> SessionView:
        refuse_policies(who, request.persistence)
        return await services.container_changes.switch(who.user, name, request)

    @app.post("/v1/sessions/{name}/upgrade", status_code=202)
    async def upgrade_session(who: Who, name: SessionName, request: volumes.UpgradeRequest) -> SessionView:
        return await services.upgrades.upgrade(who.user, name, request)

    @app.post("/v1/sessions/{name}/clone", status_code=202)
    async def clone_session(who: Who, name: SessionName, request: volumes.CloneRequest) -> SessionView:
        return await services.clones.clone(who.user, name, request)

    @app.get("/v1/sessions/{name}/diff")
    async def session_diff(
        who: Who,
        name: SessionName,
        reference: Annotated[volumes.SnapshotReference | None, Query(alias="from")] = None,
        until: Annotated[volumes.SnapshotReference | None, Query(alias="to")] = None,
        content: Annotated[bool, Query()] = False,
    ) -> volumes.DiffReport:
        return await snapshots.diff(who.user, name, reference, until, content=content)

    @app.get("/v1/sessions/{name}/size")
    async def session_size(who: Who, name: SessionName) -> volumes.SizeReport:
        return await snapshots.size(who.user, name)

    @app.post("/v1/sessions/{name}/verify")
    async def verify_session(who: Who, name: SessionName) -> volumes.VerifyReport:
        return await snapshots.verify(who.user, name)

    @app.post("/v1/sessions/{name}/flatten", status_code=202)
    async def flatten_session(who: Who, name: SessionName) -> SessionView:
        return await snapshots.flatten(who.user, name)


def add_root_routes(app: FastAPI, services: Services) -> None:
    @app.post("/v1/sessions/{name}/restart", status_code=202)
    async def restart_session(who: Who, name: SessionName) -> SessionView:
        return await services.container_changes.restart(who.user, name)

    @app.post("/v1/sessions/{name}/root", status_code=202)
    async def begin_root_mode(who: Who, name: SessionName) -> SessionView:
        return await services.container_changes.root(who.user, name)

    @app.post("/v1/sessions/{name}/root/commit", status_code=202)
    async def commit_root_mode(who: Who, name: SessionName) -> SessionView:
        return await services.container_changes.commit_root(who.user, name)


def add_deleted_routes(app: FastAPI, services: Services) -> None:
    deleted = services.deleted

    @app.get("/v1/deleted")
    async def list_deleted(who: Who) -> DeletedList:
        return DeletedList(sessions=await deleted.all(who.user))

    @app.post("/v1/deleted/{name}/restore", status_code=202)
    async def restore_session(who: Who, name: DeletedName, request: volumes.RestoreRequest) -> SessionView:
        return await deleted.restore(who.user, name, request.name)

    @app.post("/v1/gc")
    async def collect_garbage(who: Who, request: volumes.GcRequest) -> volumes.GcReport:
        return await deleted.gc(who.user, dry_run=request.dry_run)
