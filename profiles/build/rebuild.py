"""Rebuild a published profile if its package sources or its base have something new, as another version.

Version 1.2 is rebuilt as `1.2+b1`, that as `1.2+b2`: dpkg orders them so. The result is a candidate, never stable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.build.bases import base_digest, find_base
from profiles.build.build_key import build_key
from profiles.build.builder import TIME_LIMIT_S, build, check_machine
from profiles.build.filling import SESSION_PACKAGES
from profiles.build.inventory_step import inventory_of
from profiles.build.loaded_recipe import LoadedRecipe, stored_recipe
from profiles.build.resolve import installed_lines, resolve_packages
from profiles.build.step_cache import BuildCache
from profiles.build.steps import StepCallback, Steps
from profiles.build.workspace import default_parent, workspace
from profiles.errors import ChannelConflictError, RebuildRefusedError, StoreError
from profiles.image.channel_changes import ChannelAuthor, ProfileChannels
from profiles.image.channels_file import CANDIDATE, STABLE, Channels
from profiles.image.rebuild_record import (
    RebuildRecord,
    RecordedChange,
    read_rebuild_record,
    summarize_changes,
    write_rebuild_record,
)
from profiles.image.vulnerability_count import count_vulnerabilities
from profiles.inventory.difference import compare_inventories
from profiles.recipe.versions import distinct_version_key
from profiles.vulnerabilities.finding import VulnerabilityDataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.image.catalog import Catalog
    from profiles.image.store import Image, Store
    from profiles.image.vulnerability_count import VulnerabilityCount
    from profiles.inventory.model import Inventory
    from profiles.oci.registry_access import AccessTo
    from profiles.signature.keys import PrivateSigningKey

MAX_VERSION_CHARS = 64
TRIES = 5
"""Attempts to name the candidate while others change the channels."""
_REBUILT = re.compile(r"\+b([1-9][0-9]{0,5})$")


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """A version to rebuild, and its recipe."""

    store: Store
    latest: Image
    """The last rebuild of the version, or that version itself."""
    family: str
    """The version without `+bN`."""
    recipe: LoadedRecipe
    next_version: str


@dataclass(frozen=True, slots=True)
class FreshPackages:
    """The packages that a build of the recipe would read today."""

    lines: list[str]
    is_new: bool
    """Whether that differs from what the latest image was built from."""


@dataclass(frozen=True, slots=True)
class RebuildTools:
    """The means of a rebuild: bases, registries, signatures and data."""

    bases: Catalog
    access: AccessTo
    sign_key: PrivateSigningKey | None = None
    vulnerability_data: Path | None = None
    progress: StepCallback = lambda _: None
    work: Path | None = None
    """A folder on a local disk (default: $TMPDIR, else /var/tmp)."""
    passes: Callable[[str], None] = lambda _: None
    """Called between the parts with their names, for tests that end the process there."""


def plan_rebuild(store: Store, name: str, version: str | None) -> RebuildPlan:
    """Choose what to rebuild: `version`, or else the candidate if it is newer than the stable version, or else that.

    Raises RebuildRefusedError without a stable version: the new version would be what the name alone means.
    """
    channels = store.channels(name)
    stable = channels.versions.get(STABLE)
    if stable is None:
        raise RebuildRefusedError(
            f"{name} has no stable version, so a rebuild would be what new sessions get, untested",
            hint=f"`berth profile test {name}` and `berth profile promote {name}@VERSION` first",
        )
    family = family_of(version or _newest_wanted(channels, stable))
    versions = [each for each in store.versions(name) if family_of(each) == family]
    if not versions:
        raise RebuildRefusedError(f"{name} has no version {family} any more")
    latest = store.read(name, max(versions, key=distinct_version_key))
    number = max(int(found[1]) if (found := _REBUILT.search(each)) else 0 for each in versions) + 1
    next_version = f"{family}+b{number}"
    if len(next_version) > MAX_VERSION_CHARS:
        raise RebuildRefusedError(f"{name}@{next_version} is too long for a version", hint="use shorter versions")
    return RebuildPlan(store, latest, family, stored_recipe(latest), next_version)


def find_news(plan: RebuildPlan, tools: RebuildTools) -> FreshPackages:
    """Ask the base and the package sources what a build would read today. BuildError if they do not answer."""
    latest = plan.latest
    with workspace(tools.work or default_parent()) as folder, (folder / "log").open("wb") as log:
        steps = Steps(["check", "resolve"], log, tools.progress, time.monotonic() + TIME_LIMIT_S)
        profile = plan.recipe.profile
        with steps.step("check"):
            base = find_base(profile, tools.bases, tools.access)
            check_machine(profile.base.kind, folder)
            key = build_key(profile, base_digest(base))
        with steps.step("resolve"):
            session = [*SESSION_PACKAGES, *(["python3-venv"] if profile.pip else [])]
            lines = resolve_packages(profile, base, latest, session, folder=folder, run=steps.run)
    record = read_rebuild_record(latest)
    if record is not None:
        known = record.refreshed_key
    else:
        known = refreshed_key(latest.build_key, installed_lines(lines, inventory_of(latest)[0]))
    return FreshPackages(lines, refreshed_key(key, lines) != known)


def build_next(plan: RebuildPlan, news: FreshPackages, tools: RebuildTools) -> Image:
    """Build and publish the next version, with the record of what has changed. Raises as builder.build."""
    latest = plan.latest

    def add_records(image: Image) -> None:
        before, after = inventory_of(latest)[0], inventory_of(image)[0]
        changes = [
            RecordedChange(kind=each.kind, name=each.name, before=each.before, after=each.after)
            for each in compare_inventories(before, after)
        ]
        record = RebuildRecord(
            rebuilt_from=latest.version,
            refreshed_key=refreshed_key(image.build_key, news.lines),
            resolved=news.lines,
            changes=changes,
            vulnerabilities=_known_vulnerabilities(after, tools.vulnerability_data),
        )
        write_rebuild_record(image.directory, record)
        tools.passes("rebuild-built")

    try:
        result = build(
            plan.recipe.with_version(plan.next_version),
            store=plan.store,
            bases=tools.bases,
            progress=tools.progress,
            work=tools.work,
            sign_key=tools.sign_key,
            access=tools.access,
            cache=BuildCache(is_used=False),
            add_records=add_records,
        )
    except OSError as error:  # such as a full store
        raise StoreError(f"{plan.next_version} was not published in {plan.store.path}: {error.strerror}") from error
    if not result.built:
        raise ChannelConflictError(f"{plan.latest.name}@{plan.next_version} was published by another process meanwhile")
    return result.image


def name_candidate(store: Store, image: Image, who: str) -> Channels:
    """Let the candidate name a rebuild, with its changes as the reason, whatever else changes the channels now."""
    record = read_rebuild_record(image)
    summary = summarize_changes(record.changes) if record is not None else ""
    author = ChannelAuthor(who, time.time(), f"rebuild of {record.rebuilt_from}: {summary}" if record else "rebuild")
    for left in reversed(range(TRIES)):
        profile = ProfileChannels.read(store, image.name)
        if profile.seen.versions.get(CANDIDATE) == image.version:
            return profile.seen
        try:
            return profile.promote(image.version, CANDIDATE, author)
        except ChannelConflictError:
            if not left:
                raise
            time.sleep(0.2)
    raise AssertionError("the last try raises")  # pragma: no cover


def is_unnamed_rebuild(store: Store, image: Image) -> bool:
    """Whether an image is a rebuild that no channel has ever named: its process was killed before it could."""
    if _REBUILT.search(image.version) is None:
        return False
    channels = store.channels(image.name)
    named = {*channels.versions.values(), *channels.states, *(event.version for event in channels.history)}
    return image.version not in named


def _known_vulnerabilities(inventory: Inventory, folder: Path | None) -> VulnerabilityCount | None:
    with contextlib.suppress(VulnerabilityDataError):  # then the data say nothing about this image
        return None if folder is None else count_vulnerabilities(inventory, folder)
    return None


def refreshed_key(key: str, lines: list[str]) -> str:
    """Return `sha256:…` over the key of a build and the resolved packages."""
    return f"sha256:{hashlib.sha256(json.dumps([key, lines]).encode()).hexdigest()}"


def family_of(version: str) -> str:
    """Return a version without the number of its rebuild."""
    return _REBUILT.sub("", version)


def _newest_wanted(channels: Channels, stable: str) -> str:
    candidate = channels.versions.get(CANDIDATE, stable)
    return max(stable, candidate, key=distinct_version_key)
