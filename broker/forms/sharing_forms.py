"""The forms of sharing: with whom, what, and until when."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker.forms.form import Field, Form, choice
from broker.names import FULL_NAME_PATTERN, SERVICE_PATTERN
from broker.user_input import NEVER, parse_grantee, parse_point, parse_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES_TO_CHOOSE = ("watch", "operate", "pair", "use")
_OBJECTS = ("service", "snapshot")


def share_form() -> Form:
    """Return the form for a grant."""
    return Form(
        "Share",
        (
            _grantee(),
            choice("role", "Role", ("", *ROLES_TO_CHOOSE), help="or one service, or one snapshot"),
            _service(),
            _snapshot(),
            Field(
                id="until",
                title="Until",
                parse=_parse_end,
                example="18:00, 2026-12-24T18:00, 3d",
                help="when the access ends; empty: when you end it",
            ),
        ),
        rule=_one_object,
    )


def share_words(form: Form) -> list[str]:
    """Return the words of `berth share` after the session's name."""
    return [form.text("grantee"), *_options(form, "role", *_OBJECTS, "until")]


def unshare_form() -> Form:
    """Return the form for the end of a grant."""
    return Form("End the sharing", (_grantee(), _service(), _snapshot()), rule=_at_most_one)


def unshare_words(form: Form) -> list[str]:
    """Return the words of `berth unshare` after the session's name."""
    return [form.text("grantee"), *_options(form, *_OBJECTS)]


def leave_form() -> Form:
    """Return the form with which a guest gives up an access."""
    name = Field(id="name", title="Session", parse=_parse_shared, required=True, example="alice.dev, of another user")
    return Form("Leave", (name, _service(), _snapshot()), rule=_at_most_one)


def leave_words(form: Form) -> list[str]:
    """Return the words of `berth leave`."""
    return [form.text("name"), *_options(form, *_OBJECTS)]


def _grantee() -> Field:
    return Field(id="grantee", title="With", parse=parse_grantee, required=True, example="bob, or @physics for a group")


def _service() -> Field:
    return Field(id="service", title="Service", parse=_parse_service, example="board, port-8000", help="this one alone")


def _snapshot() -> Field:
    return Field(id="snapshot", title="Snapshot", parse=parse_snapshot, example="3", help="this one alone")


def _parse_shared(text: str) -> str:
    if not re.fullmatch(FULL_NAME_PATTERN, text):
        raise ValueError(f"{text!r} is not OWNER.NAME, as `berth list --shared` shows it")
    return text


def _parse_service(text: str) -> str:
    if not re.fullmatch(SERVICE_PATTERN, text):
        raise ValueError(f"{text!r} is not the name of a service; `berth services NAME` lists them")
    return text


def _parse_end(text: str) -> float:
    at = parse_point(text)
    if at is None:
        raise ValueError(f"leave it empty instead of {NEVER!r}")
    return at


def _options(form: Form, *names: str) -> list[str]:
    return [word for name in names if form.text(name) for word in (f"--{name}", form.text(name))]


def _one_object(values: Mapping[str, object]) -> dict[str, str]:
    chosen = [name for name in ("role", *_OBJECTS) if values.get(name)]
    return {} if len(chosen) == 1 else {"role": "choose a role, a service or a snapshot: one of them"}


def _at_most_one(values: Mapping[str, object]) -> dict[str, str]:
    return {"snapshot": "choose a service or a snapshot"} if all(values.get(name) for name in _OBJECTS) else {}
