"""The provider's back-channel logout ends logins, and nothing else does."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.web.oidc import signed_token
from broker.controller.web.oidc.tokens import LOGOUT_EVENT
from broker.errors import LoggedOutError, RefusedError
from broker.names import new_id
from broker.schema.oidc import ProviderLogout
from broker.schema.web import LinkRequest
from tests.component.controller.web.provider_world import play, sign
from tests.deadlines import DEADLINE_S
from tests.openid.openid_provider import CLIENT, rsa_key
from tests.openid.person import Person

if TYPE_CHECKING:
    from tests.component.controller.web.provider_world import ProviderWorld, Running
    from tests.openid.relay import Claims


def _claims(world: ProviderWorld, **changed: object) -> Claims:
    """Return the claims of a logout token; None removes one."""
    now = time.time()
    usual = {
        "iss": world.relay.url,
        "aud": CLIENT,
        "iat": now,
        "exp": now + 120,
        "jti": new_id(),
        "sub": "sub-alice",
        "events": {LOGOUT_EVENT: {}},
    }
    return {name: value for name, value in (usual | changed).items() if value is not None}


async def _session(world: ProviderWorld, secret: str) -> str:
    return (await world.web.browsers.authenticate(secret)).provider_session


def test_logout_at_the_provider_ends_the_logins_of_that_session(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        kept = await world.log_in()
        async with Person("sub-alice") as person:
            ended = [await world.logins.complete(await world.answer(person)) for _ in range(2)]
            await person.log_out(world.relay.url)
        async with asyncio.timeout(DEADLINE_S):
            while not world.relay.logout_tokens:  # noqa: ASYNC110 - the provider sends it after its answer
                await asyncio.sleep(0.01)
        (token,) = world.relay.logout_tokens
        assert await world.log_out(token) == 2
        assert sorted(world.berth_web.closed[-1].delegation_ids) == sorted(each.id for each in ended)
        assert await world.browsers() == [kept.id]
        for each in ended:
            with pytest.raises(LoggedOutError):
                await world.web.browsers.authenticate(each.secret)

    play(provider, scene)


def test_logout_of_a_person_ends_all_their_logins_and_no_others(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        for subject in ("sub-alice", "sub-alice", "sub-bob"):
            await world.log_in(subject)
        link = await world.web.browsers.make_link("alice", 4001, LinkRequest())
        by_link = await world.web.browsers.add("alice", 4001, browser="", address="")
        assert link.code
        assert await world.log_out(sign(world, _claims(world))) == 2
        assert await world.browsers() == [by_link.id]
        assert len(await world.browsers("bob")) == 1

    play(provider, scene)


def test_session_alone_names_its_logins(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        one, other = await world.log_in(), await world.log_in()
        session = await _session(world, one.secret)
        assert await world.log_out(sign(world, _claims(world, sub=None, sid="of nobody"))) == 0
        assert await world.log_out(sign(world, _claims(world, sub="sub-bob", sid=session))) == 0
        assert await world.log_out(sign(world, _claims(world, sub=None, sid=session))) == 1
        assert await world.browsers() == [other.id]

    play(provider, scene)


def test_login_whose_session_is_unknown_ends_with_any_of_the_person(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        world.relay.forge = lambda sent: sign(world, {name: sent[name] for name in sent if name != "sid"})
        await world.log_in()
        assert await world.log_out(sign(world, _claims(world, sub=None, sid="x"))) == 0
        assert await world.log_out(sign(world, _claims(world, sid="x"))) == 1

    play(provider, scene)


def test_logout_token_counts_once_also_after_a_restart(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        token = sign(world, _claims(world))
        await world.log_in()
        assert await world.log_out(token) == 1
        again = await world.log_in()
        world.core.__dict__.pop("web")  # as a restarted controller, which knows what the registry has
        with pytest.raises(RefusedError, match="was used already"):
            await world.log_out(token)
        assert await world.browsers() == [again.id]

    play(provider, scene)


def test_token_with_an_unknown_key_keeps_no_login_waiting(provider: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_token, "KEYS_RETRY_S", 0.0)

    async def scene(world: ProviderWorld) -> None:
        await world.log_in()
        world.logins._provider._http._timeout_s = DEADLINE_S
        world.relay.silent.add("/jwks")
        stuck = asyncio.create_task(world.log_out(sign(world, _claims(world), rsa_key("foreign"))))
        async with asyncio.timeout(DEADLINE_S):
            while world.relay.requests.count("/jwks") < 2:  # noqa: ASYNC110 - the relay sets no Event
                await asyncio.sleep(0.01)
        await world.log_in()
        assert not stuck.done()
        stuck.cancel()

    play(provider, scene)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nonce": ({"nonce": "x"}, "has no nonce"),
    "no event": ({"events": None}, "not a logout token"),
    "another event": ({"events": {"other": {}}}, "not a logout token"),
    "event that is no object": ({"events": {LOGOUT_EVENT: True}}, "not a logout token"),
    "event as a list": ({"events": [LOGOUT_EVENT]}, "not a logout token"),
    "no id": ({"jti": None}, "has no id"),
    "nobody": ({"sub": None}, "whose logins end"),
    "empty session": ({"sub": None, "sid": ""}, "whose logins end"),
    "another client": ({"aud": "other"}, "for another client"),
    "another issuer": ({"iss": "https://other.example.org"}, "of another issuer"),
    "expired": ({"exp": 1}, "has expired"),
    "old": ({"iat": 1}, "has expired"),
    "without a time": ({"iat": None}, "not valid yet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_logout_token_is_refused(provider: Running, case: str) -> None:
    changed, message = REFUSED[case]

    async def scene(world: ProviderWorld) -> None:
        await world.log_in()
        with pytest.raises(RefusedError, match=message):
            await world.log_out(sign(world, _claims(world, **changed)))
        assert len(await world.browsers()) == 1
        assert await world.log_out(sign(world, _claims(world, exp=None))) == 1  # older providers send no end

    play(provider, scene)


def test_id_token_and_foreign_signature_log_nobody_out(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        tokens: list[Claims] = []

        def note(claims: Claims) -> str:
            tokens.append(claims)
            return sign(world, claims)

        world.relay.forge = note
        await world.log_in()
        with pytest.raises(RefusedError, match="not a logout token"):
            await world.log_out(sign(world, tokens[0]))
        with pytest.raises(RefusedError, match="signature is not valid"):
            await world.log_out(sign(world, _claims(world), rsa_key("first")))
        assert len(await world.browsers()) == 1

    play(provider, scene)


def test_logout_is_acknowledged_only_when_connections_are_closed(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        await world.log_in()
        world.berth_web.status = 500
        answer = await world.logins.log_out(ProviderLogout(logout_token=sign(world, _claims(world))))
        assert (answer.ended, answer.closed) == (1, False)
        assert await world.browsers() == []

    play(provider, scene)


def test_login_that_is_under_way_ends_with_a_logout(provider: Running) -> None:
    """The logout comes while the controller has the code, and no login yet."""

    async def scene(world: ProviderWorld) -> None:
        def log_out_meanwhile(claims: Claims) -> str:
            token = sign(world, _claims(world, sid=claims["sid"]))
            logouts.append(asyncio.create_task(world.log_out(token)))
            return sign(world, claims)

        logouts: list[asyncio.Task[int]] = []
        await world.log_in()  # the keys are known, so that the logout is not slower than the login
        world.relay.forge = log_out_meanwhile
        find = world.logins._rule.find

        async def find_late(identity: Any) -> tuple[str, int]:  # noqa: ANN401 - as it is
            await logouts[0]
            return await find(identity)

        world.logins._rule.find = find_late  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match="logged out at the provider meanwhile"):
            await world.log_in()
        assert len(await world.browsers()) == 1
        world.relay.forge = None
        world.logins._rule.find = find  # type: ignore[method-assign]
        await world.log_in()
        assert len(await world.browsers()) == 2

    play(provider, scene)
