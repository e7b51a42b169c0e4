"""The claims of ID tokens (OpenID Connect Core 1.0, section 3.1.3.7) and of logout tokens (Back-Channel Logout 1.0)."""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker.config.oidc_files import MAX_SUBJECT_CHARS
from broker.controller import clock
from broker.controller.web.oidc.signed_token import refuse, verify_signature

if TYPE_CHECKING:
    from broker.config.oidc_settings import OidcSettings
    from broker.controller.web.oidc.provider import Provider

LEEWAY_S: Final = 60.0
"""Difference that the clocks of provider and controller may have."""
ID_TOKEN_AGE_S: Final = 600.0
"""An ID token comes from the provider at the moment of its exchange; older ones are refused."""
LOGOUT_TOKEN_AGE_S: Final = 600.0
"""Older logout tokens are refused. Used ones are remembered for longer than that."""
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
MAX_ID_CHARS = 255
"""Limit of `sid` and `jti`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A person, as the provider knows them, with the session there."""

    issuer: str
    subject: str
    session: str
    """The claim `sid`; empty if the provider sends none."""
    claims: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogoutRequest:
    """The end of one session at the provider, or of all sessions of a person."""

    issuer: str
    subject: str
    """Empty if only `session` says who it is."""
    session: str
    """Empty for all of the person's sessions."""
    token_id: str


class TokenVerifier:
    """Checks the tokens of one provider."""

    def __init__(self, settings: OidcSettings, provider: Provider) -> None:
        self._provider = provider
        self._client_id = settings.client_id
        self._algorithms = settings.algorithms

    async def verify_id_token(self, token: str, nonce: str) -> Identity:
        """Return the person of an ID token that answers the login with this nonce. RefusedError for all others."""
        signed = await verify_signature(token, self._provider, self._algorithms)
        claims = signed.claims
        self._check(claims, ID_TOKEN_AGE_S)
        if signed.type == "logout+jwt" or "events" in claims:
            raise refuse("it is not an ID token")
        if "exp" not in claims:
            raise refuse("it has no end")
        sent = claims.get("nonce")
        if not isinstance(sent, str) or not hmac.compare_digest(sent.encode(), nonce.encode()):
            raise refuse("it answers another login")
        subject = _text(claims, "sub", MAX_SUBJECT_CHARS)
        if not subject:
            raise refuse("it does not say whose it is")
        return Identity(self._provider.issuer, subject, _text(claims, "sid", MAX_ID_CHARS), claims)

    async def verify_logout_token(self, token: str) -> LogoutRequest:
        """Return what a logout token asks for. RefusedError unless it is the provider's, for this client, and new.

        That it is used once is for the caller to check, by `token_id`.
        """
        claims = (await verify_signature(token, self._provider, self._algorithms)).claims
        self._check(claims, LOGOUT_TOKEN_AGE_S)
        events = claims.get("events")
        if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
            raise refuse("it is not a logout token")
        if "nonce" in claims:
            raise refuse("a logout token has no nonce")
        found = LogoutRequest(
            issuer=self._provider.issuer,
            subject=_text(claims, "sub", MAX_SUBJECT_CHARS),
            session=_text(claims, "sid", MAX_ID_CHARS),
            token_id=_text(claims, "jti", MAX_ID_CHARS),
        )
        if not found.token_id:
            raise refuse("it has no id")
        if not found.subject and not found.session:
            raise refuse("it does not say whose logins end")
        return found

    def _check(self, claims: dict[str, Any], max_age_s: float) -> None:
        """Check what both kinds of tokens have in common."""
        if claims.get("iss") != self._provider.issuer:
            raise refuse("it is of another issuer")
        if claims.get("aud") not in (self._client_id, [self._client_id]):
            raise refuse("it is for another client, or not for this one alone")
        if claims.get("azp", self._client_id) != self._client_id:
            raise refuse("it was issued to another client")
        now = clock.now()
        issued_at, ends_at, valid_from = (_time(claims, name) for name in ("iat", "exp", "nbf"))
        if issued_at is None or issued_at > now + LEEWAY_S or (valid_from or 0) > now + LEEWAY_S:
            raise refuse("it is not valid yet: compare the clocks of provider and controller")
        if issued_at < now - max_age_s - LEEWAY_S or (ends_at is not None and ends_at <= now - LEEWAY_S):
            raise refuse("it has expired")


def _text(claims: dict[str, Any], name: str, most: int) -> str:
    """Return a claim that is a text in printable ASCII; empty if there is none. RefusedError for another value."""
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > most or not (value.isascii() and value.isprintable()):
        raise refuse(f"its claim {name} is faulty")
    return value


def _time(claims: dict[str, Any], name: str) -> float | None:
    """Return a claim that is a number of seconds since the epoch (RFC 7519, section 2); None if there is none."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refuse(f"its claim {name} is faulty")
    return float(value)
