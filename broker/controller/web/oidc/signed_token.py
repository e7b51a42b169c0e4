"""The signature of a provider's token: with an algorithm that the site allows, and a key that the provider has now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from broker.controller.web.oidc.provider import FRESH_S, KEYS_RETRY_S
from broker.errors import RefusedError
from broker.schema.oidc import MAX_TOKEN_CHARS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.controller.web.oidc.provider import Provider

MAX_KEYS = 100
MIN_RSA_BITS = 2048
"""Shorter keys can be factored (NIST SP 800-131A)."""
_KEY_TYPES: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RS": RSAKey, "PS": RSAKey, "ES": ECKey, "Ed": OKPKey}
"""The type of key for each family of algorithms. A public key of one is never used with another."""
_TYPES = {"jwt", "logout+jwt"}


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """The content of a token whose signature is the provider's."""

    claims: dict[str, Any]
    type: str
    """The header `typ`, in small letters; empty without one."""


def refuse(what: str) -> RefusedError:
    """Return the error for a token with a fault."""
    return RefusedError(
        f"the provider's token is refused: {what}", hint="log in again; if it stays so, tell the site's operators"
    )


async def verify_signature(token: str, provider: Provider, algorithms: Sequence[str]) -> SignedClaims:
    """Return the claims. RefusedError unless the provider has signed the token with one of the algorithms.

    Only the algorithm and the key's id come from the token's header. Keys in the header, or addresses of keys, do not
    count. A key that the provider did not have when its keys were fetched has them fetched again.
    """
    header = _header(token)
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise refuse(f"it is not signed with one of {', '.join(algorithms)}")
    if "crit" in header or "b64" in header:
        raise refuse("its header demands an extension")
    if kid is not None and not isinstance(kid, str):
        raise refuse("the id of its key is no text")
    for max_age_s in (FRESH_S, KEYS_RETRY_S):
        keys = _matching_keys(await provider.keys(max_age_s=max_age_s), algorithm, kid)
        if keys:
            break
    else:
        raise refuse("the provider has no such key")
    if len(keys) > 1:
        raise refuse("the provider has several keys that it could be signed with")
    try:
        payload = jws.deserialize_compact(token, keys[0], registry=_registry(algorithm)).payload
        claims = json.loads(payload)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise refuse("its signature is not valid") from error
    if not isinstance(claims, dict):
        raise refuse("it has no claims")
    kind = header.get("typ", "")
    if not isinstance(kind, str) or (kind and kind.lower() not in _TYPES):
        raise refuse("it is a token of another type")
    return SignedClaims(claims, kind.lower())


class _Registry(jws.JWSRegistry):
    """The limits of joserfc for tokens, except that a header can have a certificate."""

    max_header_length = 16_384


def _registry(algorithm: str) -> jws.JWSRegistry:
    """Return the rules for a token with this algorithm. Other fields of the header do not matter."""
    return _Registry(algorithms=[algorithm], strict_check_header=False)


def _header(token: str) -> dict[str, Any]:
    if len(token) > MAX_TOKEN_CHARS or token.count(".") != 2 or not token.isascii():
        raise refuse("it is no signed token")
    try:
        header = jws.extract_compact(token.encode(), registry=_registry("")).headers()
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise refuse("it is no signed token") from error
    return dict(header)


def _matching_keys(key_set: dict[str, Any], algorithm: str, kid: str | None) -> list[RSAKey | ECKey | OKPKey]:
    """Return the keys that can have signed a token with this header."""
    published = key_set.get("keys")
    if not isinstance(published, list):
        return []
    return [
        key
        for each in published[:MAX_KEYS]
        if isinstance(each, dict) and _fits(each, algorithm, kid) and (key := _import(each, algorithm)) is not None
    ]


def _fits(key: dict[str, Any], algorithm: str, kid: str | None) -> bool:
    return (
        (kid is None or key.get("kid") == kid)
        and key.get("alg", algorithm) == algorithm
        and key.get("use", "sig") == "sig"
        and key.get("kty") == _KEY_TYPES[algorithm[:2]].key_type
    )


def _import(key: dict[str, Any], algorithm: str) -> RSAKey | ECKey | OKPKey | None:
    """Return the public key; None for one that is faulty, too short or on another curve."""
    public: dict[str, Any] = {name: key[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in key}
    try:
        found = _KEY_TYPES[algorithm[:2]].import_key(public)
        jws.JWSRegistry.algorithms[algorithm].check_key(found)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if isinstance(found, RSAKey) and found.public_key.key_size < MIN_RSA_BITS:
        return None
    return found
