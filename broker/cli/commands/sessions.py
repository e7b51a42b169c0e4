"""`berth list`, `show`, `stop`, `delete` and `restore`: show sessions, end them, and restore deleted ones."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import DeletedName, SessionName
from broker.cli.prompts import confirm, yes_option
from broker.cli.time_params import Duration, PointInTime
from broker.errors import ConflictError, InvalidInputError

_GIVEN = click.core.ParameterSource.COMMANDLINE
name_argument = click.argument("name", type=SessionName(), metavar="NAME")

no_wait_option = click.option("--no-wait", is_flag=True, help="Return at once; the operation continues.")

timeout_option = click.option(
    "--timeout",
    type=Duration(bare_unit_s=1.0),
    metavar="TIME",
    help="Wait at most this long, such as 10m or 600 (seconds); exit code 8. The operation continues.",
)


@click.command("list")
@click.option("--deleted", is_flag=True, help="List deleted sessions that `berth restore` can restore.")
@json_option
@pass_invocation
def list_sessions(invocation: Invocation, *, deleted: bool) -> None:
    """List your sessions.

    NODE/REASON is the node of a ready session, or the reason why a session waits or has ended. A question mark after
    the state means that Slurm does not answer and the state may be out of date.
    """
    from broker.cli.session_text import HEADINGS, session_row, stale_note

    if deleted:
        _list_deleted(invocation)
        return
    views = invocation.client.sessions()
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
        return
    if not views:
        output.print_note("You have no sessions. `berth start NAME --profile PROFILE` starts one.")
        return
    now = time.time()
    output.print_table(HEADINGS, [session_row(view, now) for view in views])
    outdated = [view for view in views if view.stale_since is not None]
    if outdated:
        output.print_note(f"berth: {stale_note(outdated[0], now).strip(' ()')}")


def _list_deleted(invocation: Invocation) -> None:
    from broker.cli.session_text import DELETED_HEADINGS, deleted_row

    views = invocation.client.deleted()
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
    elif views:
        now = time.time()
        output.print_table(DELETED_HEADINGS, [deleted_row(view, now) for view in views])
    else:
        output.print_note("There is nothing to restore.")


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

    view = invocation.client.session(name)
    if invocation.json:
        output.print_json(view)
        return
    output.print_line(view.name)
    for title, text in session_page(view, invocation.client.site().domain, time.time()):
        output.print_line(f"  {title:<10} {text}")


@click.command()
@name_argument
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
    name: str,
    *,
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

    given = [word for word in ("at", "keep_until") if ctx.get_parameter_source(word) is _GIVEN]
    if len(given) > 1:
        raise InvalidInputError("--at and --keep-until exclude each other", hint="use one of them")
    if given:
        keep = given == ["keep_until"]
        view = invocation.client.set_stop_time(name, keep_until if keep else at, keep=keep)
        if invocation.json:
            output.print_json(view)
        else:
            output.print_note(f"{name} {describe_stop_time(view, time.time()) or 'has no stop time'}")
        return
    view = invocation.client.stop(name)
    if not no_wait:
        from broker.cli.wait import until_ended

        view = until_ended(invocation, view, timeout=timeout)
    if invocation.json:
        output.print_json(view)
    else:
        output.print_note(f"{name} is {'stopped' if view.state in ENDED else 'stopping'}; its files are kept")


@click.command()
@name_argument
@click.option("--purge", is_flag=True, help="Delete permanently: `berth restore` cannot restore it.")
@yes_option
@no_wait_option
@timeout_option
@json_option
@pass_invocation
def delete(invocation: Invocation, name: str, *, purge: bool, yes: bool, no_wait: bool, timeout: float | None) -> None:
    """Delete a stopped session and all its files.

    `berth restore NAME` can restore it with its snapshots for a time that the site sets; the command prints until
    when. The name is free at once.
    """
    from broker.cli.session_text import ENDED
    from broker.format import format_time

    view = invocation.client.session(name)
    if view.state not in ENDED:
        raise ConflictError(
            f"{name} cannot be deleted while it is {view.state}", hint=f"`berth stop {name}` ends its job first"
        )
    permanently = " permanently" if purge else ""
    confirm(f"Delete {name} and all its files{permanently}?", undone=f"{name} was not deleted", yes=yes)
    view = invocation.client.delete(name, purge=purge)
    if not no_wait:
        from broker.cli.wait import until_gone

        until_gone(invocation, view, timeout=timeout)
    if invocation.json:
        output.print_json({"deleted": name, "id": view.id, "complete": not no_wait, "kept_until": view.kept_until})
        return
    kept = "" if view.kept_until is None else f"`berth restore {name}` restores it until {format_time(view.kept_until)}"
    output.print_note(f"{name} is {'being deleted' if no_wait else 'deleted'}{f'; {kept}' if kept else ' permanently'}")


@click.command()
@click.argument("name", type=DeletedName(), metavar="NAME")
@click.option("--as", "new", type=SessionName(), metavar="NEW", help="Restore it under this name.")
@timeout_option
@json_option
@pass_invocation
def restore(invocation: Invocation, name: str, new: str | None, *, timeout: float | None) -> None:
    """Restore a deleted session.

    The session is stopped then, with all its files and snapshots. `berth list --deleted` lists deleted sessions; of
    several with the same name, the last deleted one is restored.
    """
    from broker.cli.wait import asking, until_made
    from broker.schema.volumes import RestoreRequest

    with asking(invocation, new or name, "restore"):
        view = invocation.client.restore(name, RestoreRequest(name=new))
    view = until_made(invocation, view, timeout=timeout)
    if invocation.json:
        output.print_json(view)
    else:
        output.print_note(f"{view.name} was restored; `berth start {view.name}` starts it")
