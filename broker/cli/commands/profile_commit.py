"""`berth profile commit`: make an image, and its recipe, from the changes in a session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName, ProfileReference, SnapshotReference
from broker.cli.prompts import confirm, yes_option
from broker.cli.stores import image_json, image_line, profile_errors, show_steps_on, stores_of
from broker.errors import BerthError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.volumes import SnapshotView
    from profiles.commit.findings import Findings
    from profiles.image.store import Image

MOST_LINES = 100
"""Of each list that is shown before the question."""


@click.command()
@name_argument
@click.argument("wanted", type=ProfileName(), metavar="PROFILE@VERSION")
@click.option("--at", type=SnapshotReference(), metavar="SNAPSHOT", help="As it was then, instead of as it is now.")
@click.option("--include", multiple=True, metavar="PATH", help="Take this in although it would be left out.")
@click.option("--exclude", multiple=True, metavar="PATH", help="Leave this out.")
@click.option(
    "--store",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Publish in this store instead of the first of profiles.stores.",
)
@yes_option
@json_option
@pass_invocation
def commit(
    invocation: Invocation,
    name: str,
    wanted: ProfileReference,
    *,
    at: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    store: Path | None,
    yes: bool,
) -> None:
    """Make an image of a session's system.

    Everything outside the home that was changed goes in: packages, files, deletions. The home never does, nor do
    logs, caches, and files that may hold secrets. What goes in and what is left out is shown before you are asked;
    --include and --exclude correct it, with patterns of absolute paths, and may be given several times.

    The image is published as PROFILE@VERSION, with a recipe, profile.yaml, that says as code how to make it. This
    runs here and as you, and takes minutes; the session goes on meanwhile.
    """
    if wanted.version is None:
        raise InvalidInputError(f"which version of {wanted.name}?", hint="name one that is not there yet: NAME@VERSION")
    if invocation.json and not yes:
        raise InvalidInputError("--json shows no list to decide by", hint="--yes goes on without asking")
    with profile_errors():
        from broker.cli.progress import ProgressLine
        from broker.images import require_image
        from profiles.commit.commit import Source
        from profiles.commit.commit import commit as publish
        from profiles.commit.filters import PathFilter

        stores = stores_of(invocation, store)
        target = stores.stores[0]
        target.check_free(wanted.name, wanted.version)
        sieve = PathFilter(include, exclude)
        sieve.check()
        found: list[Findings] = []
        with _snapshot(invocation, name, at) as snapshot, ProgressLine(quiet=invocation.json) as line:
            where = stores_of(invocation, None) if store else stores
            base = require_image(where, snapshot.profile, snapshot.version, snapshot.digest)

            def approve(findings: Findings) -> None:
                found.append(findings)
                line.clear()
                if not invocation.json:
                    _show(findings, wanted, base)
                confirm(f"Publish {wanted}?", undone=f"{wanted} was not published", yes=yes)

            image = publish(
                Source(name, base, _layers(invocation, snapshot)),
                name=wanted.name,
                version=wanted.version,
                store=target,
                approve=approve,
                sieve=sieve,
                progress=show_steps_on(line),
            )
    if invocation.json:
        output.print_json({**image_json(image), "committed": asdict(found[0])})
    else:
        output.print_line(image_line(image))


@contextlib.contextmanager
def _snapshot(invocation: Invocation, name: str, at: str | None) -> Iterator[SnapshotView]:
    """The snapshot to commit; one of now is made for it and goes again, whatever comes of it."""
    from broker.cli.wait import until_done
    from broker.schema.volumes import SnapshotRequest

    client = invocation.client
    if at is not None:
        client.session(name)
        yield _find(client.snapshots(name), name, at)
        return
    _, operation = until_done(invocation, client.snapshot(name, SnapshotRequest()))
    made = str(operation.snapshot)
    try:
        yield _find(client.snapshots(name), name, made)
    finally:
        try:
            client.delete_snapshot(name, made)
        except BerthError as error:
            output.print_note(f"snapshot {made} of {name}, which was made for this, is still there: {error.message}")


def _find(snapshots: list[SnapshotView], name: str, reference: str) -> SnapshotView:
    for each in snapshots:
        if reference in {str(each.number), each.label}:
            return each
    raise NotFoundError(f"{name} has no snapshot {reference}", hint=f"`berth snapshots {name}` lists them")


def _layers(invocation: Invocation, snapshot: SnapshotView) -> list[Path]:
    import pwd

    root = invocation.config.storage.root
    user = pwd.getpwuid(os.getuid())
    own = Path(user.pw_dir) / root[2:] if root.startswith("~/") else Path(root.replace("{user}", user.pw_name))
    return [own / "layers" / layer for layer in snapshot.system]


def _show(findings: Findings, wanted: ProfileReference, base: Image) -> None:
    """Say, on stderr, what would go in and what would not."""
    from broker.format import format_size

    output.print_note(f"Into {wanted}, over {base.name}@{base.version}:")
    for title, lines in (
        ("packages added", [f"{name} {version}" for name, version in findings.added]),
        ("packages changed", [f"{name} {before} -> {now}" for name, before, now in findings.changed]),
        ("packages removed", [f"{name} {version}" for name, version in findings.removed]),
        ("Python packages", [f"{name} {version}" for name, version in findings.pip]),
        ("accounts", findings.accounts),
    ):
        _list(title, lines)
    _list(
        "files of no package",
        [f"{each.change} {each.path}{f'  {format_size(each.size)}' if each.size else ''}" for each in findings.files],
    )
    if findings.of_packages:
        output.print_note(f"  and {findings.of_packages} paths of packages and package managers")
    if findings.left_out:
        output.print_note("Left out:")
        _list("paths", [f"{each.path}  ({each.why})" for each in findings.left_out])


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    output.print_note(f"  {len(lines)} {title}:")
    for line in lines[:MOST_LINES]:
        output.print_note(f"    {line}")
    if len(lines) > MOST_LINES:
        output.print_note(f"    … and {len(lines) - MOST_LINES} more; --json tells of all")
