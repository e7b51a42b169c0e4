"""Fair shares of the launcher's places (child processes at once) between verbs and between users.

Both the controller and the launcher apply these limits, so that neither has to trust the other. Verbs that may take an
hour have their own places, so that short ones never wait for them. Of each kind a user gets another place only while
three times as many are free as the user has. So at least ten users are needed to fill all places of one kind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from broker.launcher.arguments import LONG_VERBS

SHORT_PLACES = 64
LONG_PLACES = 24
"""Child processes at once, each of 10 to 100 MB. Most long ones wait for a job or for a disk."""
SHORT_AT_ONCE = 16
"""Short verbs of one user: a user who stops these processes, or whose file system hangs, delays no other user."""
LONG_AT_ONCE = 4
"""Long verbs of one user: the login node is shared, and one user's verbs are hardly faster in parallel."""
FREE_PER_PLACE = 3
"""Places that must be free for each that a user has, if the user is to have another."""
READY_VERB = "ready"
"""Tells the launcher that the controller serves the API. The launcher itself handles it, without an answer."""


@dataclass(slots=True)
class _Half:
    """The places of short or of long verbs, and the number of each user."""

    places: int
    most: int
    """Places of one user."""
    taken: Counter[str] = field(default_factory=Counter)

    def has_room(self, user: str) -> bool:
        free = self.places - self.taken.total()
        own = self.taken[user]
        return free > 0 and own < self.most and own * FREE_PER_PLACE < free


class Places:
    """Counts requests that are under way."""

    def __init__(self) -> None:
        self._short = _Half(SHORT_PLACES, SHORT_AT_ONCE)
        self._long = _Half(LONG_PLACES, LONG_AT_ONCE)

    def has_room(self, verb: str, user: str) -> bool:
        """Whether the user may have another request under way."""
        return self._half(verb).has_room(user)

    def take(self, verb: str, user: str) -> None:
        """Count a request that starts."""
        self._half(verb).taken[user] += 1

    def give_back(self, verb: str, user: str) -> None:
        """Count one that has ended."""
        taken = self._half(verb).taken
        taken[user] -= 1
        if not taken[user]:
            del taken[user]

    def _half(self, verb: str) -> _Half:
        return self._long if verb in LONG_VERBS else self._short
