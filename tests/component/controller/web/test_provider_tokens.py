"""ID tokens that are not the provider's answer to this login: each is the provider's own one, changed."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import RefusedError
from tests.component.controller.web.provider_world import play, sign
from tests.openid.openid_provider import CLIENT, SECRET, ec_key, rsa_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.component.controller.web.provider_world import ProviderWorld, Running
    from tests.openid.relay import Claims

NOW = time.time()
FOREIGN = rsa_key("first")
"""Another key with the id of the provider's."""

CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"nonce": "x" * 43}, "answers another login"),
    "nonce that is no text": ({"nonce": ["x"]}, "answers another login"),
    "another client": ({"aud": "other"}, "for another client"),
    "another client too": ({"aud": [CLIENT, "other"], "azp": CLIENT}, "not for this one alone"),
    "no client": ({"aud": []}, "for another client"),
    "part of the client": ({"aud": CLIENT[:-1]}, "for another client"),
    "issued to another client": ({"azp": "other"}, "issued to another client"),
    "another issuer": ({"iss": "https://other.example.org"}, "of another issuer"),
    "issuer with a slash": ({"iss": "http://127.0.0.1:1/"}, "of another issuer"),
    "expired": ({"exp": NOW - 3600}, "has expired"),
    "expired long ago": ({"exp": -1e300}, "has expired"),
    "end that is no number": ({"exp": float("nan")}, "claim exp is faulty"),
    "end that is no time": ({"exp": float("inf")}, "claim exp is faulty"),
    "end in words": ({"exp": "tomorrow"}, "claim exp is faulty"),
    "end that is true": ({"exp": True}, "claim exp is faulty"),
    "issued long ago": ({"iat": NOW - 86400}, "has expired"),
    "issued tomorrow": ({"iat": NOW + 86400}, "not valid yet"),
    "valid tomorrow": ({"nbf": NOW + 86400}, "not valid yet"),
    "event": ({"events": {}}, "is not an ID token"),
    "no subject": ({"sub": ""}, "does not say whose it is"),
    "long subject": ({"sub": "x" * 256}, "claim sub is faulty"),
    "subject in other letters": ({"sub": "sub-аlice"}, "claim sub is faulty"),  # noqa: RUF001 - the point of it
    "subject with a line break": ({"sub": "sub-alice\n"}, "claim sub is faulty"),
    "subject that is a number": ({"sub": 7}, "claim sub is faulty"),
    "session that is a list": ({"sid": []}, "claim sid is faulty"),
}
"""By the fault: the changed claims, and the reason of the refusal."""


@pytest.mark.parametrize("case", CLAIMS)
def test_claim_is_refused(provider: Running, case: str) -> None:
    changed, message = CLAIMS[case]
    _play_refused(provider, lambda world, sent: sign(world, sent | changed), message)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("nonce", "answers another login"),
        ("aud", "for another client"),
        ("iss", "of another issuer"),
        ("exp", "has no end"),
        ("iat", "not valid yet"),
        ("sub", "does not say whose it is"),
    ],
)
def test_claim_that_is_missing_is_refused(provider: Running, claim: str, message: str) -> None:
    _play_refused(
        provider, lambda world, sent: sign(world, {name: sent[name] for name in sent if name != claim}), message
    )


def _unsigned(_: ProviderWorld, claims: Claims) -> str:
    return f"{_part({'alg': 'none'})}.{_part(claims)}."


def _by_hmac(shared: str) -> Callable[[ProviderWorld, Claims], str]:
    """Sign with HMAC, whose key is the client's secret, or the provider's public key: everybody has that."""

    def forge(world: ProviderWorld, claims: Claims) -> str:
        public = world.provider.keys[0]
        keys = {
            "client": SECRET.encode(),
            "pem": public.as_pem(private=False),
            "jwk": json.dumps(public.as_dict(private=False)).encode(),
        }
        content = f"{_part({'alg': 'HS256', 'kid': public.kid})}.{_part(claims)}"
        signature = hmac.digest(keys[shared], content.encode(), "sha256")
        return f"{content}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"

    return forge


