"""A login by OpenID Connect in Chromium: at a real provider, to a terminal, until a logout at the provider."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from playwright.sync_api import expect

from slurm.lab import network
from slurm.lab.spec import LOGIN
from tests.chromium import DEADLINE_MS
from tests.lab.browser import PORTAL
from tests.lab.services import restart
from tests.lab_cluster import wait_for
from tests.openid.openid_provider import CLIENT, SECRET, OpenIdProvider
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.lab.conftest import User
    from tests.site.deploy import Site

PORT = 9400
ISSUER = f"http://127.0.0.1:{PORT}"
CONFIG, SECRET_FILE, ACCOUNTS_FILE = (f"/etc/berth/{name}" for name in ("config.yaml", "oidc_secret", "oidc_accounts"))


def _write(site: Site, path: str, text: str, *, owner: str = "root") -> None:
    site.run(f"sh -c 'install -m 600 -o {owner} /dev/stdin {path}'", user="root", stdin=text.encode())


def _configure(site: Site, text: str) -> None:
    site.run(f"sh -c 'cat >{CONFIG}'", user="root", stdin=text.encode())
    for service in ("web", "broker"):
        site.kill(service)
    restart(site)


@pytest.fixture(scope="module")
def provider(site: Site) -> Iterator[OpenIdProvider]:
    """A provider on the login node, of which the site is a client, until the end of the module."""
    _write(site, SECRET_FILE, f"{SECRET}\n", owner=deploy.SERVICE_ACCOUNT)
    lines = f"alice {ISSUER} sub-alice\nberth-web {ISSUER} sub-system\n"
    _write(site, ACCOUNTS_FILE, lines, owner=deploy.SERVICE_ACCOUNT)
    before = site.lab.sh(f"cat {CONFIG}")
    changed = yaml.safe_load(before)
    changed["web"]["oidc"] = {
        "issuer": ISSUER,
        "client_id": CLIENT,
        "client_secret_file": SECRET_FILE,
        "name": "Example University",
        "accounts_file": ACCOUNTS_FILE,
    }
    made = OpenIdProvider(PORT, f"{PORTAL}/login/oidc/callback", ISSUER, logout=f"{PORTAL}/login/oidc/logout")
    namespace = network.NAMESPACES / site.lab.place.netns(LOGIN)
    _configure(site, yaml.safe_dump(changed))
    with made.running(["nsenter", f"--net={namespace}", "--"]):
        yield made
    _configure(site, before)


def log_in(page: Page, user: str) -> None:
    """Log in at the provider, from the portal's login page."""
    page.get_by_role("link", name="Log in with Example University").click()
    page.get_by_label("User").fill(user)
    page.get_by_role("button", name="Sign in").click()


def logins(user: User) -> dict[str, str]:
    """Return the addresses of the user's logged-in browsers, by the ids of the logins."""
    return {each["id"]: each["address"] for each in json.loads(user.ok("browsers", "--json"))["browsers"]}


def test_login_opens_a_terminal_and_a_logout_at_the_provider_closes_it(
    alice: User, name: str, context: BrowserContext, provider: OpenIdProvider
) -> None:
    alice.ok("start", name, "--profile", "base")
    others = logins(alice)
    page = context.new_page()
    page.goto(f"{PORTAL}/sessions/{name}")
    log_in(page, "sub-alice")
    page.wait_for_url(f"{PORTAL}/sessions/{name}")
    terminal = context.new_page()
    terminal.goto(f"http://terminal--{name}--alice.{deploy.WEB_HOST.partition('.')[2]}:{deploy.WEB_PORT}/")
    terminal.locator(".xterm-helper-textarea").wait_for(state="attached")
    (login,) = logins(alice).items() - others.items()
    assert login[1]

    with terminal.expect_websocket() as reconnected:  # ttyd connects again when its WebSocket has ended
        page.goto(f"{provider.issuer}/session/end")
        page.get_by_role("button", name="Yes, sign me out").click()
    assert reconnected.value.url.startswith("ws://terminal--")
    wait_for(lambda: logins(alice) == others, what="the logout")
    page.goto(f"{PORTAL}/sessions/{name}")
    page.wait_for_url(f"{PORTAL}/login?next=/sessions/{name}")


@pytest.mark.parametrize(
    ("subject", "message"),
    [("sub-bob", "sub-bob has no account on this site"), ("sub-system", "is a system account")],
)
def test_person_without_an_account_is_refused_also_without_scripts(
    chromium: Browser, provider: OpenIdProvider, site: Site, subject: str, message: str
) -> None:
    assert provider.issuer == ISSUER
    with chromium.new_context(java_script_enabled=False) as context:
        context.set_default_timeout(DEADLINE_MS)
        page = context.new_page()
        page.goto(f"{PORTAL}/login")
        log_in(page, subject)
        expect(page.get_by_text(message)).to_be_visible()
        cookies = {each["name"] for each in context.cookies(PORTAL)}
        assert "__Host-Http-berth-portal" not in cookies
    assert message in site.log("broker")


def test_logs_have_no_code_and_no_token(provider: OpenIdProvider, site: Site) -> None:
    assert provider.issuer == ISSUER
    for service in ("broker", "web"):
        log = site.log(service)
        for secret in ("?code=", "&code=", "?state=", "&state=", "eyJ", SECRET):
            assert secret not in log, (service, secret)
