"""A browser without scripts at the lab's login node: curl, with cookies that a test can copy, keep and steal."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urljoin, urlsplit

from tests.deadlines import DEADLINE_S
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

PORTAL = f"http://{deploy.WEB_HOST}:{deploy.WEB_PORT}"
GRANT = "__Host-Http-berth"
NAVIGATION = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
OWN_PAGE = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
ACCOUNT = "nobody"
"""The account that the browser runs as: what it may do depends on its cookies alone."""
MAX_REDIRECTS = 8


def origin(service: str, session: str, owner: str) -> str:
    return f"http://{service}--{session}--{owner}.berth.localhost:{deploy.WEB_PORT}"


@dataclass(frozen=True)
class Reply:
    """An answer; status 0 if there was none."""

    status: int
    headers: list[tuple[str, str]]
    body: str
    url: str

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


@dataclass
class WebBrowser:
    """Cookies by origin."""

    lab: Lab
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)

    def log_in(self, user: User, *command: str) -> None:
        """Follow a link of the user's, as with a click on `Log in`."""
        found = re.search(rf"{re.escape(PORTAL)}/login#(\S+)", user.ok(*(command or ("portal",)), "--print"))
        assert found
        form = urlencode({"proof": found[1], "next": "/"})
        headers = {"Origin": PORTAL, "Content-Type": "application/x-www-form-urlencoded"}
        reply = self.ask(f"{PORTAL}/login", OWN_PAGE | headers, method="POST", body=form)
        assert reply.status == 303, reply

    def ask(self, url: str, headers: Mapping[str, str], *, method: str = "GET", body: str = "") -> Reply:
        """Send one request, with this browser's cookies for the origin."""
        parts = urlsplit(url)
        jar = self.cookies.setdefault(f"{parts.scheme}://{parts.netloc}", {})
        words = [f"{name}: {value}" for name, value in headers.items()]
        if jar:
            words.append(f"Cookie: {'; '.join(f'{name}={value}' for name, value in jar.items())}")
        options = [part for word in words for part in ("-H", word)]
        options += ["--data-binary", body] if body else []
        argv = ["curl", "-s", "-i", "-m", "20", "--connect-to", "::127.0.0.1:", "-X", method, *options, url]
        said = self.lab.run(argv, user=ACCOUNT).stdout.decode(errors="replace")
        head, _, content = said.partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        for cookie in [value for name, value in pairs if name == "set-cookie"]:
            name, _, value = cookie.partition(";")[0].partition("=")
            jar[name] = value.strip('"')
        return Reply(int(first.split()[1]) if first else 0, pairs, content, url)

    def page(self, url: str) -> Reply:
        """Navigate to an address, through all redirects, and reload a page that shows how a service starts."""
        for _ in range(MAX_REDIRECTS):
            reply = self.ask(url, NAVIGATION)
            if reply.status not in {302, 303, 307}:
                return reply
            url = urljoin(url, reply.header("location"))
        raise AssertionError(url)

    def opens(self, url: str) -> Reply:
        """Navigate until the service has answered, or something has refused."""
        last = self.page(url)

        def settled() -> bool:
            nonlocal last
            if last.status not in {202, 503}:
                return True
            last = self.page(url)
            return False

        wait_for(settled, what=f"{url} to open", seconds=2 * DEADLINE_S)
        return last

    def fetch(self, url: str) -> Reply:
        """A request of the origin's own page."""
        return self.ask(url, OWN_PAGE)

    def grant(self, url: str) -> str:
        """The cookie's value for the service at an origin; empty without one."""
        return self.cookies.get(url, {}).get(GRANT, "")

    def secrets(self) -> set[str]:
        return {value for jar in self.cookies.values() for value in jar.values() if value}
