"""HTTP requests to the provider: short, bounded, and to the addresses that the site has chosen."""

from __future__ import annotations

import asyncio
import json
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx

from broker.config.oidc_settings import check_provider_url
from broker.errors import ProviderUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping
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
                raise ValueError("is missing")
            check_provider_url(url, loopback=self._loopback)
        except ValueError as error:
            raise ProviderUnavailableError(
                f"the provider's configuration has a faulty {what}: it {error}", hint=HINT
            ) from error
        return url

    async def get_json(self, url: str) -> dict[str, Any]:
        """Return the JSON object at an address. ProviderUnavailableError if there is none."""
        status, content = await self._send("GET", url)
        if status != HTTPStatus.OK:
            raise ProviderUnavailableError(f"the provider answers {url} with the status {status}", hint=HINT)
        return parse_object(content, url)

    async def post_form(self, url: str, headers: Mapping[str, str], body: str) -> tuple[int, dict[str, Any]]:
        """Send a form, and return the status and the JSON object of the answer."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        status, content = await self._send("POST", url, headers=form | dict(headers), content=body)
        return status, parse_object(content, "the provider's answer to a code")

    async def _send(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: str | None = None
    ) -> tuple[int, bytes]:
        """Return the status and the body of the answer. ProviderUnavailableError if it is too long, late or packed."""
        usual = {"Accept": "application/json", "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpx.AsyncClient(
                    verify=self._tls_context(), trust_env=False, follow_redirects=False, timeout=self._timeout_s
                ) as client,
                client.stream(method, url, headers=usual | dict(headers or {}), content=content) as response,
            ):
                return response.status_code, await _read(response)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ProviderUnavailableError(
                f"the provider has not answered within {self._timeout_s:g} s", hint=f"try again; {OPERATORS}"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise ProviderUnavailableError("the provider does not answer", hint=f"try again; {OPERATORS}") from error

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


async def _read(response: httpx.Response) -> bytes:
    """Return the body. ProviderUnavailableError if it is long, or compressed, and could be long."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ProviderUnavailableError("the provider's answer is compressed", hint=HINT)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ProviderUnavailableError(f"the provider's answer has more than {MAX_ANSWER_BYTES} bytes", hint=HINT)
    return bytes(body)
