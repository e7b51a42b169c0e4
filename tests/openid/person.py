"""A person with a browser at the provider of the tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx

from tests.deadlines import DEADLINE_S
from tests.openid.relay import TLS_NEVER_USED

if TYPE_CHECKING:
    from types import TracebackType


class Person:
    """Follows the provider's redirects, and fills its forms. An async context manager."""

    def __init__(self, user: str) -> None:
        self.user = user
        transport = httpx.AsyncHTTPTransport(verify=TLS_NEVER_USED)
        self._client = httpx.AsyncClient(transport=transport, trust_env=False, timeout=DEADLINE_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def log_in(self, url: str, redirect: str, *, cancel: bool = False) -> dict[str, str]:
        """Log in at the address, or cancel, and return the parameters with which the provider leads back."""
        form = {"cancel": "1"} if cancel else {"user": self.user}
        response = await self._client.get(url)
        for _ in range(10):
            if response.is_redirect:
                url = urljoin(str(response.url), response.headers["location"])
                if url.startswith(redirect):
                    return dict(parse_qsl(urlsplit(url).query))
                response = await self._client.get(url)
            else:
                assert response.status_code == 200, response.text
                response = await self._client.post(str(response.url), data=form)
        raise AssertionError(response.text)

    async def log_out(self, issuer: str) -> None:
        """End the session at the provider."""
        page = await self._client.get(f"{issuer}/session/end")
        found = re.search(r'name="xsrf" value="(\w+)"', page.text)
        assert found, page.text
        done = await self._client.post(f"{issuer}/session/end/confirm", data={"xsrf": found[1], "logout": "yes"})
        assert done.status_code in {200, 303}, done.text
