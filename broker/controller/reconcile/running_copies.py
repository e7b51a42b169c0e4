"""Sessions whose running job makes, or is about to make, a copy for a request that no row of the registry shows.

An environment for a batch job has no row, and a clone has none until its request is checked. A takeover (ADR 144) would
end the job that makes the copy; it is postponed while the session is here. A request for a copy enters the session
here, and then looks for a takeover. A takeover is recorded, and then looks here. So one of the two always sees the
other.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class RunningCopies:
    """The ids of the sessions that are being copied, in this process: its requests end with it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, session_id: str) -> Iterator[None]:
        """Within the context, no takeover of the session begins that has not begun before."""
        self._counts[session_id] += 1
        try:
            yield
        finally:
            self._counts[session_id] -= 1
            if not self._counts[session_id]:
                del self._counts[session_id]

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._counts

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)
