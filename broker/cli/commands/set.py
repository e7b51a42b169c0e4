"""`berth set`: change what a session does on a connection, at its job's end, and when it is idle."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import Time
from broker.errors import InvalidInputError
from broker.names import CONTINUATION_PATTERN, IDLE_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import SessionView

DEFAULT = "default"


class Policy(click.ParamType["str | None"]):
    """A word or a time such as `12h` that the pattern allows, or `default`."""

    name = "policy"

    def __init__(self, pattern: str, words: str) -> None:
        """`words`: what it may be, for whoever gives something else."""
        self._pattern = pattern
        self._words = words

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        if not isinstance(value, str) or value == DEFAULT:
            return None
        if re.fullmatch(self._pattern, value) is None:
            self.fail(f"{value!r} is neither {self._words}, nor {DEFAULT}", param, ctx)
        return value


@click.command("set")
@name_argument
@click.option(
    "--start-on-connect",
    type=click.Choice(["yes", "no", DEFAULT]),
    help="Whether connecting to it starts it when it is stopped.",
)
@click.option(
    "--connect-wait",
    type=Time(default=DEFAULT),
    metavar="TIME",
    help="How long a connection waits for it while it is on its way, such as 30s or 10m.",
)
@click.option(
    "--continue",
    "continuation",
    type=Policy(CONTINUATION_PATTERN, "always, never, a time such as 12h or 7d"),
    metavar="POLICY",
    help="Whether it goes on in another job when one has to end: always, never, or while it was used in the last 12h.",
)
@click.option(
    "--idle",
    type=Policy(IDLE_PATTERN, "never, a time such as 8h or 2d"),
    metavar="TIME",
    help="After which time without use it is stopped, such as 8h: never, or a time.",
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
) -> None:
    """Decide how a session behaves by itself.

    `default` takes what the profile or the site has: `berth show` says what holds. IDEs give up after 15 seconds or so,
    and are told nothing by ssh then; a longer wait is for those who connect from a terminal.

    A job has to end at its time limit, when one of higher priority takes its place, and when its node fails. A session
    is used while somebody is connected to it.

    It is idle while its processors and its GPU do no work, nobody types in its terminals, and its connections carry
    nothing but what keeps them. It is told before it is stopped, and keeps everything.

    \b
      berth set dev --connect-wait 10m
      berth set dev --continue 12h
      berth set dev --start-on-connect no
      berth set dev --idle 8h
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
    if view is None:
        raise InvalidInputError("what is to be set?", hint="`berth set --help` has the options")
    if invocation.json:
        output.show_json(view)
        return
    for line in _told(view, changed):
        output.narrate(line)


def _told(view: SessionView, changed: set[str]) -> Iterator[str]:
    """How the session behaves now, as far as that was changed."""
    from broker.cli.session_text import connecting
    from broker.status_text import continuation_words, idle_time_words

    if changed & {"start", "wait"}:
        yield f"{view.name}: {connecting(view)}"
    if "continuation" in changed:
        yield f"{view.name} goes on {continuation_words(view.continuation)}"
    if "idle" in changed:
        yield f"{view.name} is {idle_time_words(view.idle)}"
