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

MAX_SHOWN_LINES = 100
"""Lines of each list that are shown before the question."""


@click.command()
@name_argument
@click.argument("wanted", type=ProfileName(), metavar="PROFILE@VERSION")
@click.option(
    "--at", type=SnapshotReference(), metavar="SNAPSHOT", help="Use this snapshot instead of the present state."
)
@click.option("--include", multiple=True, metavar="PATH", help="Include this although it is excluded by default.")
@click.option("--exclude", multiple=True, metavar="PATH", help="Exclude this.")
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
    """Build an image from a session's system.

    The image gets all changes outside the home: packages, files, deletions. It never gets the home, logs, caches, or
    files that may contain secrets. The command shows both lists before it asks; --include and --exclude change them,
    with patterns of absolute paths, and may be repeated.

    The image is published as PROFILE@VERSION, with a recipe, profile.yaml, that builds the same. The build runs on this
    machine as your user and takes some minutes; the session keeps running.
    """
    if wanted.version is None:
        raise InvalidInputError(f"the version of {wanted.name} is missing", hint="use a new one: NAME@VERSION")
    if invocation.json and not yes:
        raise InvalidInputError("--json requires --yes, since it shows no list before the question", hint="add --yes")
    with profile_errors():
        from broker.cli.progress import ProgressLine
        from broker.images import require_image
        from profiles.commit.commit import Source
        from profiles.commit.commit import commit_session as publish
        from profiles.commit.filters import PathFilter

        stores = stores_of(invocation, store)
        target = stores.stores[0]
        target.check_free(wanted.name, wanted.version)
        path_filter = PathFilter(include, exclude)
        path_filter.check()
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
                path_filter=path_filter,
                progress=show_steps_on(line),
            )
    if invocation.json:
        output.print_json({**image_json(image), "committed": asdict(found[0])})
    else:
        output.print_line(image_line(image))


@contextlib.contextmanager
def _snapshot(invocation: Invocation, name: str, at: str | None) -> Iterator[SnapshotView]:
    """Provide the snapshot to commit; without `at`, take a temporary one and delete it at the end."""
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
            output.print_note(f"the temporary snapshot {made} of {name} was not deleted: {error.message}")


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
    """Print the included and the excluded changes on stderr."""
    from broker.format import format_size

    output.print_note(f"Included in {wanted}, on top of {base.name}@{base.version}:")
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
        output.print_note(f"  and {output.pluralize(findings.of_packages, 'path')} of packages and package managers")
    if findings.left_out:
        output.print_note("Excluded:")
        _list("paths", [f"{each.path}  ({each.why})" for each in findings.left_out])


def _list(title: str, lines: list[str]) -> None:
    if not lines:
        return
    output.print_note(f"  {len(lines)} {title}:")
    for line in lines[:MAX_SHOWN_LINES]:
        output.print_note(f"    {line}")
    if len(lines) > MAX_SHOWN_LINES:
        output.print_note(f"    … and {len(lines) - MAX_SHOWN_LINES} more; --json lists all")
