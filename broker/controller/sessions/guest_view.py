"""A session as a guest sees it: state and resources, under the name by which they request it.

Everything here is a list of what is shown: a new field, event or line stays the owner's alone.
"""

from __future__ import annotations

import contextlib
import copy
import re
from typing import TYPE_CHECKING

from broker.controller.reconcile.stop import ENDED_BY_OPERATOR, STOPPED_BY
from broker.errors import BerthError, RefusedError
from broker.names import split_reference
from broker.schema.operations import OPERATIONS
from broker.schema.permissions import Permission
from broker.schema.sessions import SessionState, SessionView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.schema.sessions import JobView
    from broker.schema.site import EventView

RESOURCE_OPTIONS = frozenset({"mem", "mem-per-cpu", "cpus-per-task", "gres", "gpus", "nodes", "ntasks", "time"})
"""The options of sbatch that a guest sees. Others may name projects, reservations or files of the owner."""
OTHER_GUEST = "another guest"
GUEST_OPERATIONS = frozenset(verb for verb, kind in OPERATIONS.items() if kind.permission is Permission.SNAPSHOT)
"""Operations that guests request: their messages are shown."""
_PROGRAM = "berth"
_SHOWN = (
    *("id", "owner", "state", "profile", "version", "digest", "job_id", "generation", "keeps_job", "endpoint"),
    *("host_key_fingerprint", "created_at", "submitted_at", "started_at", "expected_start_at", "ahead", "ends_at"),
    *("ended_at", "outcome", "root", "next_job_id", "next_job_reason", "resizing", "beside", "node_condition"),
    *("node_reason", "interruption", "interrupted_at", "revision", "stale_since"),
)
"""Fields of the view that are shown as they are."""
_EXPLAINED = frozenset(
    {"start", "extend", "submitted", "continued", "requeued", "node", "held", *(state.value for state in SessionState)}
)
"""Actions whose events are shown with their detail."""
_CHANGES = ("snapshot", "rollback", "switch", "restart")
_NAMED = frozenset({"stop", *_CHANGES, *(f"{verb}-{end}" for verb in _CHANGES for end in ("done", "failed", "undone"))})
"""Actions whose events are shown without it: it may have labels and names of the owner's."""
_STOP = re.compile(rf"((?:[A-Z_]+ )?)({STOPPED_BY}|{ENDED_BY_OPERATOR})(\S+)")
"""The reason of a stop, as a session's state or, after the job's outcome, an event has it."""
_CLIENT_LINE = re.compile(r"^[^\n]*\b(?:port [0-9]+|SHA256:)[^\n]*(?:\n|\Z)", re.MULTILINE)
"""A line of sshd about a connection: who is connected is the owner's alone."""


def view_for_user(user: str, view: SessionView) -> SessionView:
    """Return the session as `user` may see it: unchanged for its owner, the fields of guests for others."""
    if user == view.owner:
        return view
    operation = view.operation
    if operation is not None:
        shown = operation.message if operation.verb in GUEST_OPERATIONS else ""
        operation = operation.model_copy(update={"message": shown, "hint": "", "undo": ""})
    return SessionView(
        **{name: getattr(view, name) for name in _SHOWN},
        name=f"{view.owner}.{view.name}",
        reason=_reason(user, view.reason),
        options=only_resources(view.options),
        operation=operation,
    )


def only_resources(options: Iterable[str]) -> list[str]:
    """Return those of RESOURCE_OPTIONS."""
    return [each for each in options if _option_name(each) in RESOURCE_OPTIONS]


def events_for_guest(user: str, owner: str, events: Iterable[EventView]) -> Iterator[EventView]:
    """Yield the events that a guest sees, without the names of other guests."""
    for event in events:
        if event.action not in _EXPLAINED | _NAMED:
            continue
        yield event.model_copy(
            update={
                "actor": event.actor if event.actor in {owner, user, "berth"} else OTHER_GUEST,
                "detail": _reason(user, event.detail) if event.action in _EXPLAINED else "",
            }
        )


def jobs_for_guest(user: str, owner: str, jobs: Iterable[JobView]) -> list[JobView]:
    """Return the jobs with the reasons that `user` may see: all for the owner."""
    return [job if user == owner else job.model_copy(update={"reason": _reason(user, job.reason)}) for job in jobs]


def log_for_guest(text: str) -> str:
    """Return a job's log without sshd's lines about connections."""
    return _CLIENT_LINE.sub("", text)


@contextlib.contextmanager
def limits_of(owner: str, user: str) -> Iterator[None]:
    """Give a guest a refusal by the owner's limits without what it says about the owner's other sessions."""
    try:
        yield
    except RefusedError:
        if user == owner:
            raise
        raise RefusedError(f"a limit of {owner} is reached", hint=f"{owner} sees which one") from None


@contextlib.contextmanager
def errors_for_guest(reference: str) -> Iterator[None]:
    """Give errors of the block the name that the caller has used, `OWNER.NAME`, where they have only `NAME`."""
    try:
        yield
    except BerthError as error:
        owner, name = split_reference(reference, "")
        if not owner:
            raise
        renamed = copy.copy(error)  # other requests may wait for the same error
        renamed.message = re.sub(rf"\A{name}(?= )", reference, _in_commands(error.message, name, reference))
        renamed.hint = _in_commands(error.hint, name, reference)
        raise renamed from error


def _reason(user: str, reason: str) -> str:
    """Return the explanation of a state, without what is for the owner: another guest's name, an operator's message."""
    found = _STOP.match(reason)
    if found is None:
        return reason
    outcome, how, who = found.groups()
    if how == ENDED_BY_OPERATOR:
        return f"{outcome}ended by an operator"
    return f"{outcome}{STOPPED_BY}{user if who == user else OTHER_GUEST}"


def _option_name(option: str) -> str:
    return option.partition("=")[0].removeprefix("--")


def _in_commands(text: str, name: str, reference: str) -> str:
    """Replace the name in commands such as `berth show NAME`."""
    return re.sub(rf"(`{_PROGRAM} [a-z]+ ){name}(?=[` ])", rf"\g<1>{reference}", text)
