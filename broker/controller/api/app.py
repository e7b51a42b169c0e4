"""The HTTP API: each route checks its input's type, identifies the caller, and calls one function.

See docs/architecture.md for a list of the routes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from broker import __version__
from broker.config.file import Mode
from broker.controller.api.admin_routes import add_admin_routes
from broker.controller.api.environment_routes import add_environment_routes
from broker.controller.api.error_handlers import add_error_handlers
from broker.controller.api.login_routes import add_certificate_routes, add_gateway_routes, add_key_routes
from broker.controller.api.request_limits import RequestLimits
from broker.controller.api.session_routes import add_session_routes
from broker.controller.api.sharing_routes import add_sharing_routes
from broker.controller.api.site_routes import add_site_routes
from broker.controller.api.volume_routes import add_deleted_routes, add_root_routes, add_volume_routes
from broker.controller.api.watch_routes import add_watch_routes
from broker.controller.api.web_routes import add_berth_web_routes, add_web_routes
from broker.schema.base import ErrorBody

if TYPE_CHECKING:
    from broker.controller.api.dependencies import Services


def application(services: Services) -> FastAPI:
    """Build the application; its OpenAPI document is at /openapi.json."""
    failures: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (422, "default")}
    app = FastAPI(title="Berth", version=__version__, docs_url=None, redoc_url=None, responses=failures)
    app.state.stopping = asyncio.Event()
    app.state.only_uid = services.own_uid if services.config.mode is Mode.PERSONAL else None
    app.state.web = services.web
    add_error_handlers(app)

    add_watch_routes(app, services)
    add_session_routes(app, services)
    add_volume_routes(app, services)
    add_root_routes(app, services)
    add_deleted_routes(app, services)
    add_sharing_routes(app, services)
    add_admin_routes(app, services)
    add_environment_routes(app, services)
    add_key_routes(app, services)
    add_certificate_routes(app, services)
    add_gateway_routes(app, services)
    add_site_routes(app, services)
    add_web_routes(app, services)
    add_berth_web_routes(app, services)
    methods = frozenset().union(*(getattr(route, "methods", None) or () for route in app.routes))
    app.add_middleware(RequestLimits, in_use=services.in_use, methods=methods)
    return app
