"""Show what another user would get of a snapshot, and what is left out."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.amounts import WorkAmounts
from broker.format import format_size

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.schema.grants import SharedContent

HEADINGS = ("LEFT OUT", "WHY")
_VOLUMES = {"home": "the home", "system": "outside it"}


def show_content(invocation: Invocation, name: str, grantee: str, snapshot: str, *, is_result: bool) -> None:
    """Print what `grantee` would get of a snapshot: with `is_result` as the command's result, else for a question."""
    from broker.cli.wait import show_work_progress

    with show_work_progress(invocation, f"{name}: reading snapshot {snapshot}", WorkAmounts(invocation, name)):
        content = invocation.client.shared_content(name, snapshot)
    if invocation.json:
        if is_result:
            output.print_json(content)
        return
    output.print_note(f"{grantee} gets {_describe_included(content)}.")
    if content.left_out:
        output.print_table(HEADINGS, [(_path(each.volume, each.path), each.reason) for each in content.left_out])
    else:
        output.print_note("Nothing is left out.")
    if content.truncated:
        more = sum(content.reasons.values()) - len(content.left_out)
        output.print_note(f"{more} more are left out: " + ", ".join(f"{n} {why}" for why, n in content.reasons.items()))
    output.print_note("A secret in a file of another name is not recognised: look at the snapshot before you share it.")


def _describe_included(content: SharedContent) -> str:
    return ", ".join(
        f"{amount.files} files ({format_size(amount.bytes)}) of {_VOLUMES[volume]}"
        for volume, amount in content.included.items()
    )


def _path(volume: str, path: str) -> str:
    return f"~/{path}" if volume == "home" else f"/{path}"
