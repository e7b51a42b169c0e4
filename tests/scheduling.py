"""The parts of a run that go to workers as a whole: a file, or a single test of the few files that take longest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler.loadfile import LoadFileScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

SPREAD = frozenset({"tests/contract/test_volumes.py"})
"""Files whose tests share no costly fixture and take so long together that one worker would still be at them when the
others have finished."""


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """`--dist loadfile`, but each test of the files in SPREAD goes to a free worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return nodeid if file in SPREAD else file

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker its next tests. One that replaces a crashed worker gets them once it has collected its own.

        xdist 3.8 asks for all workers when one has collected, and fails for another that has not.
        """
        if node in self.registered_collections:
            super()._reschedule(node)


def make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling | None:
    """Return the scheduler for `--dist loadfile`; None leaves any other way to pytest-xdist."""
    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None
