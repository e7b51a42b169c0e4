"""The OpenID provider: its configuration and its keys, which are cached, and the exchange of codes for ID tokens."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from broker.config.oidc_files import read_client_secret, read_keys
from broker.controller import clock
from broker.controller.web.oidc.provider_http import HINT, ProviderHttp, parse_object
from broker.errors import InvalidInputError, ProviderUnavailableError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.config.oidc_settings import OidcSettings

FRESH_S: Final = 3600.0
"""Age up to which a document is used. A key that the provider has withdrawn is trusted for as long."""
KEYS_RETRY_S: Final = 10.0
"""Least age at which the keys are fetched again for a token with an unknown key."""
FAILURE_S: Final = 3.0
"""Time for which a failure is repeated, so that many logins do not wait for the same provider one by one."""

log = logging.getLogger(__name__)


class Provider:
    """One provider, of which this site is a client."""

    def __init__(self, settings: OidcSettings, redirect_uri: str) -> None:
        """`settings` has an issuer."""
        assert settings.issuer is not None
        self.issuer: str = settings.issuer
        self._settings = settings
        self._redirect_uri = redirect_uri
        self._http = ProviderHttp(settings.issuer, settings.ca_file, settings.timeout)
        self._configuration = _CachedDocument(self._fetch_configuration)
        self._key_set = _CachedDocument(self._fetch_keys)

    async def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Return the address at which a browser logs in. ProviderUnavailableError if the provider does not answer."""
        configuration = await self._configuration.get()
        endpoint = self._http.check_url("authorization_endpoint", configuration.get("authorization_endpoint"))
        return str(
            prepare_grant_uri(
                endpoint,
                self._settings.client_id,
                "code",
                redirect_uri=self._redirect_uri,
                scope=" ".join(self._settings.scopes),
                state=state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
            )
        )

    async def names_itself(self) -> bool:
        """Whether each answer of the provider has the parameter `iss` (RFC 9207)."""
        return (await self._configuration.get()).get("authorization_response_iss_parameter_supported") is True

    async def exchange(self, code: str, verifier: str) -> str:
        """Return the ID token, unchecked, for a code. RefusedError for a code that the provider refuses."""
        configuration = await self._configuration.get()
        endpoint = self._http.check_url("token_endpoint", configuration.get("token_endpoint"))
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=verifier
        )
        client = _client_authentication(self._settings.client_id, await self._client_secret(), configuration)
        _, headers, body = client.prepare("POST", endpoint, {}, body)
        status, answer = await self._http.post_form(endpoint, headers, body)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ProviderUnavailableError(f"the provider answers a code with the status {status}", hint=HINT)
        if status != HTTPStatus.OK:
            log.warning("the provider refuses a code status=%d error=%s", status, ascii(answer.get("error"))[:100])
            raise RefusedError(
                "the provider refuses the login's code", hint="log in again; the controller's log has the reason"
            )
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise ProviderUnavailableError("the provider has sent no ID token", hint=HINT)
        return token

    async def keys(self, *, max_age_s: float = FRESH_S) -> dict[str, Any]:
        """Return the provider's JSON Web Key Set, unchecked, at most `max_age_s` old; or that of the file."""
        if self._settings.keys_file is not None:
            return parse_object(await _read_file(read_keys, self._settings.keys_file), "web.oidc.keys_file")
        return await self._key_set.get(max_age_s)

    async def check(self) -> None:
        """Raise ProviderUnavailableError unless the provider answers."""
        await self.authorization_url("state", "nonce", "v" * 43)
        await self.keys()

    async def _fetch_configuration(self) -> dict[str, Any]:
        found = await self._http.get_json(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.issuer:
            raise ProviderUnavailableError(
                "the provider's configuration is that of another issuer than web.oidc.issuer", hint=HINT
            )
        return found

    async def _fetch_keys(self) -> dict[str, Any]:
        configuration = await self._configuration.get()
        return await self._http.get_json(self._http.check_url("jwks_uri", configuration.get("jwks_uri")))

    async def _client_secret(self) -> str | None:
        path: Path | None = self._settings.client_secret_file
        return None if path is None else await _read_file(read_client_secret, path)


class _CachedDocument:
    """A document of the provider. One fetch at a time serves all callers for whom the last document is too old."""

    def __init__(self, fetch: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._fetch = fetch
        self._lock = asyncio.Lock()
        self._content: dict[str, Any] | None = None
        self._fetched_at = 0.0
        self._failure: ProviderUnavailableError | None = None
        self._failed_at = 0.0

    async def get(self, max_age_s: float = FRESH_S) -> dict[str, Any]:
        """Return the document, at most `max_age_s` old. ProviderUnavailableError if the provider does not answer."""
        if (content := self._content_of(max_age_s)) is not None:
            return content
        async with self._lock:
            if (content := self._content_of(max_age_s)) is not None:
                return content
            now = clock.monotonic()
            if self._failure is not None and now - self._failed_at <= FAILURE_S:
                raise ProviderUnavailableError(self._failure.message, hint=self._failure.hint)
            try:
                self._content = await self._fetch()
            except ProviderUnavailableError as error:
                self._failure, self._failed_at = error, clock.monotonic()
                raise
            self._fetched_at, self._failure = now, None
            return self._content

    def _content_of(self, max_age_s: float) -> dict[str, Any] | None:
        """Return the document if it is at most `max_age_s` old."""
        is_fresh = clock.monotonic() - self._fetched_at <= max_age_s
        return self._content if is_fresh else None


async def _read_file(read: Callable[[Path], str], path: Path) -> str:
    try:
        return await asyncio.to_thread(read, path)
    except InvalidInputError as error:
        raise ProviderUnavailableError("a file of web.oidc cannot be used", hint=HINT) from error


def _client_authentication(client_id: str, secret: str | None, configuration: dict[str, Any]) -> ClientAuth:
    """Return how the client authenticates: in the header, unless the provider only knows the body (RFC 6749)."""
    if secret is None:
        return ClientAuth(client_id, None, "none")
    known = configuration.get("token_endpoint_auth_methods_supported")
    if isinstance(known, list) and "client_secret_basic" not in known and "client_secret_post" in known:
        return ClientAuth(client_id, secret, "client_secret_post")
    # Authlib does not quote them.
    return ClientAuth(quote_plus(client_id), quote_plus(secret), "client_secret_basic")
