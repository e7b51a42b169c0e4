"""Types of logins by OpenID Connect: what berth-web carries between browsers, the provider and the controller."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from broker.schema.base import Strict, Timestamp
from broker.schema.web import BrowserText, ClientAddress, Secret

MAX_TOKEN_CHARS = 32_768
"""Above every token of a provider; one with the groups of a person has some 10 KiB."""

ProviderText = Annotated[str, StringConstraints(max_length=2048, pattern=r"^[\x20-\x7e]*$")]
"""A parameter of the provider's answer."""


class ProviderLoginRequest(Strict):
    """A browser's request to log in at the provider."""

    address: ClientAddress


class ProviderLogin(Strict):
    """The begin of a login at the provider."""

    url: Annotated[str, StringConstraints(max_length=8192)]
    """The address at the provider, for the browser."""
    secret: Secret
    """For a cookie of this browser: only with it, the provider's answer counts."""
    expires_at: Timestamp


class ProviderAnswer(Strict):
    """The provider's answer to a login, as the browser brought it (OpenID Connect Core 1.0, section 3.1.2.5)."""

    secret: Secret
    """From the browser's cookie."""
    state: ProviderText
    code: ProviderText = ""
    error: ProviderText = ""
    issuer: ProviderText = ""
    """The parameter `iss` (RFC 9207)."""
    browser: BrowserText = ""
    address: ClientAddress = ""


class ProviderLogout(Strict):
    """A provider's request to log a person's browsers out (OpenID Connect Back-Channel Logout 1.0)."""

    logout_token: Annotated[str, Field(max_length=MAX_TOKEN_CHARS, pattern=r"^[A-Za-z0-9_.-]+$")]


class ProviderLogoutAnswer(Strict):
    ended: Annotated[int, Field(ge=0)]
    """The number of browsers that were logged out."""
    closed: bool
    """Whether berth-web has said that all of their connections are closed."""
