"""`berth restart`: stop a session and start it again."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from broker.cli.commands.sessions import names_argument, timeout_option
from broker.cli.commands.start import announce, begin
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.output import is_terminal
from broker.cli.prompts import check_request, confirm_at_terminal, optional_yes_option
from broker.cli.several import all_option, apply_to_each, print_views, raise_failures, selected_names
from broker.text.question import RESTART_PLAN

if TYPE_CHECKING:
    from broker.errors import BerthError
    from broker.schema.sessions import SessionView


@click.command()
@names_argument
@all_option("running")
@optional_yes_option
@timeout_option
@json_option
@pass_invocation
def restart(invocation: Invocation, names: tuple[str, ...], *, every: bool, yes: bool, timeout: float | None) -> None:
    """Stop a session and start it again.

    It starts with its present options, and keeps its files; running programs end. A running session keeps its job, and
    so its node and its GPUs, if the job can be kept. At a terminal, the command says first whether it can, or when
    Slurm expects to start another job, and asks. If the session could not be started again, for example because its
    image is missing, it is not stopped. A stopped session is started.
    """
    from broker.cli.wait import until_ready
    from broker.schema.states import LIVE

    chosen = selected_names(invocation, names, LIVE, every=every)
    failed: list[BerthError] = []
    unasked = yes or not is_terminal(sys.stdin)
    reports = apply_to_each(chosen, lambda name: check_request(invocation, name, yes=unasked, restart=True), failed)
    if not unasked:
        undone = f"{', '.join(chosen)} {'was' if len(chosen) == 1 else 'were'} not restarted"
        confirm_at_terminal(invocation, reports, RESTART_PLAN, undone=undone)
    checked = {report.session.name: report.session for report in reports}
    begun = apply_to_each(list(checked), lambda name: _restart(invocation, checked[name]), failed)
    views = {view.name: view for view in begun}
    started = apply_to_each(list(views), lambda name: until_ready(invocation, views[name], timeout=timeout), failed)
    domain = invocation.client.site().domain if started else ""
    for view in [] if invocation.json else started:
        announce(invocation, view, domain)
    print_views(invocation, started, single=len(chosen) == 1)
    raise_failures(failed, len(chosen))


def _restart(invocation: Invocation, view: SessionView) -> SessionView:
    from broker.schema.states import STARTABLE

    if view.state in STARTABLE:
        return begin(invocation, view.name, {})
    return invocation.client.restart(view.name)
