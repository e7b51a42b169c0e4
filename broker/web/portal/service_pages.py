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


class ServicePages:
    """Makes the pages; each is complete, with its headers."""

    def __init__(self, origins: Origins) -> None:
        self._portal_url = origins.portal_url
        self._headers = {
            "Content-Security-Policy": f"default-src 'none'; style-src {origins.portal_url}; "
            f"img-src {origins.portal_url}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }

    def starting(self, visit: VisitAnswer, state: str, output: Sequence[str] = ()) -> HTMLResponse:
        """Return the page of a service that starts: `state` in words, and its last lines. It reloads by itself."""
        page = self._render(visit, f"{visit.service} is starting", state, "", output)
        # A header, and no element: with the element, screen readers could not follow a longer page (WCAG 2.2, F41).
        return HTMLResponse(page, headers=self._headers | {"Refresh": str(RELOAD_S)})

    def failed(self, visit: VisitAnswer, message: str, output: Sequence[str] = ()) -> HTMLResponse:
        """Return the page of a service that did not start, with its last lines."""
        hint = "correct the cause, and load this page again to start it once more"
        page = self._render(visit, f"{visit.service} did not start", message, hint, output)
        return HTMLResponse(page, status_code=502, headers=self._headers)

    def unavailable(self, visit: VisitAnswer | None, error: BerthError) -> HTMLResponse:
        """Return the page for an error: the session is queued, stopped or deleted, or the visit has ended."""
        page = self._render(visit, "This service cannot be shown", error.message, error.hint, ())
        return HTMLResponse(page, status_code=error.status, headers=self._headers)

    def _render(self, visit: VisitAnswer | None, title: str, message: str, hint: str, output: Sequence[str]) -> str:
        return render(
            "service.html",
            title=title,
            message=message,
            hint=hint,
            output=output,
            session=None if visit is None else visit.session,
            portal_url=self._portal_url,
        )
