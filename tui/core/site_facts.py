"""The facts about a site beside the sessions: its domain, and the published profiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.text.session import profile_owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from broker.forms.start_form import ProfileChoice
    from broker.schema.sessions import SessionView


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """Facts about a site."""

    domain: str = "berth"
    """The suffix of the sessions' host names."""
    stores: Sequence[str] = ()
    """The folders of the site's profiles; empty in personal mode, where all profiles are the user's."""
    newest: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The newest version of each profile, by its owner (`site` or `own`) and its name; empty until they are read."""

    def owner_of(self, view: SessionView) -> str:
        """Return the owner of a session's profile, `site` or `own`; empty if that is unknown."""
        return profile_owner(view, self.stores)

    def newer_version(self, view: SessionView) -> str:
        """Return the newest version of a session's profile if it is another one; empty if there is none."""
        newest = self.newest.get((self.owner_of(view) or "own", view.profile), "")
        return "" if newest == view.version else newest

    def profile_name(self, view: SessionView) -> str:
        """Return the name of a session's profile for a command; with its owner if the site and the user have one."""
        owners = {owner for owner, name in self.newest if name == view.profile}
        return f"{self.owner_of(view)}/{view.profile}" if len(owners) > 1 else view.profile


def newest_versions(profiles: Iterable[ProfileChoice]) -> dict[tuple[str, str], str]:
    """Return the newest version of each profile, by owner and name."""
    return {(each.owner, each.name): each.version for each in profiles if each.newest}
