"""Requests of actions to the controller: in threads, with messages about their progress and their result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from broker.errors import ControllerUnavailableError, NotFoundError
from tui.core.outcome import describe_result, failed_operation, is_complete
from tui.workers.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.client import Client
    from broker.forms.form import Form
    from broker.schema.checks import CheckReport, CheckRequest
    from broker.schema.sessions import PresentJob, SessionView

_Result = TypeVar("_Result")

WAIT_S = 20.0
"""Seconds for which the controller may delay its answer while a change is pending."""


class RequestWorker:
    """Sends the requests of actions. `clock` returns the seconds since the epoch."""

    def __init__(self, open_client: Callable[[], Client], clock: Callable[[], float]) -> None:
        self._open_client = open_client
        self._clock = clock

    async def read(self, call: Callable[[Client], _Result]) -> _Result:
        """Return the result of calls that only read; BerthError if they fail."""
        return await in_thread(lambda: call(self._open_client()))

    async def check(self, name: str, make_request: Callable[[], CheckRequest]) -> CheckReport:
        """Return the controller's report on a request; its error if it would be refused."""
        return await self.read(lambda client: client.check(name, make_request()))

    async def run(self, action_id: str, name: str, form: Form | None, present_job: PresentJob = "auto") -> str:
        """Send an action's request, wait until the change is complete, and return its description.

        `present_job`: what the question before a resize said of the present job.

        BerthError if it is refused or fails. A session that waits in Slurm's queue is not waited for. If the connection
        is lost after the request, the description says that the request was accepted.
        """
        view = await self.read(partial(_send, action_id=action_id, name=name, form=form, present_job=present_job))
        operation = view.operation
        operation_id = operation.id if operation is not None and operation.verb == action_id else None
        while not is_complete(action_id, view):
            try:
                view = await self.read(partial(_next_view, view=view))
            except NotFoundError:
                if action_id not in {"delete", "purge"}:
                    raise
                break
            except ControllerUnavailableError:
                return f"{view.name}: the request was accepted; the list shows its result when the controller answers"
        if failure := failed_operation(action_id, view, operation_id):
            raise failure
        return describe_result(action_id, view, operation_id, self._clock())


def _send(client: Client, *, action_id: str, name: str, form: Form | None, present_job: PresentJob) -> SessionView:
    from tui.workers.calls import send  # noqa: PLC0415 - the types of the API take long to import

    return send(client, action_id, name, form, present_job)


def _next_view(client: Client, *, view: SessionView) -> SessionView:
    return client.session(view.name, after=view.revision, wait=WAIT_S)
