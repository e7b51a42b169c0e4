"""`berth restart`: stop a session and start it again."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.commands.sessions import names_argument, timeout_option
from broker.cli.commands.start import announce, begin
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.several import all_option, apply_to_each, print_views, raise_failures, selected_names

if TYPE_CHECKING:
    from broker.errors import BerthError


@click.command()
@names_argument
@all_option("running")
@timeout_option
@json_option
@pass_invocation
def restart(invocation: Invocation, names: tuple[str, ...], *, every: bool, timeout: float | None) -> None:
    """Stop a session and start it again.

    It starts with its present options, and keeps its files; running programs end. A stopped session is started.
    """
    from broker.cli.wait import until_ended, until_ready
    from broker.schema.states import LIVE

    chosen = selected_names(invocation, names, LIVE, every=every)
    failed: list[BerthError] = []
    views = {view.name: view for view in apply_to_each(chosen, invocation.client.stop, failed)}
    ended = apply_to_each(list(views), lambda name: until_ended(invocation, views[name], timeout=timeout), failed)
    begun = apply_to_each([view.name for view in ended], lambda name: begin(invocation, name, {}), failed)
    views = {view.name: view for view in begun}
    started = apply_to_each(list(views), lambda name: until_ready(invocation, views[name], timeout=timeout), failed)
    domain = invocation.client.site().domain if started else ""
    for view in [] if invocation.json else started:
        announce(invocation, view, domain)
    print_views(invocation, started, single=len(chosen) == 1)
    raise_failures(failed, len(chosen))
