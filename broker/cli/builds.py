"""Build a profile for a command, with its progress on the terminal."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from broker.cli.context import Invocation
    from profiles.build.result import BuildResult
    from profiles.image.catalog import Catalog
    from profiles.image.store import Store
    from profiles.signature.keys import PrivateSigningKey


def build_profile(
    invocation: Invocation,
    recipe: Path,
    target: Store,
    bases: Catalog,
    key: PrivateSigningKey | None,
    *,
    use_cache: bool = True,
) -> BuildResult:
    """Build the recipe and publish it in `target`, unless it is there unchanged: that is found with few imports.

    Without `use_cache`, all steps are run. Raises ProfilesError.
    """
    from broker.cli.registries import site_registries
    from broker.profile_options import check_profile_option
    from profiles.build.published import unchanged_image
    from profiles.build.result import BuildResult

    access = site_registries(invocation)
    published = unchanged_image(recipe, store=target, bases=bases, check_option=check_profile_option, access=access)
    if published is not None:
        return BuildResult(published, built=False)
    from broker.cli.progress import ProgressLine
    from broker.cli.stores import show_steps_on
    from profiles.build import builder
    from profiles.build.step_cache import BuildCache

    limit_bytes = invocation.config.profiles.build_cache_gib << 30
    with ProgressLine(quiet=invocation.json) as line:
        return builder.build(
            recipe,
            store=target,
            bases=bases,
            progress=show_steps_on(line),
            check_option=check_profile_option,
            sign_key=key,
            access=access,
            cache=BuildCache(use_cache, limit_bytes),
        )
