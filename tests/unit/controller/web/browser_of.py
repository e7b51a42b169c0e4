"""Logged-in browsers for tests of web access."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.schema.web import DelegationRequest, LinkRequest, Target, VisitRequest

if TYPE_CHECKING:
    from broker.controller.registry.web_models import Delegation
    from broker.controller.web.web_access import WebAccess
    from broker.schema.web import DelegationAnswer, VisitAnswer
    from tests.fakes.core import Core

UID = 4001
SOURCES = ["192.0.2.1/32"]
JUPYTER = VisitRequest(target=Target(session="dev", service="jupyter"))


def web_of(core: Core) -> WebAccess:
    assert core.web is not None
    return core.web


async def log_in(core: Core, user: str = "alice") -> DelegationAnswer:
    """Log a browser in with a link of the user."""
    browsers = web_of(core).browsers
    link = await browsers.make_link(user, UID, LinkRequest())
    return await browsers.log_in(DelegationRequest(proof=link.url.partition("#")[2], browser="Firefox"))


async def browser_of(core: Core, user: str = "alice") -> Delegation:
    """Log a browser in; its delegation, as the API finds it."""
    return await web_of(core).browsers.authenticate((await log_in(core, user)).secret)


async def visit(core: Core, request: VisitRequest = JUPYTER, user: str = "alice") -> VisitAnswer:
    """Open a service in another browser."""
    return await web_of(core).visits.begin(await browser_of(core, user), request)
