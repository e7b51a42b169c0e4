"""`berth admin`: see, stop and extend the sessions of all users, as an operator of the site."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.prompts import confirm
from broker.cli.several import apply_to_each, raise_failures
from broker.cli.time_params import Duration, PastTime
from broker.errors import BerthError, InvalidInputError
from broker.format import escape_controls, format_duration, format_time, pluralize
from broker.names import MAX_AUDIT_EVENTS, MAX_EXTENSION_S, MAX_OPERATOR_SESSIONS, check_message
from broker.user_input import parse_full_name, parse_node, parse_user

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.schema.admin import LimitUse, NodeReport, OperatorSessionView

HEADINGS = ("SESSION", "STATE", "NODE", "JOB", "RESOURCES", "TIME LEFT")


class CheckedWord(click.ParamType[str]):
    """A word that `check` returns, or refuses with ValueError."""

    def __init__(self, name: str, check: Callable[[str], str]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self._check(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_SESSION = CheckedWord("session", parse_full_name)
_NODE = CheckedWord("node", parse_node)
_USER = CheckedWord("user", parse_user)
_MESSAGE = CheckedWord("message", check_message)
_message_option = click.option(
    "-m", "--message", type=_MESSAGE, required=True, metavar="TEXT", help="The reason, in one line, which users read."
)
_user_option = click.option("--user", type=_USER, metavar="USER", help="Only the sessions of this user.")


@click.group()
def admin() -> None:
    """See and stop the sessions of all users, as an operator.

    For the members of the site's operators group (`operators.group`), and in site mode only. Operators see names,
    owners, states, resources and nodes, and never log in, read a log, or take, restore or delete data. The events of
    the session name each act, with the operator and the message.
    """


@admin.command("list")
@_user_option
@click.option("--node", type=_NODE, metavar="NODE", help="Only sessions with a job on this node.")
@click.option("--after", type=_SESSION, metavar="OWNER.NAME", help="Begin behind this session.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_OPERATOR_SESSIONS),
    default=MAX_OPERATOR_SESSIONS,
    show_default=True,
    metavar="NUMBER",
    help="The first NUMBER sessions.",
)
@json_option
@pass_invocation
def list_all(invocation: Invocation, *, user: str | None, node: str | None, after: str | None, limit: int) -> None:
    """List the sessions of all users.

    In the order of owners and names. RESOURCES are the options of sbatch that the owner has chosen, as far as they are
    resources. A question mark after the state means that Slurm does not answer. If there are more sessions than
    --limit, the last line names the command for the next ones.
    """
    page = invocation.client.sessions_page(owner=user, node=node, after=after, limit=limit)
    if invocation.json:
        output.print_json(page)
        return
    _print_sessions(invocation, page.sessions)
    if page.more:
        chosen = {"--user": user, "--node": node, "--limit": None if limit == MAX_OPERATOR_SESSIONS else limit}
        options = [f"{word} {value}" for word, value in chosen.items() if value is not None]
        words = " ".join(["berth admin list", *options, "--after", page.sessions[-1].session])
        output.print_note(f"There are more: `{words}` lists the next ones.")


@admin.command("stop")
@click.argument("names", nargs=-1, required=True, type=_SESSION, metavar="OWNER.NAME...")
@_message_option
@json_option
@pass_invocation
def stop_sessions(invocation: Invocation, names: tuple[str, ...], *, message: str) -> None:
    """Stop sessions of any user.

    Their files are kept. The message is in the events, in the reason of the stop, and on the terminals. The command
    returns when the stop is requested; a session without a job is not changed.

    \b
      berth admin stop alice.dev -m "its node is replaced at 18:00"
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    _apply(invocation, names, lambda name: invocation.client.stop_as_operator(name, message))


@admin.command("extend")
@click.argument("name", type=_SESSION, metavar="OWNER.NAME")
@click.argument("seconds", type=Duration(longest_s=MAX_EXTENSION_S), metavar="TIME")
@_message_option
@json_option
@pass_invocation
def extend_session(invocation: Invocation, name: str, seconds: float, *, message: str) -> None:
    """Extend the time limit of the job of any user's session.

    TIME is as for `berth extend`. The site's `slurm.longest_job` applies.
    """
    view = invocation.client.extend_as_operator(name, seconds, message)
    if invocation.json:
        output.print_json(view)
    elif view.ends_at is not None:
        now = time.time()
        left = format_duration(view.ends_at - now)
        output.print_note(f"{name}: the job ends at {format_time(view.ends_at, now)} (in {left})")


@admin.command("message")
@click.argument("names", nargs=-1, type=_SESSION, metavar="[OWNER.NAME]...")
@click.option("--node", type=_NODE, metavar="NODE", help="All ready sessions on this node.")
@_message_option
@json_option
@pass_invocation
def message_sessions(invocation: Invocation, names: tuple[str, ...], *, node: str | None, message: str) -> None:
    """Write a line to the terminals of sessions.

    Of the named ones, or of those on a node. The line is shown within a minute, after `operator` and your name, and is
    in the events. Of several messages within that time, terminals show the last one. Only ready sessions take one.
    """
    if bool(names) == (node is not None):
        raise InvalidInputError("name sessions or use --node", hint="`berth admin list` shows the sessions")
    if node is None:
        _apply(invocation, names, lambda name: invocation.client.message_as_operator(name, message))
    else:
        _print_report(invocation, invocation.client.message_node(node, message), "got the message")


