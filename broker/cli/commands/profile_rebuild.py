"""`berth profile rebuild`: build published profiles again if their packages or bases have something new."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.signatures import sign_key_option
from broker.cli.stores import catalog_of, profile_errors, store_option
from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.cli.progress import ProgressLine
    from broker.user_input import ProfileReference
    from profiles.build.rebuild import RebuildTools
    from profiles.image.store import Image, Store


@click.command("rebuild")
@click.argument("wanted", type=ProfileName(), nargs=-1, metavar="[PROFILE[@VERSION|@CHANNEL]]...")
@click.option("--all", "every_profile", is_flag=True, help="All profiles with a stable version whose stores are yours.")
@click.option("--test", "tested", is_flag=True, help="Test each new version, as `berth profile test` does.")
@sign_key_option
@store_option
@timeout_option
@json_option
@pass_invocation
def profile_rebuild(
    invocation: Invocation,
    wanted: tuple[ProfileReference, ...],
    *,
    every_profile: bool,
    tested: bool,
    sign_key: Path | None,
    store: Path | None,
    timeout: float | None,
) -> None:
    """Build profiles again if something is new.

    Asks apt, pip and the base what a build of the published recipe would read today, and installs nothing for that. If
    it is what the image has, nothing is built. Otherwise version 1.2 is built again as 1.2+b1, with a record of what
    has changed since 1.2, and becomes the candidate. The stable version stays.

    Takes the candidate if it is newer than the stable version, or else the stable version; @VERSION takes another.
    Needs a stable version. It runs here and as you, like a build; a timer or scrontab(1) runs it regularly, see
    docs/howto/channels.md. --timeout counts for each start and stop of --test.

    \b
      berth profile rebuild solver --test
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    if bool(wanted) == every_profile:
        raise InvalidInputError("name profiles, or take --all", hint="`berth profile list` shows them")
    failed: list[BerthError] = []
    results: list[dict[str, object]] = []
    for place, name, version in _choose(invocation, wanted, store):
        try:
            with profile_errors():
                results.append(_rebuild(invocation, place, name, version, sign_key))
            if tested and results[-1]["built"]:
                _test(invocation, place.read(name, str(results[-1]["version"])), timeout, results[-1])
        except BerthError as error:
            failed.append(error)
            if not invocation.json and (every_profile or len(wanted) > 1):
                output.print_note(f"{name}: {error.message}")
    if invocation.json:
        output.print_json({"rebuilt": results, "failed": [error.message for error in failed]})
    if failed:
        if len(failed) == 1:
            raise failed[0]
        raise BerthError(f"{len(failed)} profiles were not rebuilt or have not passed", hint=failed[0].hint)


def _choose(
    invocation: Invocation, wanted: tuple[ProfileReference, ...], store: Path | None
) -> list[tuple[Store, str, str | None]]:
    """Return the stores, names and versions to rebuild. Raises as `profile_to_read`, and StoreError."""
    from broker.cli.channels import profile_to_read
    from broker.user_input import ProfileReference
    from profiles.image.resolution import resolve_version
    from profiles.image.store import Store

    with profile_errors():
        if not wanted:
            return _own_profiles(invocation, store)
        chosen: list[tuple[Store, str, str | None]] = []
        for each in wanted:
            profile = profile_to_read(invocation, ProfileReference(each.name, None), store)
            holder = profile.store
            assert isinstance(holder, Store)
            holder.check_writable(profile.name)
            version = each.version and resolve_version([holder], profile.name, each.version)
            chosen.append((holder, profile.name, version))
        return chosen


def _own_profiles(invocation: Invocation, store: Path | None) -> list[tuple[Store, str, str | None]]:
    """Return all profiles with a stable version in directories of this user's."""
    from profiles.errors import ProfilesError
    from profiles.image.channels_file import STABLE

    found: list[tuple[Store, str, str | None]] = []
    for stores in catalog_of(invocation, store).stores.values():
        for place in stores.stores:
            for name in place.names():
                directory = place.path / name
                if directory.stat().st_uid != os.geteuid() or not os.access(directory, os.W_OK):
                    continue
                try:
                    has_stable = STABLE in place.channels(name).versions
                except ProfilesError as error:
                    output.print_note(f"{name} is left out: {error.message}")
                    continue
                if has_stable:
                    found.append((place, name, None))
                elif not invocation.json:
                    output.print_note(f"{name} in {place.path} is left out: it has no stable version")
    return found


