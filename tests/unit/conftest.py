"""What unit tests do not wait for: a disk that is busy, and a machine that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.registry import database
from broker.controller.sessions import lifecycle, pending, resize
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Let a request wait for its result as long as a test may, and the registry not wait for the disk (fsync(2)).

    Nothing in a unit test outlives its process, so nothing is lost. Tests of these waits set them themselves.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (lifecycle, pending, resize):
            patch.setattr(module, "ANSWER_TIMEOUT_S", DEADLINE_S)
        unsafe = tuple(pragma.replace("synchronous=FULL", "synchronous=OFF") for pragma in database._LOCAL)
        assert "synchronous=OFF" in unsafe
        patch.setattr(database, "_LOCAL", unsafe)
        yield
