"""Fair shares of the launcher's places, for verbs and for users.

The controller admits requests by it, and the launcher again, so that neither has to trust the other with it. Verbs that
may take an hour have places of their own: however many of them there are, a short one does not wait for them. In each
of the two halves a user gets another place only while three times as many are free as the user has. So the next user
finds some too: only ten users or more who keep all that they can get fill either half.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from broker.launcher.arguments import LONG_VERBS

SHORT_PLACES = 64
LONG_PLACES = 24
"""Workers at once, each a process of 10 to 100 MB. Most long ones wait for a job or for a disk."""
SHORT_AT_ONCE = 16
"""Short verbs of one user: a user who stops these workers, or whose file system hangs, keeps no other user
waiting."""
LONG_AT_ONCE = 4
"""Long verbs of one user: a login node is everybody's, and one user's are hardly faster side by side."""
FREE_PER_PLACE = 3
"""Places that must be free for each that a user has, if the user is to have another."""
READY_VERB = "ready"
"""The controller's word that it serves the API. It has no answer, and takes no place: the launcher itself acts."""


@dataclass(slots=True)
class _Half:
    """The places of short or of long verbs, and the number that each user has of them."""

    places: int
    most: int
    """Places of one user."""
    taken: Counter[str] = field(default_factory=Counter)

    def has_room(self, user: str) -> bool:
        free = self.places - self.taken.total()
        own = self.taken[user]
        return free > 0 and own < self.most and own * FREE_PER_PLACE < free


class Shares:
    """Counts requests that are under way."""

    def __init__(self) -> None:
        self._short = _Half(SHORT_PLACES, SHORT_AT_ONCE)
        self._long = _Half(LONG_PLACES, LONG_AT_ONCE)

    def has_room(self, verb: str, user: str) -> bool:
        """Whether the user may have another request under way."""
        return self._half(verb).has_room(user)

    def take(self, verb: str, user: str) -> None:
        """Count a request that begins."""
        self._half(verb).taken[user] += 1

    def give_back(self, verb: str, user: str) -> None:
        """Count one that has ended."""
        taken = self._half(verb).taken
        taken[user] -= 1
        if not taken[user]:
            del taken[user]

    def _half(self, verb: str) -> _Half:
        return self._long if verb in LONG_VERBS else self._short
