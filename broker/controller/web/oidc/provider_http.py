"""HTTP requests to the provider: short, bounded, and to the addresses that the site has chosen."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from broker.config.oidc_settings import check_provider_url
from broker.errors import ProviderUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAX_ANSWER_BYTES = 262_144
"""Above every configuration document, key set and answer with tokens."""


class ProviderHttp:
    """Sends requests. It follows no redirects, knows no proxy, and keeps no cookies."""

    def __init__(self, issuer: str, ca_file: Path | None, timeout_s: float) -> None:
        self._loopback = issuer.startswith("http:")
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None

    def check_url(self, what: str, url: object) -> str:
        """Return an address of the provider. ProviderUnavailableError unless it has TLS as the issuer has."""
        try:
            if not isinstance(url, str):
                raise ValueError("is missing")  # noqa: TRY004, TRY301 - the same words as the check's
            check_provider_url(url, loopback=self._loopback)
        except ValueError as error:
            raise ProviderUnavailableError(f"the provider's configuration has a faulty {what}: it {error}", hint=HINT) from error
        return url

    @asynccontextmanager
    async def limits(self) -> AsyncIterator[None]:
        """Bound the time of what the block does with the provider. ProviderUnavailableError for its failures."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise ProviderUnavailableError(
                f"the provider has not answered within {self._timeout_s:g} s", hint=f"try again; {OPERATORS}"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise ProviderUnavailableError("the provider does not answer", hint=f"try again; {OPERATORS}") from error

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a transport for one exchange. It is bounded: see MAX_ANSWER_BYTES."""
        return _BoundedTransport(httpx.AsyncHTTPTransport(verify=self._tls_context(), trust_env=False, retries=0))

    async def get_json(self, url: str) -> dict[str, Any]:
        """Return the JSON object at an address. ProviderUnavailableError if there is none."""
        async with (
            self.limits(),
            httpx.AsyncClient(
                transport=self.transport(), trust_env=False, follow_redirects=False, timeout=self._timeout_s
            ) as client,
        ):
            response = await client.get(url, headers={"Accept": "application/json"})
        if response.status_code != 200:
            raise ProviderUnavailableError(f"the provider answers {url} with the status {response.status_code}", hint=HINT)
        return parse_object(response.content, url)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = ssl.create_default_context(cafile=self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ProviderUnavailableError("web.oidc.ca_file cannot be used", hint=OPERATORS) from error
        return self._tls


OPERATORS = "if it stays so, tell the site's operators"
HINT = "tell the site's operators; `berth doctor` checks the provider"


def parse_object(content: bytes | str, what: str) -> dict[str, Any]:
    """Return a JSON object. ProviderUnavailableError for everything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ProviderUnavailableError(f"{what} is not JSON", hint=HINT) from error
    if not isinstance(value, dict):
        raise ProviderUnavailableError(f"{what} is not a JSON object", hint=HINT)
    return value


class _BoundedTransport(httpx.AsyncBaseTransport):
    """Refuses long answers, and compressed ones, which could be long."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "identity"
        response = await self._transport.handle_async_request(request)
        content = bytearray()
        try:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise httpx.DecodingError("the answer is compressed", request=request)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            async for chunk in response.stream:
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise httpx.DecodingError("the answer is too long", request=request)
        finally:
            await response.aclose()
        return httpx.Response(response.status_code, headers=_plain(response.headers), content=bytes(content))

    async def aclose(self) -> None:
        await self._transport.aclose()


def _plain(headers: httpx.Headers) -> httpx.Headers:
    """Return the headers without those of the transfer, which is over."""
    return httpx.Headers(
        [(name, value) for name, value in headers.multi_items() if name.lower() not in {"transfer-encoding", "content-length"}]
    )
