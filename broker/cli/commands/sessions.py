"""`berth show` and `stop`, and the arguments and options that many commands have."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName, SessionReference, watch_option
from broker.cli.prompts import confirm_stop, optional_yes_option
from broker.cli.several import all_option, apply_to_each, print_views, raise_failures, selected_names
from broker.cli.time_params import Duration, PointInTime
from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView
    from broker.schema.site import SiteView

_GIVEN = click.core.ParameterSource.COMMANDLINE
name_argument = click.argument("name", type=SessionName(), metavar="NAME")
reference_argument = click.argument("name", type=SessionReference(), metavar="[OWNER.]NAME")
names_argument = click.argument("names", type=SessionName(), nargs=-1, metavar="NAME...")
references_argument = click.argument("names", type=SessionReference(), nargs=-1, metavar="[OWNER.]NAME...")

no_wait_option = click.option("--no-wait", is_flag=True, help="Return at once; the operation continues.")

timeout_option = click.option(
    "--timeout",
    type=Duration(bare_unit_s=1.0),
    metavar="TIME",
    help="Wait at most this long, such as 10m or 600 (seconds); exit code 8. The operation continues.",
)


@click.command()
@reference_argument
@watch_option
@json_option
@pass_invocation
def show(invocation: Invocation, name: str, *, watch: bool) -> None:
    """Show the details of a session.

    Its state and reason, its profile and whose that is, job, times and resources, the outcome of its last job, its
    persistence and volumes, and the current operation.

    With --watch, the page follows every change until Ctrl-C, or until the session is deleted: in place on a terminal,
    elsewhere with one line for each change, and with --json as one object for each change.
    """
    if watch and "." in name:
        raise InvalidInputError("--watch follows your own sessions only", hint=f"`berth show {name}` shows its state")
    view = invocation.client.read_session(name)
    if watch:
        from broker.cli.watch_output import show_one

        show_one(invocation, view.id, partial(_page, site=invocation.client.read_site()))
    elif invocation.json:
        output.print_json(view)
    else:
        for line in _page(view, invocation.client.read_site()):
            output.print_line(line)


def _page(view: SessionView, site: SiteView) -> list[str]:
    from broker.text.session import session_page

    rows = session_page(view, site.domain, time.time(), site.profile_stores)
    return [view.name, *(f"  {title:<10} {text}" for title, text in rows)]


@click.command()
@references_argument
@all_option("running")
@click.option("--at", type=PointInTime(), metavar="TIME", help="Stop at this time instead of now; `never` cancels it.")
@click.option("--keep-until", type=PointInTime(), metavar="TIME", help="As --at, and continue in new jobs until then.")
@optional_yes_option
@no_wait_option
@timeout_option
@json_option
@pass_invocation
@click.pass_context
def stop(
    ctx: click.Context,
    invocation: Invocation,
    names: tuple[str, ...],
    *,
    every: bool,
    at: float | None,
    keep_until: float | None,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """End a session's job and keep its files.

    Returns when the job has ended and `berth start NAME` can start the session again. It is no error if the session is
    already stopped. On a terminal, the command asks first if the session has logins, also yours. The session's
    terminals show who stopped it and how to return.

    TIME is 18:00, 2026-12-24T18:00, or a time from now such as 4h or 1h30m. If a job has to end before that time, the
    session continues in a new job: with --at if its policy allows it, with --keep-until in any case.

    \b
      berth stop dev --at 18:00
      berth stop dev --keep-until 2026-12-24T08:00
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.schema.states import LIVE
    from broker.text.session import ENDED, describe_stop_time

    given = [word for word in ("at", "keep_until") if ctx.get_parameter_source(word) is _GIVEN]
    if len(given) > 1:
        raise InvalidInputError("--at and --keep-until exclude each other", hint="use one of them")
    chosen = selected_names(invocation, names, LIVE, every=every)
    failed: list[BerthError] = []
    if given:
        when = keep_until if given == ["keep_until"] else at
        views = apply_to_each(
            chosen, lambda name: invocation.client.set_stop_time(name, when, keep=given == ["keep_until"]), failed
        )
    else:
        confirm_stop(invocation, chosen, yes=yes)
        views = apply_to_each(chosen, invocation.client.stop, failed)
        if not no_wait:
            from broker.cli.wait import until_ended

            stopping = {view.name: view for view in views}
            views = apply_to_each(
                list(stopping), lambda name: until_ended(invocation, stopping[name], timeout=timeout), failed
            )
    for view in [] if invocation.json else views:
        if given:
            output.print_note(f"{view.name} {describe_stop_time(view, time.time()) or 'has no stop time'}")
        else:
            output.print_note(f"{view.name} is {'stopped' if view.state in ENDED else 'stopping'}; its files are kept")
    print_views(invocation, views, single=len(chosen) == 1)
    raise_failures(failed, len(chosen))
