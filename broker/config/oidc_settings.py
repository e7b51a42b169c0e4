"""The settings of logins by OpenID Connect."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from broker.config.section import Section
from broker.config.setting_types import AbsolutePath

SIGNING_ALGORITHMS = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
]
"""Algorithms of signatures with a public key. With the others, `none` and the HMACs, a token would prove nothing."""

_Scope = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,100}$")]
_Words = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=60)]
_ClientId = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", max_length=255)]
_Claim = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]*$", max_length=100)]
_Suffix = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=100)]


def is_loopback(host: str) -> bool:
    """Whether a host of an address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_provider_url(url: str, *, loopback: bool) -> None:
    """Raise ValueError unless a provider's address has TLS. `loopback`: or is on this machine."""
    parts = urlsplit(url)
    if not re.fullmatch(r"[\x21-\x7e]{1,2048}", url) or not parts.hostname or parts.username or parts.fragment:
        raise ValueError("must be an address such as https://login.example.org")
    if parts.scheme != "https" and not (loopback and parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("must begin with https://")


def _check_issuer(url: str) -> str:
    check_provider_url(url, loopback=True)
    if urlsplit(url).query or "?" in url:
        raise ValueError("must have no `?`: it is the `issuer` of the provider's configuration document")
    return url


class OidcSettings(Section):
    """Logins of browsers by OpenID Connect, as a client of one provider. The redirect address to register there is that
    of the portal with `/login/oidc/callback`, the address for back-channel logout that with `/login/oidc/logout`.
    """

    issuer: Annotated[str, AfterValidator(_check_issuer)] | None = None
    """The provider's issuer identifier, byte for byte as the provider spells it; default: no such logins."""
    client_id: Annotated[_ClientId, Field(validate_default=True)] = ""
    """The name under which the provider knows this site."""
    client_secret_file: AbsolutePath | None = None
    """A file with the client's secret, which only the controller's account can read; default: a public client, which
    has PKCE alone."""
    name: Annotated[_Words, StringConstraints(min_length=1)] = "single sign-on"
    """The name on the button: `Log in with NAME`."""
    scopes: Annotated[list[_Scope], Field(min_length=1, max_length=20)] = ["openid"]
    """The scopes of the request; `openid` is among them, others if `claim` needs them."""
    algorithms: Annotated[list[SIGNING_ALGORITHMS], Field(min_length=1)] = ["RS256"]
    """The algorithms with which the provider may sign. Tokens with all others are refused."""
    accounts_file: Annotated[AbsolutePath | None, Field(validate_default=True)] = None
    """A file with a line `ACCOUNT ISSUER SUBJECT` for each person who may log in. It is read at each login."""
    claim: _Claim = ""
    """In place of `accounts_file`: the claim of the ID token whose value is the account's name."""
    claim_suffix: _Suffix = ""
    """An end such as `@example.org`, which every value of the claim must have, and which is not part of the account's
    name."""
    claim_is_unique_and_immutable: Annotated[bool, Field(validate_default=True)] = False
    """The site's declaration that the provider never gives a value of the claim to another person, and that no person
    can change it. Without it, no claim is accepted."""
    keys_file: AbsolutePath | None = None
    """A file with the provider's public keys, a JSON Web Key Set; default: they are fetched from the provider."""
    ca_file: AbsolutePath | None = None
    """A PEM file with the only authorities that are trusted for the provider's certificate; default: those of the
    system."""
    timeout: Annotated[float, Field(ge=0.1, le=15)] = 10.0
    """Time for one answer of the provider."""
    login_timeout: Annotated[float, Field(ge=1, le=3600)] = 600.0
    """Time within which a browser must come back from the provider."""

    @field_validator("client_id")
    @classmethod
    def _require_client(cls, client_id: str, info: ValidationInfo) -> str:
        if info.data.get("issuer") and not client_id:
            raise ValueError("is needed: the name under which the provider knows this site")
        return client_id

    @field_validator("scopes")
    @classmethod
    def _require_openid(cls, scopes: list[str]) -> list[str]:
        if "openid" not in scopes:
            raise ValueError("must contain openid: without it, the provider sends no ID token")
        return scopes

    @field_validator("claim")
    @classmethod
    def _require_one_rule(cls, claim: str, info: ValidationInfo) -> str:
        if claim and info.data.get("accounts_file") is not None:
            raise ValueError("cannot be combined with web.oidc.accounts_file: choose one rule for accounts")
        return claim

    @field_validator("claim_suffix")
    @classmethod
    def _require_claim(cls, suffix: str, info: ValidationInfo) -> str:
        if suffix and not info.data.get("claim", "-"):
            raise ValueError("needs web.oidc.claim, whose values it ends")
        return suffix

    @field_validator("claim_is_unique_and_immutable")
    @classmethod
    def _require_declaration(cls, declared: bool, info: ValidationInfo) -> bool:
        if info.data.get("claim") and not declared:
            raise ValueError(
                "must be true for a claim. Set it only if the provider never gives a value to another person, and no "
                "person can change it; otherwise use web.oidc.accounts_file"
            )
        if info.data.get("issuer") and not info.data.get("claim", "-") and info.data.get("accounts_file", "-") is None:
            raise ValueError("a rule for accounts is missing: set web.oidc.accounts_file or web.oidc.claim")
        return declared
