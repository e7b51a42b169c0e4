"""`berth rename`: give a stopped session another name."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import click

from broker.cli.commands.sessions import timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import SessionName
from broker.errors import BerthError, NotFoundError


@click.command()
@click.argument("name", type=SessionName(), metavar="OLD")
@click.argument("new", type=SessionName(), metavar="NEW")
@timeout_option
@json_option
@pass_invocation
def rename(invocation: Invocation, name: str, new: str, *, timeout: float | None) -> None:
    """Rename a stopped session.

    It keeps its files, snapshots and events. Its host name for ssh changes, so it gets another host key: ssh refuses
    the former one from then on.

    \b
      berth stop dev
      berth rename dev thesis
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.wait import finish_operation, show_request_progress
    from broker.schema.sessions import RenameRequest

    with show_request_progress(invocation, name, "rename"):
        view = invocation.client.rename(name, RenameRequest(name=new))
    try:
        finish_operation(invocation, view, f"renamed {name} to {new}", timeout=timeout)
    except NotFoundError:  # it has its former name again
        raise BerthError(f"{name} could not be renamed", hint=f"`berth events {name}` shows why") from None