def _rebuild(
    invocation: Invocation, place: Store, name: str, version: str | None, sign_key: Path | None
) -> dict[str, object]:
    """Rebuild one profile if something is new; return the result as a JSON object. Raises ProfilesError."""
    from broker.cli.channels import author
    from broker.cli.progress import ProgressLine
    from broker.failpoints import failpoint
    from profiles.build.rebuild import build_next, find_news, is_unnamed_rebuild, name_candidate, plan_rebuild
    from profiles.image.channel_changes import rebuild_lock

    who = author("").who
    with rebuild_lock(place, name), ProgressLine(f"looking at {name}", quiet=invocation.json) as line:
        plan = plan_rebuild(place, name, version)
        tools = _tools(invocation, place, f"{name}@{plan.next_version}", sign_key, line)
        news = find_news(plan, tools)
        failpoint("rebuild-resolved")
        image, built = plan.latest, False
        if news.is_new:
            image, built = build_next(plan, news, tools), True
            failpoint("rebuild-published")
        if built or is_unnamed_rebuild(place, image):
            name_candidate(place, image, who)
            failpoint("rebuild-candidate")
            built = True
    return _report(invocation, image, built=built)


def _tools(invocation: Invocation, place: Store, label: str, sign_key: Path | None, line: ProgressLine) -> RebuildTools:
    import time
    from functools import partial

    from broker.cli.registries import access_of
    from broker.cli.signatures import load_key
    from broker.cli.stores import OTHER, bases_of, config_catalog, show_steps_on
    from broker.config.signature_policy import signature_policy
    from broker.failpoints import failpoint
    from profiles.build.rebuild import RebuildTools

    key = None
    if sign_key is not None:
        key = load_key(sign_key)
        owner = config_catalog(invocation.config).owner_at(place.path) or OTHER
        signature_policy(invocation.config).require_signer(key.public, label, owner, place.path, time.time())
    return RebuildTools(
        bases_of(invocation, place),
        partial(access_of, invocation),
        key,
        invocation.config.profiles.vulnerability_data,
        show_steps_on(line),
        passes=failpoint,
    )


def _report(invocation: Invocation, image: Image, *, built: bool) -> dict[str, object]:
    """Print what was done, and return it as a JSON object."""
    from broker.cli.content_changes import print_content_changes
    from profiles.image.rebuild_record import read_rebuild_record, summarize_changes

    label = f"{image.name}@{image.version}"
    result: dict[str, object] = {"name": image.name, "version": image.version, "digest": image.digest, "built": built}
    if not built:
        if not invocation.json:
            output.print_note(f"Nothing was built: {label} has what a build would read today.")
        return result
    record = read_rebuild_record(image)
    assert record is not None, "a rebuild has a record"
    if invocation.json:
        return result | record.model_dump(mode="json", include={"rebuilt_from", "changes", "vulnerabilities"})
    print_content_changes(record.changes)
    output.print_note(f"{label} is candidate now; since {record.rebuilt_from}: {summarize_changes(record.changes)}")
    if (count := record.vulnerabilities) is not None:
        output.print_note(
            f"vulnerabilities: {sum(count.counts.values())} open, {count.counts.get('fixed', 0)} with a fix"
        )
    return result


def _test(invocation: Invocation, image: Image, timeout: float | None, result: dict[str, object]) -> None:
    """Test a rebuild, and put into its `result` whether it has passed. BerthError if it has not."""
    from broker.cli.commands.profile_test import report_verdict, test_image
    from broker.cli.stores import config_catalog

    with profile_errors():
        owner = config_catalog(invocation.config).owner_of(image)
        verdict = test_image(invocation, image, owner, timeout=timeout)
    result["passed"] = verdict.has_passed(image.profile)
    report_verdict(invocation, image, verdict)
