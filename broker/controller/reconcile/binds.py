"""The paths of the shared file system that a profile binds, as far as the site allows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.bind_rules import bind_rule
from broker.errors import RefusedError

if TYPE_CHECKING:
    from profiles.recipe.spec import Profile


def allowed_binds(profile: Profile, site: list[str]) -> list[str]:
    """Return the profile's binds as `SRC:DEST` or `SRC:DEST:ro`; RefusedError names one that the site forbids."""
    binds = []
    for bind in profile.binds:
        rule = bind_rule(bind.source, site)
        if rule is None:
            raise RefusedError(
                f"the profile binds {bind.source} of the shared file system, which this site does not allow",
                hint="ask the operators to add it to storage.binds",
            )
        readonly = bind.readonly or rule.endswith(":ro")
        binds.append(f"{bind.source}:{bind.destination}" + (":ro" if readonly else ""))
    return binds
