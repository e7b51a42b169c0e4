"""The calls to the controller's API that carry out the catalogue's actions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from broker.forms import form_requests as requests
from broker.forms.form import YES
from broker.forms.start_form import resource_options, start_request
from broker.schema.sessions import ConnectPolicy, RenameRequest, StartRequest
from broker.schema.states import STARTABLE
from broker.schema.volumes import RestoreRequest
from broker.user_input import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.client import Client
    from broker.forms.form import Form
    from broker.schema.sessions import PresentJob, SessionView


def _start_new(client: Client, _name: str, form: Form) -> SessionView:
    return client.start(str(form.values()["name"]), start_request(form, os.environ))


def _start(client: Client, name: str) -> SessionView:
    return client.start(name, StartRequest())


def _restart(client: Client, name: str) -> SessionView:
    return _start(client, name) if client.session(name).state in STARTABLE else client.restart(name)


def _stop_at(client: Client, name: str, form: Form) -> SessionView:
    values = form.values()
    return client.set_stop_time(name, cast("float | None", values["at"]), keep=values["keep"] is True)


def _extend(client: Client, name: str, form: Form) -> SessionView:
    return client.extend(name, cast("float", form.values()["time"]))


def _resize(client: Client, name: str, form: Form, present_job: PresentJob = "auto") -> SessionView:
    return client.resize(name, resource_options(form), present_job)


def _policies(client: Client, name: str, form: Form) -> SessionView:
    """Send the chosen policies. Each is one call, as in `berth set`."""
    values = form.values()
    connecting: dict[str, object] = {}
    if start := form.text("start"):
        connecting["start"] = None if start == DEFAULT else start == YES
    if (wait := values["wait"]) is not None:
        (connecting["wait"],) = cast("tuple[float | None]", wait)
    calls: list[Callable[[], SessionView]] = []
    if connecting:
        policy = ConnectPolicy.model_validate(connecting)
        calls.append(lambda: client.set_connecting(name, policy))
    if (chosen := values["continue"]) is not None:
        (continuation,) = cast("tuple[str | None]", chosen)
        calls.append(lambda: client.set_continuation(name, continuation))
    if (chosen := values["idle"]) is not None:
        (idle,) = cast("tuple[str | None]", chosen)
        calls.append(lambda: client.set_idle(name, idle))
    return [call() for call in calls][-1]


def _rename(client: Client, name: str, form: Form) -> SessionView:
    return client.rename(name, RenameRequest(name=str(form.values()["new"])))


def _snapshot(client: Client, name: str, form: Form) -> SessionView:
    return client.snapshot(name, requests.snapshot_request(form))


def _rollback(client: Client, name: str, form: Form) -> SessionView:
    return client.rollback(name, requests.rollback_request(form))


def _switch(client: Client, name: str, form: Form) -> SessionView:
    return client.switch(name, requests.switch_request(form))


def _clone(client: Client, name: str, form: Form) -> SessionView:
    return client.clone(name, requests.clone_request(form))


def _restore(client: Client, _name: str, form: Form) -> SessionView:
    values = form.values()
    return client.restore(str(values["name"]), RestoreRequest(name=cast("str | None", values["as"])))


FORM_CALLS: dict[str, Callable[[Client, str, Form], SessionView]] = {
    "new": _start_new,
    "stop-at": _stop_at,
    "extend": _extend,
    "resize": _resize,
    "policies": _policies,
    "rename": _rename,
    "snapshot": _snapshot,
    "rollback": _rollback,
    "switch": _switch,
    "clone": _clone,
    "restore": _restore,
}
"""Action → its call with the session's name and a valid form."""

PLAIN_CALLS: dict[str, Callable[[Client, str], SessionView]] = {
    "start": _start,
    "stop": lambda client, name: client.stop(name),
    "restart": _restart,
    "cancel-resize": lambda client, name: client.withdraw_resize(name),
    "delete": lambda client, name: client.delete(name),
    "purge": lambda client, name: client.delete(name, purge=True),
    "flatten": lambda client, name: client.flatten(name),
}
"""Action → its call with the session's name."""


def send(client: Client, action_id: str, name: str, form: Form | None, present_job: PresentJob = "auto") -> SessionView:
    """Make the call of an action; return the session as the controller answers. BerthError if it refuses.

    InvalidFormError, and no request, if the form is invalid. `present_job`: what the question before a resize said.
    """
    if form is None:
        return PLAIN_CALLS[action_id](client, name)
    form.values()
    if action_id == "resize":
        return _resize(client, name, form, present_job)
    return FORM_CALLS[action_id](client, name, form)
