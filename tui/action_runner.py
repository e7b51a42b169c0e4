"""Run the catalogue's actions: forms, questions, requests and results, each on its own while the list stays usable."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.format import escape_controls
from broker.text.question import describe_use
from tui.core.actions import find_action
from tui.core.confirmation import CHECKED_ACTIONS, confirmation, make_check, snapshot_deletion
from tui.core.outcome import describe_error
from tui.core.session_action import RunMode, SessionAction, needs_confirmation, refusal
from tui.core.views import TEXT_VIEWS, cluster_text, shared_text, ssh_line
from tui.program import berth_program
from tui.screens.action_forms import ActionFormScreen, asks_user, preset_form
from tui.screens.confirm import ConfirmScreen
from tui.screens.snapshots import SnapshotsScreen
from tui.screens.text_view import LoadedTextScreen, LogScreen, OutputScreen
from tui.terminal import run_in_terminal
from tui.workers.requests import RequestWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.client.client import Client
    from broker.forms.form import Form
    from broker.schema.checks import CheckReport
    from broker.schema.sessions import PresentJob, SessionView
    from tui.app import BerthApp
    from tui.core.catalogue_action import CatalogueAction
    from tui.core.confirmation import Confirmation
    from tui.core.views import Lines

RESULT_S = 12.0
"""Seconds for which a result is shown: it may have a command to read."""

CLUSTER_S = 30.0
"""Seconds between two looks at the cluster while its screen is open; the controller queries Slurm no more often."""

SHARING_S = 3.0
"""The same for what is shared, and for the guests who are in."""


class ActionRunner:
    """Runs actions for an application. `open_client` may raise BerthError."""

    def __init__(self, open_client: Callable[[], Client]) -> None:
        self._open_client = open_client

    def run_action(self, app: BerthApp, action: CatalogueAction, sessions: list[SessionView]) -> None:
        """Run the action, and return at once. A refusal is shown with its reason; then nothing is sent."""
        assert isinstance(action, SessionAction)
        if app.screen is app.main_screen:  # else the key was typed before the screen of another action was shown
            self._begin(app, action, sessions)

    def _begin(
        self,
        app: BerthApp,
        action: SessionAction,
        sessions: Sequence[SessionView],
        preset: Mapping[str, str] | None = None,
        finished: Callable[[], None] | None = None,
    ) -> None:
        chosen = list(sessions) if action.needs_session else []
        if reason := app.connection.refusal(app.clock()) or refusal(action, chosen):
            app.notify(f"{action.title}: {reason}", severity="warning", markup=False)
            return
        ActionRun(app=app, runner=self, action=action, sessions=chosen, finished=finished).begin(preset or {})

    def requests(self, app: BerthApp) -> RequestWorker:
        """Return the worker that sends an application's requests."""
        return RequestWorker(self._open_client, app.clock)

    def act_on(
        self,
        app: BerthApp,
        session: SessionView,
        action_id: str,
        preset: Mapping[str, str],
        finished: Callable[[], None],
    ) -> None:
        """Run an action for a session, with the texts of its form; call `finished` at its end."""
        self._begin(app, find_action(action_id), [session], preset, finished)

    def delete_snapshot(self, app: BerthApp, session: SessionView, number: str, finished: Callable[[], None]) -> None:
        """Ask, and delete a snapshot."""
        if reason := app.connection.refusal(app.clock()):
            app.notify(f"delete the snapshot: {reason}", severity="warning", markup=False)
            return
        app.run_worker(self._delete_snapshot(app, session, number, finished), group="actions")

    async def _delete_snapshot(
        self, app: BerthApp, session: SessionView, number: str, finished: Callable[[], None]
    ) -> None:
        async def load() -> Confirmation:
            return snapshot_deletion(session, number)

        what = f"delete snapshot {number} of {session.name}"
        if await app.push_screen_wait(ConfirmScreen(what, load)) is not True:
            return
        try:
            await self.requests(app).read(lambda client: client.delete_snapshot(session.name, number))
        except BerthError as error:
            show_failure(app, what, error)
        else:
            _show(app, f"deleted snapshot {number} of {session.name}; its disk space is freed in the background")
        finished()


