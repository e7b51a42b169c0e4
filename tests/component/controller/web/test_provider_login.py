"""Logins at a real OpenID provider, and everything that is no login."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING

import pytest
from starlette.responses import RedirectResponse, Response

from broker.controller.web.oidc import provider as provider_module
from broker.controller.web.oidc import signed_token
from broker.controller.web.oidc.provider_http import MAX_ANSWER_BYTES
from broker.errors import ProviderUnavailableError, RefusedError
from broker.schema.oidc import ProviderLoginRequest
from tests.component.controller.web.provider_world import accounts, play, running_provider, sign
from tests.openid.openid_provider import ec_key, rsa_key
from tests.openid.person import Person

if TYPE_CHECKING:
    from pathlib import Path

    from joserfc.jwk import ECKey, RSAKey

    from tests.component.controller.web.provider_world import ProviderWorld, Running

DISCOVERY = "/.well-known/openid-configuration"
SILENCE_S = 2.0
"""Timeout of a request to a silent provider: on a busy machine, a request takes some tenths to arrive."""


def test_person_acts_as_their_account(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        answer = await world.log_in()
        login = await world.web.browsers.authenticate(answer.secret)
        assert (login.user, login.uid, login.browser, login.address) == ("alice", 4001, "Firefox", "192.0.2.7")
        assert (login.issuer, login.subject) == (world.relay.url, "sub-alice")
        assert login.provider_session
        assert answer.target is None
        assert (await world.log_in("sub-bob")).user == "bob"

    play(provider, scene)


def test_configuration_and_keys_are_asked_for_once(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        await asyncio.gather(*(world.log_in() for _ in range(5)))
        assert world.relay.requests.count(DISCOVERY) == 1
        assert world.relay.requests.count("/jwks") == 1

    play(provider, scene)


def test_answer_counts_once(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        async with Person("sub-alice") as person:
            answer = await world.answer(person)
            await world.logins.complete(answer)
            with pytest.raises(RefusedError, match="was used or has expired"):
                await world.logins.complete(answer)
            another = await world.answer(person)
            with pytest.raises(RefusedError, match="refuses the login's code"):
                await world.logins.complete(another.model_copy(update={"code": answer.code}))
        assert len(await world.browsers()) == 1

    play(provider, scene)


def test_code_of_another_login_is_refused_by_its_verifier(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        async with Person("sub-alice") as alice, Person("sub-bob") as bob:
            mine, stolen = await world.answer(bob), await world.answer(alice)
            with pytest.raises(RefusedError, match="refuses the login's code"):
                await world.logins.complete(mine.model_copy(update={"code": stolen.code}))
        assert await world.browsers("alice") == await world.browsers("bob") == []

    play(provider, scene)


def test_answer_counts_in_the_browser_that_began_the_login_only(provider: Running) -> None:
    """Login CSRF: an attacker's answer, brought to a victim's browser."""

    async def scene(world: ProviderWorld) -> None:
        async with Person("sub-bob") as attacker:
            answer = await world.answer(attacker)
        victim = await world.logins.begin(ProviderLoginRequest(address=""))
        with pytest.raises(RefusedError, match="another browser"):
            await world.logins.complete(answer.model_copy(update={"secret": victim.secret}))
        with pytest.raises(RefusedError, match="was used or has expired"):
            await world.logins.complete(answer.model_copy(update={"state": "x" * 43}))
        assert (await world.logins.complete(answer)).user == "bob"  # the attempts have not used it up

    play(provider, scene)


def test_cancelled_login_says_so(provider: Running) -> None:
    async def scene(world: ProviderWorld) -> None:
        async with Person("sub-alice") as person:
            answer = await world.answer(person, cancel=True)
        assert answer.error == "access_denied"
        with pytest.raises(RefusedError, match="you have cancelled the login"):
            await world.logins.complete(answer)

    play(provider, scene)


@pytest.mark.parametrize("issuer", ["", "https://other.example.org"])
def test_answer_names_its_provider(provider: Running, issuer: str) -> None:
    """Mix-up: RFC 9207."""

    async def scene(world: ProviderWorld) -> None:
        async with Person("sub-alice") as person:
            answer = await world.answer(person)
        with pytest.raises(RefusedError, match="of another provider"):
            await world.logins.complete(answer.model_copy(update={"issuer": issuer}))
        assert "/token" not in world.relay.requests

    play(provider, scene)


class TestAccounts:
    @pytest.mark.parametrize(
        ("subject", "message"),
        [
            ("sub-daemon", "daemon is a system account"),
            ("sub-carol", "sub-carol has no account on this site"),
            ("SUB-ALICE", "SUB-ALICE has no account on this site"),
            ("sub-gone", "no account gone-user on this machine"),
        ],
    )
    def test_person_without_a_users_account_is_refused(self, provider: Running, subject: str, message: str) -> None:
        async def scene(world: ProviderWorld) -> None:
            file = _accounts_file(world)
            file.write_text(file.read_text() + accounts(world.relay.url, **{"gone-user": "sub-gone"}))
            with pytest.raises(RefusedError, match=message):
                await world.log_in(subject)
            assert await world.browsers("daemon") == []

        play(provider, scene)

    def test_two_persons_can_have_one_account_and_changes_count_at_once(self, provider: Running) -> None:
        async def scene(world: ProviderWorld) -> None:
            file = _accounts_file(world)
            file.write_text(file.read_text() + accounts(world.relay.url, alice="sub-second"))
            assert (await world.log_in("sub-second")).user == (await world.log_in()).user == "alice"
            file.write_text(accounts("https://other.example.org", alice="sub-alice"))
            with pytest.raises(RefusedError, match="has no account"):
                await world.log_in()
            file.write_text(accounts(world.relay.url, alice="sub-alice") + accounts(world.relay.url, bob="sub-alice"))
            with pytest.raises(RefusedError, match="list of accounts is faulty"):
                await world.log_in()

        play(provider, scene)

    @pytest.mark.parametrize(
        ("claims", "message"),
        [
            ({"name": "alice@example.org"}, ""),
            ({"name": "alice"}, "does not end in @example.org"),
            ({"name": "alice@example.org.evil"}, "does not end in @example.org"),
            ({"name": "bob@evil@example.org"}, "is no name of an account"),
            ({"name": "Alice@example.org"}, "is no name of an account"),
            ({"name": "@example.org"}, "is no name of an account"),
            ({"name": "root@example.org"}, "root is a system account"),
            ({"name": ["alice@example.org"]}, "does not send the claim name"),
            ({}, "does not send the claim name"),
        ],
    )
    def test_claim_is_the_name_of_the_account(self, provider: Running, claims: dict[str, object], message: str) -> None:
        async def scene(world: ProviderWorld) -> None:
            world.relay.forge = lambda sent: sign(world, sent | claims)
            if not message:
                assert (await world.log_in("whoever")).user == "alice"
                return
            with pytest.raises(RefusedError, match=message):
                await world.log_in("whoever")

        play(provider, scene, **_by_claim("name", suffix="@example.org"))

    @pytest.mark.parametrize("verified", [True, False, "true", None])
    def test_mail_address_must_be_verified(self, provider: Running, verified: object) -> None:
        async def scene(world: ProviderWorld) -> None:
            claims = {"email": "alice@example.org", "email_verified": verified}
            world.relay.forge = lambda sent: sign(world, sent | claims)
            if verified is True:
                assert (await world.log_in("whoever")).user == "alice"
                return
            with pytest.raises(RefusedError, match="has not verified your mail address"):
                await world.log_in("whoever")

        play(provider, scene, **_by_claim("email", suffix="@example.org"))


class TestKeys:
    def test_new_key_of_the_provider_counts_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(signed_token, "KEYS_RETRY_S", 0.0)

        async def scene(world: ProviderWorld) -> None:
            await world.log_in()
            old, new = world.provider.keys[0], rsa_key("second")
            rotated = dataclasses.replace(world.provider, port=0, keys=[new])
            with rotated.running():
                world.relay.upstream = rotated.port
                assert (await world.log_in()).user == "alice"
                assert world.relay.requests.count("/jwks") == 2
                world.relay.forge = lambda sent: sign(world, sent, key=old)
                with pytest.raises(RefusedError, match="the provider has no such key"):
                    await world.log_in()

        with running_provider() as running:
            play(running, scene)

    def test_unknown_key_does_not_have_keys_fetched_again_and_again(self, provider: Running) -> None:
        async def scene(world: ProviderWorld) -> None:
            world.relay.forge = lambda sent: sign(world, sent, key=rsa_key("foreign"))
            for _ in range(3):
                with pytest.raises(RefusedError, match="the provider has no such key"):
                    await world.log_in()
            assert world.relay.requests.count("/jwks") == 1

        play(provider, scene)

    def test_keys_of_a_file_count_alone(self, provider: Running, tmp_path: Path) -> None:
        file = tmp_path / "keys.json"
        file.write_text(_published(provider.provider.keys[0]))

        async def scene(world: ProviderWorld) -> None:
            assert (await world.log_in()).user == "alice"
            file.write_text(_published(rsa_key("other")))
            with pytest.raises(RefusedError, match="the provider has no such key"):
                await world.log_in()
            file.unlink()
            with pytest.raises(ProviderUnavailableError, match=r"a file of web\.oidc cannot be used"):
                await world.log_in()
            assert "/jwks" not in world.relay.requests

        play(provider, scene, keys_file=file)

    def test_other_algorithm_needs_the_sites_permission(self) -> None:
        async def refused(world: ProviderWorld) -> None:
            with pytest.raises(RefusedError, match="not signed with one of RS256"):
                await world.log_in()

        async def accepted(world: ProviderWorld) -> None:
            assert (await world.log_in()).user == "alice"

        with running_provider(keys=[ec_key("curve")]) as running:
            play(running, refused)
            play(running, accepted, algorithms=["RS256", "ES256"])

    def test_public_client_has_no_secret(self) -> None:
        async def scene(world: ProviderWorld) -> None:
            assert (await world.log_in()).user == "alice"

        with running_provider(secret="") as running:
            play(running, scene, client_secret_file=None)

    def test_wrong_secret_is_refused_by_the_provider(self, provider: Running, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("wrong")

        async def scene(world: ProviderWorld) -> None:
            with pytest.raises(RefusedError, match="refuses the login's code"):
                await world.log_in()

        play(provider, scene, client_secret_file=tmp_path / "secret")


class TestFaultyProvider:
    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (None, "has not answered within 0.3 s"),
            (Response(status_code=500), "with the status 500"),
            (RedirectResponse("/jwks"), "with the status 307"),
            (Response(b"x" * (MAX_ANSWER_BYTES + 1)), "has more than"),
            (Response(b"x", headers={"Content-Encoding": "gzip"}), "is compressed"),
            (Response(b"<html>"), "is not JSON"),
            (Response(b"[" * 100_000), "is not JSON"),
            (Response(b"[]"), "is not a JSON object"),
            (Response(b'{"issuer": "http://127.0.0.1"}'), "another issuer"),
        ],
    )
    def test_no_login_begins_until_its_configuration_is_there(
        self, provider: Running, answer: Response | None, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(provider_module, "FAILURE_S", 0.0)

        async def scene(world: ProviderWorld) -> None:
            http = world.logins._provider._http
            usual = http._timeout_s
            if answer is None:
                world.relay.silent.add(DISCOVERY)
                http._timeout_s = 0.3
            else:
                world.relay.answers[DISCOVERY] = answer
            with pytest.raises(ProviderUnavailableError, match=message):
                await world.logins.begin(ProviderLoginRequest(address=""))
            assert not (await world.logins.doctor_check()).ok
            http._timeout_s = usual
            world.relay.silent.clear()
            world.relay.answers.clear()
            assert (await world.log_in()).user == "alice"
            assert (await world.logins.doctor_check()).ok

        play(provider, scene)

    @pytest.mark.parametrize(
        ("endpoint", "message"),
        [
            ("http://192.0.2.1/auth", "must begin with https"),
            ("file:///etc/passwd", "must be an address"),
            ("http://127.0.0.1@192.0.2.1/", "must be an address"),
            (5, "is missing"),
            (None, "is missing"),
        ],
    )
    def test_no_address_without_tls_is_used(self, provider: Running, endpoint: object, message: str) -> None:
        async def scene(world: ProviderWorld) -> None:
            document = {"issuer": world.relay.url, "authorization_endpoint": endpoint}
            world.relay.answers[DISCOVERY] = Response(json.dumps(document))
            with pytest.raises(ProviderUnavailableError, match=message):
                await world.logins.begin(ProviderLoginRequest(address=""))

        play(provider, scene)

    def test_provider_that_is_away_is_not_asked_by_each_login(self, provider: Running) -> None:
        async def scene(world: ProviderWorld) -> None:
            world.relay.silent.add(DISCOVERY)
            logins = [world.logins.begin(ProviderLoginRequest(address="")) for _ in range(20)]
            ends = await asyncio.gather(*logins, return_exceptions=True)
            assert {type(end) for end in ends} == {ProviderUnavailableError}
            assert world.relay.requests == [DISCOVERY]

        play(provider, scene, timeout=SILENCE_S)

    @pytest.mark.parametrize(
        "answer",
        [
            Response(b"{}"),
            Response(b'{"id_token": 5}'),
            Response(b"[]"),
            Response(b"x" * (MAX_ANSWER_BYTES + 1)),
            Response(b"\xff"),
            Response(status_code=500),
            RedirectResponse("http://192.0.2.1/"),
            None,
        ],
    )
    def test_answer_to_a_code_that_is_no_answer_logs_nobody_in(
        self, provider: Running, answer: Response | None
    ) -> None:
        async def scene(world: ProviderWorld) -> None:
            if answer is None:
                world.relay.silent.add("/token")
            else:
                world.relay.answers["/token"] = answer
            async with Person("sub-alice") as person:
                brought = await world.answer(person)
            if answer is None:
                world.logins._provider._http._timeout_s = SILENCE_S
            with pytest.raises((ProviderUnavailableError, RefusedError)):
                await world.logins.complete(brought)
            assert "/token" in world.relay.requests
            assert await world.browsers() == []

        play(provider, scene)


def _accounts_file(world: ProviderWorld) -> Path:
    file = world.core.config.web.oidc.accounts_file
    assert file is not None
    return file


def _by_claim(claim: str, *, suffix: str) -> dict[str, object]:
    """Return the settings of the rule for accounts by a claim."""
    rule = {"claim": claim, "claim_suffix": suffix, "claim_is_unique_and_immutable": True}
    return rule | {"accounts_file": None}


def _published(key: RSAKey | ECKey) -> str:
    """Return a JSON Web Key Set with the public part of the key."""
    return json.dumps({"keys": [key.as_dict(private=False)]})
