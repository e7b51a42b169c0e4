"""Links log a browser in once, for a minute; their codes cannot be guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.web.links import (
    CODE_ALPHABET,
    MAX_ADDRESS_WRONG_CODES,
    MAX_USER_LINKS,
    MAX_WRONG_CODES,
    WRONG_CODES_S,
    LoginLinks,
)
from broker.errors import RefusedError, TooManyError
from broker.schema.web import Target

if TYPE_CHECKING:
    from tests.fakes.core import Clock

DEV = Target(session="dev", service="jupyter")
UID = 4001
HOME, ELSEWHERE = "192.0.2.1", "2001:db8::1"


@pytest.mark.parametrize("shown", [lambda link: link.secret, lambda link: link.code, lambda link: link.code.lower()])
def test_link_or_code_is_used_once(clock: Clock, shown: object) -> None:
    del clock
    assert callable(shown)
    links = LoginLinks(60)
    link = links.create("alice", UID, DEV)
    used = links.consume(shown(link), HOME)
    assert (used.user, used.uid, used.target) == ("alice", UID, DEV)
    for proof in (link.secret, link.code):
        with pytest.raises(RefusedError, match="used or has expired"):
            links.consume(proof, HOME)


def test_look_at_a_link_does_not_use_it_up() -> None:
    links = LoginLinks(60)
    link = links.create("alice", UID, DEV)
    for proof in (link.secret, link.code, link.secret):
        assert links.find(proof, HOME).user == "alice"
    assert links.consume(link.code, HOME).user == "alice"
    with pytest.raises(RefusedError, match="used or has expired"):
        links.find(link.secret, HOME)


def test_looks_at_wrong_codes_count_as_guesses(clock: Clock) -> None:
    del clock
    links = LoginLinks(60)
    for _ in range(MAX_ADDRESS_WRONG_CODES):
        with pytest.raises(RefusedError, match="wrong"):
            links.find("AAAAA-AAAAA", HOME)
    with pytest.raises(TooManyError):
        links.find(links.create("alice", UID, None).code, HOME)


def test_code_is_readable() -> None:
    code = LoginLinks(60).create("alice", UID, None).code
    assert (len(code), code[5]) == (11, "-")
    assert set(code.replace("-", "")) <= set(CODE_ALPHABET)
    assert not set(CODE_ALPHABET) & set("ILO01")


def test_link_expires(clock: Clock) -> None:
    links = LoginLinks(60)
    link = links.create("alice", UID, None)
    assert link.expires_at == clock.now + 60
    clock.now += 60
    with pytest.raises(RefusedError, match="expired"):
        links.consume(link.secret, HOME)


def guess(links: LoginLinks, address: str) -> None:
    with pytest.raises(RefusedError, match="wrong"):
        links.consume("AAAAA-AAAAA", address)


def test_wrong_codes_block_codes_of_their_address_for_a_minute(clock: Clock) -> None:
    links = LoginLinks(600)
    first, second, third = (links.create("alice", UID, None) for _ in range(3))
    for _ in range(MAX_ADDRESS_WRONG_CODES):
        guess(links, HOME)
    with pytest.raises(TooManyError):
        links.consume(first.code, HOME)
    assert links.consume(second.secret, HOME).user == "alice"
    assert links.consume(third.code, ELSEWHERE).user == "alice"
    clock.now += WRONG_CODES_S
    assert links.consume(first.code, HOME).user == "alice"


def test_many_wrong_codes_block_codes_of_all_addresses(clock: Clock) -> None:
    links = LoginLinks(600)
    link = links.create("alice", UID, None)
    for number in range(MAX_WRONG_CODES):
        guess(links, f"192.0.2.{number % 200}")
    with pytest.raises(TooManyError):
        links.consume(link.code, ELSEWHERE)
    clock.now += WRONG_CODES_S
    assert links.consume(link.code, ELSEWHERE).user == "alice"


def test_wrong_secrets_block_nothing() -> None:
    links = LoginLinks(60)
    link = links.create("alice", UID, None)
    for _ in range(MAX_ADDRESS_WRONG_CODES + 1):
        with pytest.raises(RefusedError):
            links.consume("x" * 43, HOME)
    assert links.consume(link.code, HOME).user == "alice"


def test_new_link_replaces_the_oldest_of_the_same_user() -> None:
    links = LoginLinks(60)
    other = links.create("bob", UID, None)
    made = [links.create("alice", UID, None) for _ in range(MAX_USER_LINKS + 1)]
    with pytest.raises(RefusedError):
        links.consume(made[0].secret, HOME)
    assert links.consume(made[1].secret, HOME).user == "alice"
    assert links.consume(other.secret, HOME).user == "bob"