@admin.command()
@click.argument("node", type=_NODE, metavar="NODE")
@click.option("-m", "--message", type=_MESSAGE, metavar="TEXT", help="The reason, in one line, which users read.")
@click.option("--list", "only_list", is_flag=True, help="Only list the sessions with a job on the node.")
@click.option("--yes", is_flag=True, help="Do not ask. Required without a terminal.")
@json_option
@pass_invocation
def drain(invocation: Invocation, node: str, *, message: str | None, only_list: bool, yes: bool) -> None:
    """Stop all sessions with a job on a node.

    Drain the node in Slurm first, so that no other job starts there. Files are kept, and the message is shown as for
    `berth admin stop`. Returns when the stops are requested. Sessions that could not be stopped are listed, each with
    the remedy; then the exit code is not 0.

    \b
      berth admin drain c1 --list
      berth admin drain c1 -m "new kernel at 18:00"
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    if only_list == (message is not None):
        raise InvalidInputError("use --message TEXT, or --list", hint="a stop needs a reason, which its owner reads")
    sessions = invocation.client.all_sessions(node=node)
    if message is None or not sessions:
        _print_sessions(invocation, sessions)
        return
    confirm(f"Stop {pluralize(len(sessions), 'session')} on {node}?", undone="nothing was stopped", yes=yes)
    _print_report(invocation, invocation.client.drain(node, message), "is stopping, or has stopped")
    if not invocation.json:
        output.print_note(f"`berth admin list --node {node}` shows the sessions whose jobs have not ended.")


@admin.command()
@click.argument("user", type=_USER, metavar="USER")
@json_option
@pass_invocation
def limits(invocation: Invocation, user: str) -> None:
    """Show a user's limits, and how much of each is used.

    The names are those of the settings in the section `limits`.
    """
    found = invocation.client.user_limits(user)
    if invocation.json:
        output.print_json(found)
    else:
        output.print_table(("LIMIT", "USED", "MOST"), [_limit_row(each) for each in found.limits])


@admin.command()
@_user_option
@click.option("--since", type=PastTime(), metavar="TIME", help="Only later events, such as 4h for 4 hours ago.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_AUDIT_EVENTS),
    default=100,
    show_default=True,
    metavar="NUMBER",
    help="The newest NUMBER events.",
)
@json_option
@pass_invocation
def audit(invocation: Invocation, *, user: str | None, since: float | None, limit: int) -> None:
    """List the events of the sessions of all users.

    Newest last, also of deleted sessions. Details are shown where they have neither contents nor reasons: of jobs, of
    sharing, and of the acts of operators.
    """
    report = invocation.client.audit(owner=user, since=since, limit=limit)
    if invocation.json:
        output.print_json(report)
        return
    now = time.time()
    rows = [
        (format_time(each.at, now), f"{each.owner}.{each.session}", each.actor, each.action, each.detail)
        for each in report.events
    ]
    output.print_table(("WHEN", "SESSION", "WHO", "WHAT", "DETAIL"), rows)
    if report.more:
        output.print_note(f"There are earlier events: --limit {MAX_AUDIT_EVENTS} shows more, --since fewer.")


def _apply(invocation: Invocation, names: Sequence[str], act: Callable[[str], OperatorSessionView]) -> None:
    chosen = list(dict.fromkeys(names))
    failed: list[BerthError] = []
    _print_sessions(invocation, apply_to_each(chosen, act, failed))
    raise_failures(failed, len(chosen))


def _print_sessions(invocation: Invocation, views: Sequence[OperatorSessionView]) -> None:
    if invocation.json:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})
    elif views:
        now = time.time()
        output.print_table(HEADINGS, [_row(view, now) for view in views], shrink=HEADINGS.index("RESOURCES"))
    else:
        output.print_note("There is no such session.")


def _print_report(invocation: Invocation, report: NodeReport, done: str) -> None:
    """Print the result. BerthError if it failed for some sessions."""
    if invocation.json:
        output.print_json(report)
    else:
        for view in report.done:
            output.print_note(f"{view.session} {done}")
        for each in report.failed:
            hint = f"\n  hint: {each.hint}" if each.hint else ""
            output.write(escape_controls(f"berth: {each.session}: {each.message}{hint}", keep="\n") + "\n", err=True)
    if report.failed:
        count = len(report.failed) + len(report.done)
        raise BerthError(
            f"{len(report.failed)} of {pluralize(count, 'session')} failed",
            hint="follow the hint of each, and repeat the command: what is done stays done",
        )


def _row(view: OperatorSessionView, now: float) -> tuple[str, ...]:
    state = str(view.state) + ("?" if view.stale_since is not None else "")
    job = "" if view.job_id is None else str(view.job_id)
    left = format_duration(view.ends_at - now) if view.node and view.ends_at is not None else ""
    return (view.session, state, view.node, job, " ".join(view.options), left)


def _limit_row(limit: LimitUse) -> tuple[str, str, str]:
    from broker.format import format_size

    def format_amount(value: float | None, none: str) -> str:
        if value is None:
            return none
        return format_size(int(value)) if limit.name == "storage" else f"{value:g}"

    return limit.name, format_amount(limit.used, "unknown"), format_amount(limit.most, "no limit")
