"""Logins and logouts of browsers by OpenID Connect."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from typing import TYPE_CHECKING, Final

from broker.config.oidc_files import file_faults
from broker.controller import clock
from broker.controller.web.browsers import ProviderSession
from broker.controller.web.oidc.accounts import AccountRule
from broker.controller.web.oidc.pending import PendingLogins
from broker.controller.web.oidc.provider import Provider
from broker.controller.web.oidc.tokens import LEEWAY_S, LOGOUT_TOKEN_AGE_S, TokenVerifier
from broker.controller.web.secret import hash_secret
from broker.errors import BerthError, RefusedError
from broker.schema.oidc import ProviderLogin, ProviderLogoutAnswer
from broker.schema.site import DoctorCheck

if TYPE_CHECKING:
    from broker.config.oidc_settings import OidcSettings
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.web.browsers import Browsers
    from broker.controller.web.oidc.tokens import Identity, LogoutRequest
    from broker.origins import Origins
    from broker.schema.oidc import ProviderAnswer, ProviderLoginRequest, ProviderLogout
    from broker.schema.web import DelegationAnswer

CALLBACK_PATH: Final = "/login/oidc/callback"
"""The path of the portal to which the provider leads browsers back."""
RECENT_LOGOUTS = 1000
_ERROR_CODE = re.compile(r"[a-z_]{1,40}", re.ASCII)

log = logging.getLogger(__name__)


class ProviderLogins:
    """Logins at one provider. The controller makes state, nonce and PKCE's verifier, and checks every token."""

    def __init__(self, settings: OidcSettings, origins: Origins, registry: AsyncRegistry, browsers: Browsers) -> None:
        self._settings = settings
        self._provider = Provider(settings, f"{origins.portal_url}{CALLBACK_PATH}")
        self._verifier = TokenVerifier(settings, self._provider)
        self._rule = AccountRule(settings)
        self._pending = PendingLogins(settings.login_timeout)
        self._registry = registry
        self._browsers = browsers
        self._logging_out = asyncio.Lock()
        self._recent_logouts: deque[tuple[float, LogoutRequest]] = deque(maxlen=RECENT_LOGOUTS)

    async def begin(self, request: ProviderLoginRequest) -> ProviderLogin:
        """Begin a login of a browser. ProviderUnavailableError if the provider does not answer."""
        new = self._pending.begin(request.address)
        url = await self._provider.authorization_url(new.state, new.nonce, new.verifier)
        return ProviderLogin(url=url, secret=new.secret, expires_at=new.expires_at)

    async def complete(self, answer: ProviderAnswer) -> DelegationAnswer:
        """Log the browser in that has begun this login, as the person of the provider's ID token.

        RefusedError, in words, for an answer or a token that is not valid, and for a person without an account;
        ProviderUnavailableError if the provider does not answer.
        """
        try:
            return await self._complete(answer)
        except BerthError as error:
            log.warning("login by the provider refused: %s cause=%r", error.message, error.__cause__)
            raise

    async def _complete(self, answer: ProviderAnswer) -> DelegationAnswer:
        login = self._pending.take(answer.state, answer.secret)
        if (answer.issuer or await self._provider.names_itself()) and answer.issuer != self._provider.issuer:
            raise RefusedError("the answer is of another provider", hint="log in again")
        if answer.error or not answer.code:
            raise _refusal(answer.error)
        began_at = clock.monotonic()
        token = await self._provider.exchange(answer.code, login.verifier)
        identity = await self._verifier.verify_id_token(token, login.nonce)
        user, uid = await self._rule.find(identity)
        session = ProviderSession(identity.issuer, identity.subject, identity.session)
        delegation = await self._browsers.add(
            user, uid, browser=answer.browser, address=answer.address, provider=session
        )
        if any(at >= began_at and _ends(logout, identity) for at, logout in self._recent_logouts):
            await self._browsers.log_out(user, delegation.id)
            raise RefusedError("you have logged out at the provider meanwhile", hint="log in again")
        log.info("browser logged in by the provider user=%s login=%s", user, delegation.id)
        return delegation

    async def log_out(self, request: ProviderLogout) -> ProviderLogoutAnswer:
        """End the logins of a logout token, and return when their connections are closed.

        RefusedError for a token that is not valid, or was used.
        """
        try:
            wanted = await self._verifier.verify_logout_token(request.logout_token)
            async with self._logging_out:
                self._recent_logouts.append((clock.monotonic(), wanted))
                ended = await self._registry.end_provider_logins(
                    wanted.issuer,
                    wanted.subject,
                    wanted.session,
                    token_hash=hash_secret(f"{wanted.issuer} {wanted.token_id}"),
                    forget_at=clock.now() + LOGOUT_TOKEN_AGE_S + 2 * LEEWAY_S,
                )
            if ended is None:
                raise RefusedError("this logout token was used already")
        except BerthError as error:
            log.warning("logout by the provider refused: %s cause=%r", error.message, error.__cause__)
            raise
        closed = await self._browsers.close(ended)
        log.info("browsers logged out by the provider: %d", len(ended))
        return ProviderLogoutAnswer(ended=len(ended), closed=closed)

    async def doctor_check(self) -> DoctorCheck:
        """Report whether logins can work."""
        try:
            for fault in await asyncio.to_thread(file_faults, self._settings):
                raise fault
            await self._provider.check()
        except BerthError as error:
            return DoctorCheck(name="openid", ok=False, detail=error.message, hint="see docs/howto/openid.md")
        return DoctorCheck(name="openid", ok=True, detail=f"{self._provider.issuer} answers")


def _refusal(code: str) -> RefusedError:
    if code == "access_denied":
        return RefusedError("you have cancelled the login, or the provider refuses you", hint="log in again")
    reason = code if _ERROR_CODE.fullmatch(code) else "without a reason"
    return RefusedError(
        f"the provider refuses the login: {reason}", hint="log in again; if it stays so, tell the site's operators"
    )


def _ends(logout: LogoutRequest, identity: Identity) -> bool:
    """Whether a logout is of this login, as the registry decides it."""
    same_person = logout.subject in {"", identity.subject}
    if not logout.session:
        return same_person
    unknown_session = not identity.session and logout.subject == identity.subject
    return same_person and (logout.session == identity.session or unknown_session)
