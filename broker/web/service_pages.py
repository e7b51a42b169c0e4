"""Pages at the origins of services, which a browser gets while it does not reach the service itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.errors import BerthError
    from broker.schema.web import VisitAnswer


class ServicePages(Protocol):
    """The portal's pages there. The caller sets the status and the headers that matter."""

    def starting(self, visit: VisitAnswer, lines: Sequence[str]) -> Response:
        """Return a page that reloads itself. `lines`: the last output of the service."""

    def unavailable(self, visit: VisitAnswer, error: BerthError, lines: Sequence[str]) -> Response:
        """Return a page that says why the service is not open, and that leads to the session in the portal."""

    def refused(self, error: BerthError) -> Response:
        """Return a page for a browser that may not enter."""


class PlainPages:
    """Pages as plain text."""

    def starting(self, visit: VisitAnswer, lines: Sequence[str]) -> Response:
        text = "\n".join([f"starting {visit.service} in {visit.session}", *lines])
        return PlainTextResponse(text, headers={"Refresh": "1"})

    def unavailable(self, visit: VisitAnswer, error: BerthError, lines: Sequence[str]) -> Response:
        return PlainTextResponse("\n".join([f"{visit.service} in {visit.session}: {_text(error)}", *lines]))

    def refused(self, error: BerthError) -> Response:
        return PlainTextResponse(_text(error))


def _text(error: BerthError) -> str:
    return f"{error.message}\n{error.hint}" if error.hint else error.message
