"""Pages at the origins of services, which a browser gets while it does not reach the service itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response

    from broker.errors import BerthError
    from broker.schema.web import VisitAnswer


class ServicePages(Protocol):
    """Makes these pages. The caller sets the status, and the headers that matter."""

    def starting(self, visit: VisitAnswer, lines: Sequence[str]) -> Response:
        """Return a page that reloads itself. `lines`: the last output of the service."""

    def unavailable(self, visit: VisitAnswer, error: BerthError, lines: Sequence[str]) -> Response:
        """Return a page that says why the service is not open, and that leads to the session in the portal."""

    def refused(self, error: BerthError) -> Response:
        """Return a page for a browser that may not enter."""