def _with_key_in_header(world: ProviderWorld, claims: Claims) -> str:
    return sign(world, claims, FOREIGN, jwk=FOREIGN.as_dict(private=False))


def _with_another_signature(world: ProviderWorld, claims: Claims) -> str:
    head, _, _ = sign(world, claims).split(".")
    _, content, signature = sign(world, claims | {"sub": "sub-bob"}).split(".")
    return f"{head}.{_part(claims)}.{signature}" if content else ""


TOKENS: dict[str, tuple[Callable[[ProviderWorld, Claims], str], str]] = {
    "unsigned": (_unsigned, "not signed with one of RS256"),
    "unsigned in capitals": (
        lambda _, claims: f"{_part({'alg': 'NONE'})}.{_part(claims)}.",
        "not signed with one of RS256",
    ),
    "without an algorithm": (lambda _, claims: f"{_part({})}.{_part(claims)}.AAAA", "no signed token"),
    "HMAC by the client's secret": (_by_hmac("client"), "not signed with one of RS256"),
    "another key of that id": (lambda world, claims: sign(world, claims, FOREIGN), "signature is not valid"),
    "key of no id": (lambda world, claims: sign(world, claims, FOREIGN, kid="unknown"), "has no such key"),
    "id that is no text": (lambda world, claims: _with_header(world, claims, kid=[]), "refused"),
    "key in the header": (_with_key_in_header, "signature is not valid"),
    "another curve": (lambda world, claims: sign(world, claims, ec_key("first")), "not signed with one of RS256"),
    "another algorithm of that key": (
        lambda world, claims: sign(world, claims, alg="RS512"),
        "not signed with one of RS256",
    ),
    "another content": (_with_another_signature, "signature is not valid"),
    "unknown extension": (lambda world, claims: _with_header(world, claims, crit=["x"], x=1), "refused"),
    "logout token": (lambda world, claims: sign(world, claims, typ="logout+jwt"), "not an ID token"),
    "access token": (lambda world, claims: sign(world, claims, typ="at+jwt"), "token of another type"),
    "list": (lambda world, _: sign(world, [1]), "has no claims"),  # type: ignore[arg-type]
    "encrypted": (lambda _world, _claims: "a.b.c.d.e", "no signed token"),
    "text": (lambda _world, _claims: "alice", "no signed token"),
    "nothing": (lambda _world, _claims: "..", "no signed token"),
    "other letters": (lambda _world, _claims: "ä.ö.ü", "no signed token"),
    "long": (lambda world, claims: sign(world, claims | {"groups": "x" * 40_000}), "no signed token"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_token_is_refused(provider: Running, case: str) -> None:
    _play_refused(provider, *TOKENS[case])


@pytest.mark.parametrize("key", ["pem", "jwk"])
def test_public_key_is_no_shared_secret(provider: Running, key: str) -> None:
    _play_refused(provider, _by_hmac(key), "not signed with one of RS256")


def _play_refused(provider: Running, forge: Callable[[ProviderWorld, Claims], str], message: str) -> None:
    """The token is refused, and the provider's own one logs the browser in."""

    async def scene(world: ProviderWorld) -> None:
        world.relay.forge = lambda sent: forge(world, sent)
        with pytest.raises(RefusedError, match=message):
            await world.log_in()
        assert await world.browsers() == []
        world.relay.forge = lambda sent: sign(world, sent)
        assert (await world.log_in()).user == "alice"

    play(provider, scene)


def _with_header(world: ProviderWorld, claims: Claims, **fields: object) -> str:
    """Return a token of the provider's with other fields in its header, whose signature is then not valid."""
    head, content, signature = sign(world, claims).split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    return f"{_part(header | fields)}.{content}.{signature}"


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
