"""Links log a browser in once, for a minute; their codes cannot be guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.controller.web.links import CODE_ALPHABET, MAX_USER_LINKS, MAX_WRONG_CODES, WRONG_CODES_S, LoginLinks
from broker.errors import RefusedError, TooManyError
from broker.schema.web import Target

if TYPE_CHECKING:
    from tests.fakes.core import Clock

DEV = Target(session="dev", service="jupyter")


@pytest.mark.parametrize("shown", [lambda link: link.secret, lambda link: link.code, lambda link: link.code.lower()])
def test_link_or_code_is_used_once(clock: Clock, shown: object) -> None:
    del clock
    assert callable(shown)
    links = LoginLinks(60)
    link = links.create("alice", DEV)
    used = links.consume(shown(link))
    assert (used.user, used.target) == ("alice", DEV)
    for proof in (link.secret, link.code):
        with pytest.raises(RefusedError, match="used or has expired"):
            links.consume(proof)


def test_look_at_a_link_does_not_use_it_up() -> None:
    links = LoginLinks(60)
    link = links.create("alice", DEV)
    for proof in (link.secret, link.code, link.secret):
        assert links.find(proof).user == "alice"
    assert links.consume(link.code).user == "alice"
    with pytest.raises(RefusedError, match="used or has expired"):
        links.find(link.secret)


def test_looks_at_wrong_codes_count_as_guesses(clock: Clock) -> None:
    del clock
    links = LoginLinks(60)
    for _ in range(MAX_WRONG_CODES):
        with pytest.raises(RefusedError, match="wrong"):
            links.find("AAAAA-AAAAA")
    with pytest.raises(TooManyError):
        links.find(links.create("alice", None).code)


def test_code_is_readable() -> None:
    code = LoginLinks(60).create("alice", None).code
    assert (len(code), code[5]) == (11, "-")
    assert set(code.replace("-", "")) <= set(CODE_ALPHABET)
    assert not set(CODE_ALPHABET) & set("ILO01")


def test_link_expires(clock: Clock) -> None:
    links = LoginLinks(60)
    link = links.create("alice", None)
    assert link.expires_at == clock.now + 60
    clock.now += 60
    with pytest.raises(RefusedError, match="expired"):
        links.consume(link.secret)


def test_wrong_codes_block_codes_for_a_minute_and_not_links(clock: Clock) -> None:
    links = LoginLinks(600)
    first, second = links.create("alice", None), links.create("alice", None)
    for _ in range(MAX_WRONG_CODES):
        with pytest.raises(RefusedError, match="wrong"):
            links.consume("AAAAA-AAAAA")
    with pytest.raises(TooManyError):
        links.consume(first.code)
    assert links.consume(second.secret).user == "alice"
    clock.now += WRONG_CODES_S
    assert links.consume(first.code).user == "alice"


def test_wrong_secrets_block_nothing() -> None:
    links = LoginLinks(60)
    link = links.create("alice", None)
    for _ in range(MAX_WRONG_CODES + 1):
        with pytest.raises(RefusedError):
            links.consume("x" * 43)
    assert links.consume(link.code).user == "alice"


def test_new_link_replaces_the_oldest_of_the_same_user() -> None:
    links = LoginLinks(60)
    other = links.create("bob", None)
    made = [links.create("alice", None) for _ in range(MAX_USER_LINKS + 1)]
    with pytest.raises(RefusedError):
        links.consume(made[0].secret)
    assert links.consume(made[1].secret).user == "alice"
    assert links.consume(other.secret).user == "bob"
