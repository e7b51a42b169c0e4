"""Pages at the origins of services, while a service starts and when it cannot be shown.

They use the style sheet of the portal. They reload by themselves without a script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

from broker.web.portal.templates import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.errors import BerthError
    from broker.origins import Origins
    from broker.schema.web import VisitAnswer

RELOAD_S = 2


class PortalServicePages:
    """Makes the pages. The caller sets status and caching."""

    def __init__(self, origins: Origins) -> None:
        self._portal_url = origins.portal_url
        self._headers = {
            "Content-Security-Policy": f"default-src 'none'; style-src {origins.portal_url}; "
            f"img-src {origins.portal_url}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        }

    def start_page(self, visit: VisitAnswer, lines: Sequence[str]) -> HTMLResponse:
        """Return the page of a service that starts, with its last lines for the owner."""
        page = self._page(visit, f"{visit.service} is starting", "this page opens it as soon as it is ready", "", lines)
        # A header, and no element: with the element, screen readers could not follow a longer page (WCAG 2.2, F41).
        page.headers["Refresh"] = str(RELOAD_S)
        return page

    def failure_page(self, visit: VisitAnswer, error: BerthError, lines: Sequence[str]) -> HTMLResponse:
        """Return the page of a service that did not start, or whose session does not run.

        The error and the lines are for the owner: a guest learns that the service is not open.
        """
        message, hint = error.message, error.hint
        if _is_guest(visit):
            message = f"{visit.service} of {visit.owner}.{visit.session} does not answer now"
            hint = f"reload the page in a moment; {visit.owner} sees why"
        return self._page(visit, f"{visit.service} is not open", message, hint, lines)

    def refusal_page(self, error: BerthError) -> HTMLResponse:
        """Return the page for a browser that may not enter."""
        return self._page(None, "This service is not open", error.message, error.hint, ())

    def _page(
        self, visit: VisitAnswer | None, title: str, message: str, hint: str, lines: Sequence[str]
    ) -> HTMLResponse:
        session = None if visit is None or _is_guest(visit) else visit.session
        page = render(
            "service.html",
            title=title,
            message=message,
            hint=hint,
            lines=() if session is None else lines,
            session=session,
            command=None if visit is None else _command(visit),
            portal_url=self._portal_url,
        )
        return HTMLResponse(page, headers=self._headers)


def _is_guest(visit: VisitAnswer) -> bool:
    return visit.user != visit.owner


def _command(visit: VisitAnswer) -> list[str]:
    """Return the equivalent command."""
    if _is_guest(visit):
        return ["berth", "open", f"{visit.owner}.{visit.session}", visit.service]
    return ["berth", "show", visit.session]
