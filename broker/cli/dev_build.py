"""The image of a dev container: what it would be, and its build if the user does not have it."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli import output

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from profiles.devcontainer.plan import DevPlan

OWN_STORE = Path("own")


def plan_of(invocation: Invocation, place: Path, chosen: str | None) -> DevPlan:
    """Read the dev container of the repository `place`. Raises ProfilesError. Nothing is built."""
    from broker.bind_rules import bind_rule
    from broker.cli.registries import site_registries
    from broker.cli.stores import bases_of, target_of
    from profiles.devcontainer.config import find_dev_config
    from profiles.devcontainer.feature_registry import FeatureRegistries
    from profiles.devcontainer.plan import make_plan

    config = invocation.config
    return make_plan(
        find_dev_config(place, chosen),
        bases=bases_of(invocation, target_of(invocation, OWN_STORE)),
        registry=FeatureRegistries(site_registries(invocation)),
        is_allowed=lambda path: bind_rule(path, config.storage.binds) is not None,
    )


def built_image(invocation: Invocation, plan: DevPlan, *, rebuild: bool, frozen: bool) -> tuple[str, bool]:
    """Return the version of the image in the user's own store, and whether it was built now. Raises ProfilesError.

    With `rebuild` it is built again, as another version with the same key. The lock file is brought up to date before,
    or, if `frozen`, FeatureError is raised if it is not.
    """
    from broker.cli.stores import target_of
    from profiles.recipe.versions import version_sort_key

    _lock(plan, frozen=frozen)
    target = target_of(invocation, OWN_STORE)
    key = plan.version
    versions = [each for each in target.versions(plan.name) if each == key or each.startswith(f"{key}+b")]
    newest = max(versions, key=version_sort_key, default="")
    if newest and not rebuild:
        return newest, False
    version = f"{key}+b{len(versions)}" if versions else key
    _build(invocation, plan, version, use_cache=not rebuild)
    return version, True


def plan_of_image(invocation: Invocation, plan: DevPlan) -> DevPlan:
    """Return the plan with what the label of its image says, also in the report. Raises ProfilesError.

    `plan.version` is the image's in the user's own store.
    """
    from broker.bind_rules import bind_rule
    from broker.cli.stores import target_of
    from profiles.build.import_report import read_image_metadata
    from profiles.devcontainer.plan import plan_with_metadata

    image = target_of(invocation, OWN_STORE).read(plan.name, plan.version)
    binds = invocation.config.storage.binds
    metadata = read_image_metadata(image.directory)
    return plan_with_metadata(plan, metadata, lambda path: bind_rule(path, binds) is not None)


def _lock(plan: DevPlan, *, frozen: bool) -> None:
    from profiles.devcontainer.lock_file import LockFile, lock_path, make_lock, read_lock, require_locked, write_lock

    made, held = make_lock(plan.image.nodes), read_lock(plan.config.file)
    if frozen:
        require_locked(held, made, plan.config.file)
    elif made != (held or LockFile()):
        write_lock(made, plan.config.file)
        output.print_note(f"wrote {lock_path(plan.config.file)}: commit it, so that everybody gets the same features")


def _build(invocation: Invocation, plan: DevPlan, version: str, *, use_cache: bool) -> None:
    import yaml

    from broker.cli.progress import ProgressLine
    from broker.cli.registries import site_registries
    from broker.cli.stores import bases_of, show_steps_on, target_of
    from broker.profile_options import check_profile_option
    from profiles.build import builder
    from profiles.build.step_cache import BuildCache

    target = target_of(invocation, OWN_STORE)
    with tempfile.TemporaryDirectory(prefix="berth-up-") as folder:
        recipe = Path(folder, "profile.yaml")
        recipe.write_text(yaml.safe_dump(plan.recipe() | {"version": version}, sort_keys=False, allow_unicode=True))
        with ProgressLine(quiet=invocation.json) as line:
            builder.build(
                recipe,
                store=target,
                bases=bases_of(invocation, target),
                progress=show_steps_on(line),
                check_option=check_profile_option,
                access=site_registries(invocation),
                cache=BuildCache(use_cache, invocation.config.profiles.build_cache_gib << 30),
            )
