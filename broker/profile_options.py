"""The options of sbatch in a profile: refused in its recipe at a build, and in its image before a job is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import RefusedError
from slurm.sbatch import OptionError, allowed_option, check_options, merge_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.recipe.spec import Profile


def check_profile_option(name: str, value: str | bool) -> None:
    """Raise OptionError unless sessions may use the option `--name` with this value."""
    if value is False:
        allowed_option(name)
    else:
        check_options([f"--{name}" if value is True else f"--{name}={value}"])


def job_options(site: Sequence[str], profile: Profile, own: Sequence[str]) -> list[str]:
    """Merge the options of a job: the user's `own` override the profile's, which override the site's.

    RefusedError, which names the profile, if a wrong option of the profile remains: builds of earlier releases did not
    check the options.
    """
    options = profile.resources_as_options()
    merged = merge_options(merge_options(site, options), own)
    try:
        check_options([word for word in options if word in merged])
    except OptionError as error:
        raise RefusedError(
            f"the profile {profile.name}@{profile.version} has a wrong option in its `resources`: {error}",
            hint=f"no session can start with it; ask the publisher of {profile.name} for a corrected version, or use "
            "another profile",
        ) from error
    return merged
