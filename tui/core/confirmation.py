"""The question before a dangerous action: its plan, what is lost, and how to undo it.

The types of the API are imported when a request is made, as in `start_form`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.forms.form_requests import rollback_request, switch_request
from broker.forms.start_form import resource_options
from broker.text import question as text
from broker.user_input import ProfileReference
from tui.core.session_action import shell_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from broker.forms.form import Form
    from broker.schema.checks import CheckReport, CheckRequest
    from broker.schema.sessions import SessionView
    from tui.core.session_action import SessionAction


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A question, and everything that its screen shows."""

    question: str
    plan: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """The present state and the one afterwards, line by line."""
    lost: str
    undo: str
    command: str
    """The equivalent command line."""
    typed: str = ""
    """The text to type before the action runs: a session's name, if the action cannot be undone; else empty."""


_TITLE_CELLS = 12

CHECKED_ACTIONS = frozenset({"rollback", "switch", "resize", "restart", "delete", "purge"})
"""The actions that the controller checks before the question."""


def make_check(action: SessionAction, form: Form | None) -> CheckRequest:
    """Return the check that the controller makes before the question about one of CHECKED_ACTIONS."""
    from broker.schema.checks import CheckRequest  # noqa: PLC0415 - see above
    from broker.schema.sessions import ResizeRequest  # noqa: PLC0415 - see above

    match action.id:
        case "rollback":
            return CheckRequest(rollback=rollback_request(_require_form(form)))
        case "switch":
            return CheckRequest(switch=switch_request(_require_form(form)))
        case "resize":
            return CheckRequest(resize=ResizeRequest(options=resource_options(_require_form(form))))
        case "restart":
            return CheckRequest(restart=True)
    return CheckRequest(delete=True)


def confirmation(
    action: SessionAction,
    sessions: Sequence[SessionView],
    form: Form | None = None,
    *,
    reports: Sequence[CheckReport] = (),
    used: Mapping[str, str] | None = None,
    now: float,
) -> Confirmation:
    """Return the question. `reports` are the results of make_check, and `used` has the use of each session."""
    names = [session.name for session in sessions]
    question, lost, undo = _texts(action, sessions, form, used or {})
    plan = _plan(action, sessions[0], form)
    return Confirmation(
        question=question,
        plan=tuple(line for report in reports for line in text.describe_plan(report, plan, now)) if plan else (),
        changes=tuple(line for report in reports for line in _changes(report, form)),
        lost=lost if not any(report.ends_job for report in reports) else _with_programs(lost),
        undo=undo,
        command=shell_line(action.command_line(sessions, form)),
        typed=names[0] if undo == text.CANNOT_BE_UNDONE else "",
    )


def snapshot_deletion(session: SessionView, snapshot: str) -> Confirmation:
    """Return the question before a snapshot is deleted."""
    return Confirmation(
        question=text.ask_delete_snapshot(session.name, snapshot),
        lost=f"the state of snapshot {snapshot}",
        undo=text.CANNOT_BE_UNDONE,
        command=shell_line(["berth", "snapshots", session.name, "--delete", snapshot]),
        typed=session.name,
    )


def _texts(
    action: SessionAction, sessions: Sequence[SessionView], form: Form | None, used: Mapping[str, str]
) -> tuple[str, str, str]:
    """Return the question, what is lost, and how to undo it."""
    first, names = sessions[0], [session.name for session in sessions]
    match action.id:
        case "stop":
            return text.ask_stop(names, used), text.LOST_PROGRAMS, text.undo_stop(names)
        case "restart":
            return text.ask_end_programs(names), text.LOST_PROGRAMS, text.UNDO_NOTHING
        case "resize":
            return text.ask_end_programs(names), text.LOST_PROGRAMS, text.undo_resize(first)
        case "delete":
            return text.ask_delete(names), text.LOST_UNTIL_RESTORED, text.undo_delete(names)
        case "purge":
            return text.ask_delete(names, purge=True), text.LOST_FILES, text.CANNOT_BE_UNDONE
        case "rollback":
            question = f"Roll {first.name} back to snapshot {_require_form(form).text('snapshot')}?"
        case "switch":
            question = f"Switch {first.name} to {_profile(_require_form(form))}?"
        case _:
            raise KeyError(action.id)
    return question, text.LOST_NOTHING, text.undo_operation(first.name)


def _plan(action: SessionAction, session: SessionView, form: Form | None) -> str:
    match action.id:
        case "rollback":
            return text.describe_rollback_plan(_require_form(form).text("snapshot"))
        case "switch":
            return text.describe_switch_plan(session, _profile(_require_form(form)))
        case "resize":
            return text.describe_resize_plan(resource_options(_require_form(form)))
        case "restart":
            return text.RESTART_PLAN
    return ""


def _changes(report: CheckReport, form: Form | None) -> Iterator[str]:
    """Yield what a switch changes; controllers of earlier versions do not report it."""
    if report.switch is None:
        return
    fresh = _require_form(form).values()["fresh"] is True
    for title, before, after in text.describe_switch_changes(report.session, report.switch, fresh=fresh):
        if before in {"", after}:
            yield f"{title:<{_TITLE_CELLS}}{after}{' (unchanged)' if before else ''}"
        else:
            yield f"{title:<{_TITLE_CELLS}}{before}"
            yield f"{'->':>{_TITLE_CELLS - 1}} {after}"


def _with_programs(lost: str) -> str:
    return lost if lost == text.LOST_PROGRAMS else f"{text.LOST_PROGRAMS}; of the files {lost}"


def _profile(form: Form) -> ProfileReference:
    profile = form.values()["profile"]
    assert isinstance(profile, ProfileReference)
    return profile


def _require_form(form: Form | None) -> Form:
    assert form is not None, "the action has a form"
    return form
