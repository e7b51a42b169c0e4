from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.web.oidc import accounts
from tests.component.controller.web.provider_world import running_provider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.component.controller.web.provider_world import Running


@pytest.fixture(autouse=True)
def people(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The accounts that the machine has beside its own: uid by name."""
    present, uid_of = {"alice": 4001, "bob": 4002}, accounts._uid_of
    monkeypatch.setattr(accounts, "_uid_of", lambda name: present.get(name) or uid_of(name))
    return present


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with running_provider() as running:
        yield running
