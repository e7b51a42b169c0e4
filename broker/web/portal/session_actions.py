"""The actions on a session that the portal offers: their forms, requests, consequences, and equivalent commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.forms import action_forms as forms
from broker.forms import form_requests as requests
from broker.forms.form import Form
from broker.forms.start_form import queue_fields, resource_options
from broker.schema.checks import CheckRequest
from broker.schema.sessions import StartRequest
from broker.text import allowed
from broker.text.question import LOST_NOTHING, LOST_PROGRAMS, describe_rollback_plan, describe_switch_plan
from broker.user_input import parse_profile_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from broker.forms.start_form import ProfileChoice
    from broker.schema.sessions import SessionView

    MakeForm = Callable[[Sequence[ProfileChoice] | None], Form]


def _empty_form(_: Sequence[ProfileChoice] | None) -> Form:
    return Form("", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalAction:
    """One action on one session."""

    id: str
    """The last part of its address, and the verb of the command."""
    title: str
    change: str
    """The last part of the path of its call."""
    about: str
    """The effect, and what is lost."""
    rule: Callable[[SessionView], str | None]
    """Returns why the action is not possible now."""
    make_form: MakeForm = _empty_form
    uses_profiles: bool = False
    words: Callable[[Form], list[str]] = lambda _: []
    """The words that the form adds to the command, after the session's name."""
    body: Callable[[Form], BaseModel | None] = lambda _: None
    check: Callable[[Form], CheckRequest] | None = None
    """The question to the controller whose answer is shown before the action is carried out."""
    plan: Callable[[SessionView, Form], str] = lambda _view, _form: ""
    """The subject of the answer, in words."""

    def command(self, name: str, form: Form | None = None) -> list[str]:
        """Return the equivalent command, with the words of a valid form."""
        return ["berth", self.id, name, *(self.words(form) if form is not None else [])]

    def target(self, name: str, form: Form) -> str:
        """Return the name of the session whose page shows the result."""
        return str(form.values()["new"]) if self.id == "clone" else name


def _start_body(form: Form) -> StartRequest:
    return StartRequest(options=resource_options(form))


ACTIONS = {
    action.id: action
    for action in (
        PortalAction(
            id="start",
            title="Start",
            change="start",
            about="Starts the session in a new job, with all its files. An empty field keeps the present value.",
            rule=allowed.can_start,
            make_form=lambda _: Form("Start", queue_fields()),
            words=resource_options,
            body=_start_body,
        ),
        PortalAction(
            id="stop",
            title="Stop",
            change="stop",
            about=f"Ends the session's job and frees its resources. The files are kept. Lost: {LOST_PROGRAMS}.",
            rule=allowed.can_stop,
        ),
        PortalAction(
            id="extend",
            title="Extend",
            change="extend",
            about="Adds time to the limit of the session's job, if Slurm allows it.",
            rule=allowed.has_running_job,
            make_form=lambda _: forms.extend_form(),
            words=forms.extend_words,
            body=requests.extend_request,
        ),
        PortalAction(
            id="snapshot",
            title="Take a snapshot",
            change="snapshots",
            about="Keeps the present files of the session, to return to them later. The session may keep running.",
            rule=allowed.can_snapshot,
            make_form=lambda _: forms.snapshot_form(),
            words=forms.snapshot_words,
            body=requests.snapshot_request,
        ),
        PortalAction(
            id="rollback",
            title="Roll back",
            change="rollback",
            about="Returns the files of the session to a snapshot. The present files become a snapshot first.",
            rule=allowed.can_change_volumes,
            make_form=lambda _: forms.rollback_form(),
            words=forms.rollback_words,
            body=requests.rollback_request,
            check=lambda form: CheckRequest(rollback=requests.rollback_request(form)),
            plan=lambda _, form: describe_rollback_plan(form.text("snapshot")),
        ),
        PortalAction(
            id="clone",
            title="Clone",
            change="clone",
            about="Creates a session with the files of this one. Later changes of one do not affect the other.",
            rule=allowed.can_clone,
            make_form=forms.clone_form,
            uses_profiles=True,
            words=forms.clone_words,
            body=requests.clone_request,
        ),
        PortalAction(
            id="switch",
            title="Switch profile",
            change="switch",
            about=f"Continues with another profile or version, and keeps the home. Lost: {LOST_NOTHING}.",
            rule=allowed.can_change_volumes,
            make_form=forms.switch_form,
            uses_profiles=True,
            words=forms.switch_words,
            body=requests.switch_request,
            check=lambda form: CheckRequest(switch=requests.switch_request(form)),
            plan=lambda view, form: describe_switch_plan(view, parse_profile_reference(form.text("profile"))),
        ),
    )
}
"""By their ids, in the order in which pages list them."""
