"""Routes for the environments of batch jobs."""

from __future__ import annotations

from fastapi import FastAPI, Request

from broker.controller.api.dependencies import EnvironmentId, Services, Who
from broker.schema import environments
from broker.schema.sessions import (
    SessionView,
)


def add_environment_routes(app: FastAPI, services: Services) -> None:
    batch = services.environments

    @app.get("/v1/environments")
    async def list_environments(who: Who) -> environments.EnvironmentList:
        return environments.EnvironmentList(environments=await batch.all(who.user))

    @app.post("/v1/environments", status_code=201)
    async def make_environment(
        who: Who, request: environments.EnvironmentRequest, connection: Request
    ) -> environments.EnvironmentView:
        made = await batch.make(who.user, request)
        if await connection.is_disconnected():  # no job will be submitted for it
            await batch.discard(who.user, made.id)
        return made

    @app.delete("/v1/environments/{environment}")
    async def discard_environment(who: Who, environment: EnvironmentId) -> environments.EnvironmentList:
        return environments.EnvironmentList(environments=await batch.discard(who.user, environment))

    @app.post("/v1/environments/{environment}/promote", status_code=202)
    async def promote_job(who: Who, environment: EnvironmentId, request: environments.PromoteRequest) -> SessionView:
        return await batch.promote(who.user, environment, request)
