"""`berth show` and `stop`, and the arguments and options that many commands have."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName
from broker.cli.several import all_option, apply_to_each, print_views, raise_failures, selected_names
from broker.cli.time_params import Duration, PointInTime
from broker.errors import BerthError, InvalidInputError

_GIVEN = click.core.ParameterSource.COMMANDLINE
name_argument = click.argument("name", type=SessionName(), metavar="NAME")
names_argument = click.argument("names", type=SessionName(), nargs=-1, metavar="NAME...")

no_wait_option = click.option("--no-wait", is_flag=True, help="Return at once; the operation continues.")

timeout_option = click.option(
    "--timeout",
    type=Duration(bare_unit_s=1.0),
    metavar="TIME",
    help="Wait at most this long, such as 10m or 600 (seconds); exit code 8. The operation continues.",
)


@click.command()
@name_argument
@json_option
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show the details of a session.

    Its state and reason, job, times and resources, the outcome of its last job, its persistence and volumes, and the
    current operation.
    """
    from broker.cli.session_text import session_page

    view = invocation.client.read_session(name)
    if invocation.json:
        output.print_json(view)
        return
    output.print_line(view.name)
    for title, text in session_page(view, invocation.client.domain(), time.time()):
        output.print_line(f"  {title:<10} {text}")


@click.command()
@names_argument
@all_option("running")
@click.option("--at", type=PointInTime(), metavar="TIME", help="Stop at this time instead of now; `never` cancels it.")
@click.option("--keep-until", type=PointInTime(), metavar="TIME", help="As --at, and continue in new jobs until then.")
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
    no_wait: bool,
    timeout: float | None,
) -> None:
    """End a session's job and keep its files.

    Returns when the job has ended and `berth start NAME` can start the session again. It is no error if the session is
    already stopped.

    TIME is 18:00, 2026-12-24T18:00, or a time from now such as 4h or 1h30m. If a job has to end before that time, the
    session continues in a new job: with --at if its policy allows it, with --keep-until in any case.

    \b
      berth stop dev --at 18:00
      berth stop dev --keep-until 2026-12-24T08:00
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.session_text import ENDED, describe_stop_time
    from broker.schema.states import LIVE

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
