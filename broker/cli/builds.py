"""Build a profile for a command, with its progress on the terminal, here or in a job."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from broker.cli.context import Invocation
    from profiles.build.result import BuildResult
    from profiles.image.catalog import Catalog
    from profiles.image.store import Store
    from profiles.signature.keys import PrivateSigningKey


@dataclass(frozen=True, slots=True)
class BuildCommand:
    """The build that a command line asks for."""

    recipe: Path
    target: Store
    bases: Catalog
    sign_key: Path | None
    use_cache: bool = True

    def job_options(self, invocation: Invocation, words: Sequence[str], *, in_job: bool) -> list[str] | None:
        """Return the options of the build's job, from these words; None if it is built on this machine.

        InvalidInputError for words that are no such options.
        """
        if in_job:
            from broker.cli.build_job import job_options_of

            return job_options_of(invocation, words)
        if words:
            raise InvalidInputError(f"unexpected: {' '.join(words)}", hint="options of sbatch need --job")
        return None

    def words(self, *, json: bool) -> list[str]:
        """Return the words of this command line, for another machine: with absolute paths."""
        named = [] if self.sign_key is None else ["--sign-key", str(self.sign_key.absolute())]
        flags = [*(["--no-cache"] if not self.use_cache else []), *(["--json"] if json else [])]
        return [str(self.recipe.absolute()), "--store", str(self.target.path), *named, *flags]


def build_profile(
    invocation: Invocation, wanted: BuildCommand, key: PrivateSigningKey | None, options: Sequence[str] | None = None
) -> BuildResult:
    """Build the recipe and publish it, unless it is there unchanged: that is found here, and with few imports.

    With `options`, the build runs in a job with them, and this process becomes one that waits for it. Raises
    ProfilesError.
    """
    from broker.cli.registries import site_registries
    from broker.profile_options import check_profile_option
    from profiles.build.published import unchanged_image
    from profiles.build.result import BuildResult

    access, target, bases = site_registries(invocation), wanted.target, wanted.bases
    published = unchanged_image(
        wanted.recipe, store=target, bases=bases, check_option=check_profile_option, access=access
    )
    if published is not None:
        return BuildResult(published, built=False)
    if options is not None:
        from broker.cli.build_job import build_in_job

        build_in_job(wanted.words(json=invocation.json), options)
    from broker.cli.progress import ProgressLine
    from broker.cli.stores import show_steps_on
    from profiles.build import builder
    from profiles.build.step_cache import BuildCache

    limit_bytes = invocation.config.profiles.build_cache_gib << 30
    with ProgressLine(quiet=invocation.json) as line:
        return builder.build(
            wanted.recipe,
            store=target,
            bases=bases,
            progress=show_steps_on(line),
            check_option=check_profile_option,
            sign_key=key,
            access=access,
            cache=BuildCache(wanted.use_cache, limit_bytes),
        )
