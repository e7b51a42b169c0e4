"""`berth profile commit`: make an image, and its recipe, from the changes in a session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import name_argument
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName, SnapshotReference
from broker.cli.prompts import confirm, yes_option
from broker.cli.signatures import key_for, sign_key_option
from broker.cli.stores import (
    catalog_of,
    note_target,
    print_published,
    profile_errors,
    show_steps_on,
    target_of,
    target_option,
)
from broker.errors import BerthError, InvalidInputError, NotFoundError
from broker.format import pluralize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.volumes import SnapshotView
    from broker.user_input import ProfileReference
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
@target_option
@sign_key_option
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
    sign_key: Path | None,
    yes: bool,
) -> None:
    """Build an image from a session's system.

    The image gets all changes outside the home: packages, files, deletions. It never gets the home, logs, caches, or
    files that may contain secrets. The command shows both lists before it asks; --include and --exclude change them,
    with patterns of absolute paths, and may be repeated.

    The image is published as PROFILE@VERSION, or own/PROFILE@VERSION for your own store, with a recipe, profile.yaml,
    that builds the same. The build runs on this machine as your user and takes some minutes; the session keeps running.
    """
    if wanted.version is None:
        raise InvalidInputError(f"the version of {wanted.name} is missing", hint="use a new one: NAME@VERSION")
    if invocation.json and not yes:
        raise InvalidInputError("--json requires --yes, since it shows no list before the question", hint="add --yes")
    with profile_errors():
        from broker.cli.progress import ProgressLine
        from broker.config.file import Mode
        from broker.images import require_image
        from broker.profile_options import job_options
        from profiles.commit.commit import Source
        from profiles.commit.commit import commit_session as publish
        from profiles.commit.filters import PathFilter
        from profiles.image.catalog import OWN, split_owner

        owner, profile = split_owner(wanted.name)
        store = _choose_store(store, owner)
        target = target_of(invocation, store)
        target.check_free(profile, wanted.version)
        target.check_writable(profile)
        note_target(invocation, store, target)
        key = None if sign_key is None else key_for(invocation, sign_key, f"{profile}@{wanted.version}", target)
        path_filter = PathFilter(include, exclude)
        path_filter.check()
        found: list[Findings] = []
        with _snapshot(invocation, name, at) as snapshot, ProgressLine(quiet=invocation.json) as line:
            catalog = catalog_of(invocation)
            base = require_image(catalog, snapshot.profile, snapshot.version, snapshot.digest)
            job_options([], base.profile, [])  # the new image gets the options of its base
            own_base = "own/" if invocation.config.mode is Mode.SITE and catalog.owner_of(base) == OWN else ""

            def approve(findings: Findings) -> None:
                found.append(findings)
                line.clear()
                if not invocation.json:
                    _show(findings, wanted, base)
                confirm(f"Publish {wanted}?", undone=f"{wanted} was not published", yes=yes)

            image = publish(
                Source(name, base, _layers(invocation, snapshot), own_base),
                name=profile,
                version=wanted.version,
                store=target,
                approve=approve,
                path_filter=path_filter,
                progress=show_steps_on(line),
                sign_key=key,
            )
    print_published(invocation, image, {"committed": asdict(found[0])})


def _choose_store(store: Path | None, owner: str) -> Path | None:
    """Return the store that --store or the profile's owner names. InvalidInputError if they contradict each other."""
    if owner and store is not None and str(store) != owner:
        raise InvalidInputError(f"{owner}/ and --store {store} name two stores", hint="leave one of them out")
    return Path(owner) if owner else store


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
    return [invocation.storage / "layers" / layer for layer in snapshot.system]


def _show(findings: Findings, wanted: ProfileReference, base: Image) -> None:
    """Print the included and the excluded changes on stderr; of caches only the number."""
    from broker.format import format_size
    from profiles.commit.filters import CACHE

    output.print_note(f"Included in {wanted}, on top of {base.name}@{base.version}:")
    for one, several, lines in (
        ("package added", "packages added", [f"{name} {version}" for name, version in findings.added]),
        (
            "package changed",
            "packages changed",
            [f"{name} {before} -> {now}" for name, before, now in findings.changed],
        ),
        ("package removed", "packages removed", [f"{name} {version}" for name, version in findings.removed]),
        ("Python package", "Python packages", [f"{name} {version}" for name, version in findings.pip]),
        ("account", "accounts", findings.accounts),
    ):
        _list(one, several, lines)
    _list(
        "file of no package",
        "files of no package",
        [f"{each.change} {each.path}{f'  {format_size(each.size)}' if each.size else ''}" for each in findings.files],
    )
    if findings.of_packages:
        output.print_note(f"  and {pluralize(findings.of_packages, 'path')} of packages and package managers")
    if findings.left_out:
        output.print_note("Excluded:")
        shown = [each for each in findings.left_out if each.why != CACHE]
        _list("path", "paths", [f"{each.path}  ({each.why})" for each in shown])
        if caches := len(findings.left_out) - len(shown):
            output.print_note(f"  {'and ' if shown else ''}{pluralize(caches, 'path')} of caches")


def _list(one: str, several: str, lines: list[str]) -> None:
    """Print the lines with their number and a title: `one` for a single line."""
    if not lines:
        return
    output.print_note(f"  {len(lines)} {one if len(lines) == 1 else several}:")
    for line in lines[:MAX_SHOWN_LINES]:
        output.print_note(f"    {line}")
    if len(lines) > MAX_SHOWN_LINES:
        output.print_note(f"    … and {len(lines) - MAX_SHOWN_LINES} more; --json lists all")