@dataclass(frozen=True, kw_only=True)
class ActionRun:
    """One run of an action; `finished` is called after its requests."""

    app: BerthApp
    runner: ActionRunner
    action: SessionAction
    sessions: list[SessionView]
    finished: Callable[[], None] | None
    agreed: dict[str, PresentJob] = field(default_factory=dict)
    """By session, what a resize does with the present job, as the question says: Slurm's answer can change."""

    @cached_property
    def requests(self) -> RequestWorker:
        """The worker that sends the requests."""
        return self.runner.requests(self.app)

    def begin(self, preset: Mapping[str, str]) -> None:
        """Show the form at once, so that no key that follows goes to the list; or continue without one."""
        form = preset_form(self.action, preset)
        if form is None or not asks_user(self.action, form, preset):
            self._confirm(form)
            return
        screen = ActionFormScreen(self.app, self.requests, self.action, form, self.sessions)
        self.app.push_screen(screen, self._form_closed)

    def _form_closed(self, form: Form | None) -> None:
        if form is not None:
            self._confirm(form)

    def _confirm(self, form: Form | None) -> None:
        """Ask if the action is dangerous, and carry it out unless the answer is no."""
        if needs_confirmation(self.action, self.sessions):
            screen = ConfirmScreen(self.action.title, partial(self._question, form))
            self.app.push_screen(screen, partial(self._handle_answer, form))
        else:
            self._carry_out(form)

    def _handle_answer(self, form: Form | None, answer: bool | BerthError | None) -> None:
        if isinstance(answer, BerthError):
            show_failure(self.app, self.action.title, answer)
        elif answer:
            self._carry_out(form)

    def _carry_out(self, form: Form | None) -> None:
        """Begin it, unless the connection was lost meanwhile. A screen of its own is there on return."""
        if reason := self.app.connection.refusal(self.app.clock()):
            self.app.notify(f"{self.action.title}: {reason}", severity="warning", markup=False)
            return
        match self.action.mode:
            case RunMode.CALL:
                self.app.run_worker(self._send_all(form), group="actions")
            case RunMode.TERMINAL:
                command = self._command(form)
                run_in_terminal(self.app, berth_program(command), shown=command)
            case RunMode.OUTPUT:
                self.app.push_screen(OutputScreen(self._command(form)))
            case RunMode.SCREEN:
                self._push_screen()

    async def _question(self, form: Form | None) -> Confirmation:
        """Return the question, after the controller has checked the request; its error if it refuses."""
        action, sessions = self.action, self.sessions
        reports: list[CheckReport] = []
        if action.id in CHECKED_ACTIONS:
            make = partial(make_check, action, form)
            reports = await asyncio.gather(*(self.requests.check(session.name, make) for session in sessions))
            self.agreed.update({report.session.name: "keep" if report.beside else "end" for report in reports})
        used: dict[str, str] = {}
        if action.id == "stop":
            for session in sessions:
                used |= await self._use(session.name)
        return confirmation(action, sessions, form, reports=reports, used=used, now=self.app.clock())

    async def _use(self, name: str) -> dict[str, str]:
        try:
            text = describe_use(await self.requests.read(lambda client: client.presence(name)))
        except BerthError:  # the stop itself reports the error
            return {}
        return {name: text} if text else {}

    async def _send_all(self, form: Form | None) -> None:
        names = [session.name for session in self.sessions] or [""]
        await asyncio.gather(*(self._send(name, form) for name in names))
        if self.finished is not None:
            self.finished()

    async def _send(self, name: str, form: Form | None) -> None:
        what = f"{name}: {self.action.title}" if name else self.action.title
        self.app.notify(f"{what}: sent", timeout=2, markup=False)
        try:
            _show(self.app, await self.requests.run(self.action.id, name, form, self.agreed.get(name, "auto")))
        except BerthError as error:
            show_failure(self.app, what, error)

    def _push_screen(self) -> None:
        app, action = self.app, self.action
        if action.id == "cluster":
            self._push_text("cluster", self._read_cluster, every_s=CLUSTER_S)
            return
        if action.id == "shared":
            self._push_text(
                "shared with you", lambda client, now, _cells: shared_text(client.shared_list(), now), every_s=SHARING_S
            )
            return
        session = self.sessions[0]
        if action.id == "copy-ssh":
            line = ssh_line(session, app.site.domain)
            app.copy_to_clipboard(line)
            _show(app, f"copied: {line}")
        elif action.id == "snapshots":
            act = partial(self.runner.act_on, app, session)
            delete = partial(self.runner.delete_snapshot, app, session)
            app.push_screen(SnapshotsScreen(session, self.requests, act, delete, clock=app.clock))
        elif action.id == "logs":
            app.push_screen(LogScreen(session.name, self._command(None), self.requests))
        else:
            read = TEXT_VIEWS[action.id]
            self._push_text(
                f"{action.id} of {session.name}",
                lambda client, now, cells: read(client, session.name, now, cells),
                every_s=SHARING_S if action.id == "shares" else None,
            )

    def _push_text(self, title: str, read: Callable[[Client, float, int], Lines], every_s: float | None = None) -> None:
        command, clock = self._command(None), self.app.clock
        self.app.push_screen(LoadedTextScreen(title, command, self.requests, read, clock=clock, every_s=every_s))

    def _read_cluster(self, client: Client, now: float, cells: int) -> Lines:
        return cluster_text(client, list(self.app.main_screen.sessions.views.values()), now, cells)

    def _command(self, form: Form | None) -> list[str]:
        return self.action.command_line(self.sessions, form)


def show_failure(app: BerthApp, what: str, error: BerthError) -> None:
    """Show the message and the hint of a failed action."""
    text = escape_controls(f"{what}: {describe_error(error)}")
    app.notify(text, severity="error", timeout=RESULT_S, markup=False)


def _show(app: BerthApp, text: str) -> None:
    app.notify(escape_controls(text), timeout=RESULT_S, markup=False)
