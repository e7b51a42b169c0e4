"""Routes for the site: its settings, its health, its cluster, and the requests of operators."""

from __future__ import annotations

from fastapi import FastAPI

from broker import __version__
from broker.controller.api.dependencies import Services, Who, require_administrator
from broker.schema.cluster import ClusterView
from broker.schema.profiles import ProfileList
from broker.schema.site import DoctorReport, RebuildReport, SiteView


def add_site_routes(app: FastAPI, services: Services) -> None:
    @app.get("/v1/health")
    async def health() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/v1/site")
    async def site(who: Who) -> SiteView:
        return await services.site.view(who.user)

    @app.get("/v1/cluster")
    async def cluster(who: Who) -> ClusterView:
        return await services.cluster.view(who.user)

    @app.get("/v1/profiles")
    async def profiles(who: Who) -> ProfileList:
        return await services.offers.profiles(who.user)

    @app.get("/v1/doctor")
    async def doctor(who: Who) -> DoctorReport:
        return DoctorReport(checks=await services.checks(who.user))

    @app.post("/v1/rebuild")
    async def rebuild(who: Who) -> RebuildReport:
        require_administrator(services, who)
        return await services.rebuild()
