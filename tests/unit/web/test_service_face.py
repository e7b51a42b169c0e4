"""The origins of services lead browsers to the portal, and in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from broker.origins import Origins
from broker.web.entrances import Entrances
from broker.web.portal.service_pages import PortalServicePages
from broker.web.service_connections import ServiceConnection
from broker.web.service_face import ServiceFace
from tests.unit.web.test_service_pages import VISIT

if TYPE_CHECKING:
    from broker.web.access import BrowserAccess

ORIGINS = Origins.parse("https://apps.example.org")
SERVICE = "https://jupyter--dev--alice.apps.example.org"
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
ENTRY = "e" * 43


class OpenAccess:
    """Every key is that of a grant, if it is not empty; every service is ready."""

    def find_grant(self, key: str) -> str | None:
        return key or None

    async def open(self, grant: str, timeout_s: float) -> ServiceConnection:
        del grant, timeout_s
        service = ServiceConnection(VISIT)
        service.ready.set()
        return service


def _get(path: str, **headers: str) -> httpx.Response:
    sent = NAVIGATION | headers
    access = cast("BrowserAccess", OpenAccess())
    face = ServiceFace(ORIGINS, access, Entrances(), PortalServicePages(ORIGINS))

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(face), base_url=SERVICE) as client:
            return await client.get(
                f"{SERVICE}{path}", headers=[(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
            )

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("path", "leads"), [("/lab?x=%2F", "/lab?x=%2F"), ("//evil.example", "/"), ("///evil.example/x?y", "/")]
)
def test_browser_stays_at_its_origin(path: str, leads: str) -> None:
    assert _get(path, **{"X-Berth-Grant": "a"}).headers["location"] == leads
    address = urlsplit(_get(path).headers["location"])
    assert (address.netloc, parse_qs(address.query)["path"]) == ("portal.apps.example.org", [leads])


@pytest.mark.parametrize(("prefix", "is_kept"), [("", True), ("\xa0", False), ("\x85", False)])
def test_entry_that_a_sibling_has_set_does_not_count(prefix: str, is_kept: bool) -> None:
    answer = _get("/", Cookie=f"{prefix}__Host-Http-berth-entry={ENTRY}")
    assert (f"__Host-Http-berth-entry={ENTRY};" in answer.headers["set-cookie"]) == is_kept


def test_two_entries_are_refused() -> None:
    answer = _get("/", Cookie=f"__Host-Http-berth-entry={ENTRY}; __Host-Http-berth-entry={ENTRY}")
    assert answer.status_code == 422
    assert "two cookies" in answer.text
