"""`berth set`: change how a session behaves on a connection, at its job's end, and when it is idle."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import NO_VERSION, Followed
from broker.cli.time_params import Duration, PolicyTime
from broker.errors import InvalidInputError
from broker.names import MAX_CONNECT_WAIT_S
from broker.user_input import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import SessionView


@click.command("set")
@name_argument
@click.option(
    "--start-on-connect",
    type=click.Choice(["yes", "no", DEFAULT]),
    help="Whether a connection starts the session if it is stopped.",
)
@click.option(
    "--connect-wait",
    type=Duration(default=True, zero=True, longest_s=MAX_CONNECT_WAIT_S),
    metavar="TIME",
    help="How long a connection waits while the session starts, such as 30s or 10m.",
)
@click.option(
    "--continue",
    "continuation",
    type=PolicyTime("always", "never"),
    metavar="POLICY",
    help="Continue in a new job when the job has to end: always, never, or if used within a time such as 12h.",
)
@click.option(
    "--idle",
    type=PolicyTime("never"),
    metavar="TIME",
    help="Stop the session when it is idle for a time such as 8h; or never.",
)
@click.option(
    "--follow",
    type=Followed(),
    metavar="CHANNEL|VERSION|none",
    help="Take new versions of the profile at the next start: stable, candidate, one version, or none.",
)
@json_option
@pass_invocation
@click.pass_context
def set_options(
    ctx: click.Context,
    invocation: Invocation,
    name: str,
    *,
    start_on_connect: str | None,
    connect_wait: float | None,
    continuation: str | None,
    idle: str | None,
    follow: str | None,
) -> None:
    """Change a session's policies.

    `default` selects the profile's or the site's value. `berth show` shows the current values. IDEs give up after
    about 15 seconds without a message; use a longer wait only for terminals.

    A job has to end at its time limit, by preemption, or when its node fails. A session is used while a client is
    connected.

    A session is idle while its processors and its GPU do no work, its terminals get no input, and its connections
    carry only keepalive messages. Berth warns its users before it stops the session. All files are kept.

    A session that follows a channel takes its version at the next start, restart, or job, and never while it runs. A
    snapshot is taken before. `berth upgrade` takes it now.

    TIME is 90 (minutes), 30s, 15m, 4h, 1h30m, 2d, or a form of Slurm such as 1:30:00 or 2-12.

    \b
      berth set dev --connect-wait 10m
      berth set dev --continue 12h
      berth set dev --start-on-connect no
      berth set dev --idle 8h
      berth set dev --follow candidate
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.schema.sessions import ConnectPolicy

    given = click.core.ParameterSource.COMMANDLINE
    chosen: dict[str, object] = {}
    if start_on_connect is not None:
        chosen["start"] = None if start_on_connect == DEFAULT else start_on_connect == "yes"
    if ctx.get_parameter_source("connect_wait") is given:
        chosen["wait"] = connect_wait
    view, changed = None, set(chosen)
    if chosen:
        view = invocation.client.set_connecting(name, ConnectPolicy.model_validate(chosen))
    if ctx.get_parameter_source("continuation") is given:
        view, changed = invocation.client.set_continuation(name, continuation), changed | {"continuation"}
    if ctx.get_parameter_source("idle") is given:
        view, changed = invocation.client.set_idle(name, idle), changed | {"idle"}
    if follow is not None:
        view = invocation.client.set_follow(name, None if follow == NO_VERSION else follow)
        changed |= {"follow"}
    if view is None:
        raise InvalidInputError("no option was given", hint="`berth set --help` lists them")
    if invocation.json:
        output.print_json(view)
        return
    for line in _describe_changes(view, changed):
        output.print_note(line)


def _describe_changes(view: SessionView, changed: set[str]) -> Iterator[str]:
    from broker.text.session import describe_connect_policy
    from broker.text.status import describe_continuation, describe_idle_policy
    from broker.text.upgrade import describe_follow, describe_offer

    if changed & {"start", "wait"}:
        yield f"{view.name}: {describe_connect_policy(view)}"
    if "continuation" in changed:
        yield f"{view.name} {describe_continuation(view.continuation)}"
    if "follow" in changed:
        yield f"{view.name} {describe_follow(view.follow)}"
        if view.offer is not None:
            yield describe_offer(view.profile, view.offer)
    if "idle" in changed:
        yield f"{view.name} is {describe_idle_policy(view.idle)}"
