"""Logins that browsers have begun at the provider: they are bounded, and one address cannot push out the others'."""

from __future__ import annotations

import pytest

from broker.controller.web.oidc import pending
from broker.controller.web.oidc.pending import MAX_ADDRESS_LOGINS, PendingLogins
from broker.errors import RefusedError
from tests.fakes.core import Clock


def test_login_lasts_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logins = Clock().install(monkeypatch), PendingLogins(600)
    early, late = logins.begin("192.0.2.1"), logins.begin("192.0.2.1")
    assert len({early.state, early.secret, early.nonce, early.verifier, late.state}) == 5
    clock.now += 599
    assert logins.take(early.state, early.secret).nonce == early.nonce
    clock.now += 1
    with pytest.raises(RefusedError, match="was used or has expired"):
        logins.take(late.state, late.secret)


def test_one_address_has_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock().install(monkeypatch)
    logins = PendingLogins(600)
    other = logins.begin("192.0.2.2")
    mine = [logins.begin("192.0.2.1") for _ in range(MAX_ADDRESS_LOGINS + 1)]
    with pytest.raises(RefusedError, match="was used or has expired"):
        logins.take(mine[0].state, mine[0].secret)
    for each in (other, mine[1], mine[-1]):
        assert logins.take(each.state, each.secret).verifier == each.verifier


def test_all_addresses_have_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock().install(monkeypatch)
    monkeypatch.setattr(pending, "MAX_LOGINS", 3)
    logins = PendingLogins(600)
    begun = [logins.begin(f"192.0.2.{number}") for number in range(4)]
    with pytest.raises(RefusedError):
        logins.take(begun[0].state, begun[0].secret)
    for each in begun[1:]:
        logins.take(each.state, each.secret)


def test_memory_has_no_secret_of_a_browser() -> None:
    logins = PendingLogins(600)
    new = logins.begin("192.0.2.1")
    assert new.state not in str(logins._logins)
    assert new.secret not in str(logins._logins)
