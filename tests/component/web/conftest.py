"""Fixtures of the tests of berth-web."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes.haproxy_release import haproxy_release

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def haproxy(request: pytest.FixtureRequest) -> Iterator[str]:
    """The number of the HAProxy that berth-web starts; the parameter is one of RELEASES."""
    with haproxy_release(request.param) as number:
        yield number
