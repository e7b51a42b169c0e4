"""Pages with the form of an action on a session, which ask before programs end or files change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.routing import Route

from broker.errors import BerthError, InvalidInputError, LoggedOutError, NotFoundError
from broker.forms.form import YES
from broker.text.question import (
    describe_plan,
    describe_switch_changes,
    describe_use,
)
from broker.web.portal.form_fields import fill_form, profile_descriptions, resource_notes, snapshot_notes
from broker.web.portal.portal_context import none_if_failed, redirect, show_page, user_calls
from broker.web.portal.protection import read_form
from broker.web.portal.session_actions import ACTIONS
from broker.web.portal.session_view import summarize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response

    from broker.forms.form import Form
    from broker.forms.start_form import ProfileChoice
    from broker.schema.checks import CheckReport
    from broker.schema.sessions import SessionView
    from broker.web.portal.session_actions import PortalAction
    from broker.web.portal.user_calls import UserCalls


class ActionPage:
    """The page of one action on one session, with the form as far as the user has filled it in."""

    def __init__(
        self, calls: UserCalls, action: PortalAction, view: SessionView, profiles: list[ProfileChoice] | None
    ) -> None:
        self._calls = calls
        self._action = action
        self._view = view
        self._form = action.make_form(profiles)
        self._descriptions = profile_descriptions(profiles)

    @classmethod
    async def load(cls, request: Request) -> ActionPage:
        """Read what the page needs. NotFoundError for an unknown action or session."""
        calls = user_calls(request)
        action = ACTIONS.get(request.path_params["action"])
        if action is None:
            raise NotFoundError("there is no such page")
        view = await calls.session(request.path_params["name"])
        profiles = await none_if_failed(calls.profiles()) if action.uses_profiles else None
        page = cls(calls, action, view, profiles)
        fill_form(page._form, request.query_params)  # such as the snapshot of a link
        return page

    async def show(
        self,
        *,
        errors: Mapping[str, str] | None = None,
        error: BerthError | None = None,
        report: CheckReport | None = None,
    ) -> HTMLResponse:
        """Return the page: with the faults of the form, with the controller's refusal, or with the plan to confirm."""
        now = time.time()
        status = error.status if error is not None else InvalidInputError.status if errors else 200
        return await show_page(
            self._calls,
            "action.html",
            status=status,
            action=self._action,
            summary=summarize(self._view, now),
            form=self._form,
            errors=errors or {},
            error=error,
            refusal=self._action.rule(self._view),
            in_use=await self._use(),
            plan=[] if report is None else describe_plan(report, self._action.plan(report.session, self._form), now),
            changes=[] if report is None else _changes(report, self._form),
            notes=await self._notes(),
            descriptions=self._descriptions,
            command=self._action.command(self._view.name, None if self._form.errors() else self._form),
        )

    async def run(self, texts: Mapping[str, str]) -> Response:
        """Carry the action out with the texts of the form, or show what it would do if that is not confirmed yet."""
        fill_form(self._form, texts)
        if errors := self._form.errors():
            return await self.show(errors=errors)
        name, check = self._view.name, self._action.check
        try:
            if check is not None and texts.get("confirmed") != YES:
                return await self.show(report=await self._calls.check(name, check(self._form)))
            await self._calls.change(name, self._action.change, self._action.body(self._form))
        except LoggedOutError:
            raise
        except BerthError as error:
            return await self.show(error=error)
        return redirect(f"/sessions/{self._action.target(name, self._form)}?done={self._action.id}")

    async def _use(self) -> str:
        """Return who would lose something by a stop."""
        if self._action.id != "stop":
            return ""
        presence = await none_if_failed(self._calls.presence(self._view.name))
        return "" if presence is None else describe_use(presence)

    async def _notes(self) -> dict[str, str]:
        if self._action.id == "start":
            return await resource_notes(self._calls, self._form)
        has_snapshot = any(field.id == "snapshot" for field in self._form.fields)
        return await snapshot_notes(self._calls, self._view.name) if has_snapshot else {}


def _changes(report: CheckReport, form: Form) -> list[tuple[str, str, str]]:
    if report.switch is None:
        return []
    return describe_switch_changes(report.session, report.switch, fresh=form.text("fresh") == YES)


async def show_action(request: Request) -> Response:
    """Show the form of an action."""
    page = await ActionPage.load(request)
    return await page.show()


async def run_action(request: Request) -> Response:
    """Carry an action out."""
    texts = await read_form(request)
    page = await ActionPage.load(request)
    return await page.run(texts)


ACTION_ROUTES = [
    Route("/sessions/{name}/{action}", show_action, methods=["GET"]),
    Route("/sessions/{name}/{action}", run_action, methods=["POST"]),
]
"""They come after the routes of other pages of a session, whose paths have the same form."""
