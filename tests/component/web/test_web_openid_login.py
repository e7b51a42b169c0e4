"""A login at a real OpenID provider in Chromium, through HAProxy, berth-web and the API, and its logout."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import BrowserContext, expect

from broker.origins import Origins
from broker.web.portal.provider_routes import COOKIE
from broker.web.process import serve_web
from tests.chromium import DEADLINE_MS, chromium_program, running_chromium
from tests.component.controller.api.api_server import serving
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.openssh import free_port
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.web_settings import loopback_settings
from tests.openid.openid_provider import CLIENT, SECRET, OpenIdProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ME = pwd.getpwuid(os.getuid()).pw_name
NAME = "Example University"


@asynccontextmanager
async def _site(issuer: str, url: str) -> AsyncIterator[None]:
    """Serve the API of a controller with this provider, and berth-web; the account of the tests is the user."""
    with tempfile.TemporaryDirectory(prefix="bw", dir="/tmp") as name:
        place = Path(name)
        (place / "run").mkdir()
        (place / "secret").write_text(SECRET)
        (place / "accounts").write_text(f"{ME} {issuer} sub-me\n")
        oidc = {
            "issuer": issuer,
            "client_id": CLIENT,
            "client_secret_file": place / "secret",
            "accounts_file": place / "accounts",
        }
        web = {"url": url, "account": ME, "minimum_uid": 0, "runtime_dir": place / "run", "oidc": oidc}
        gateway = {"host": "login.example", "account": "somebody-else"}
        config = site_config(place / "site", web=web, gateway=gateway)
        (place / "site").mkdir()
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        async with serving(core) as api_socket:
            settings = loopback_settings(url, api_socket=api_socket, directory=place / "run", provider=NAME)
            async with serve_web(settings):
                yield
        core.registry.close()


def _play(scene: Callable[[BrowserContext, str, OpenIdProvider], None], *, scripts: bool = True) -> None:
    """Play a scene in a browser, which begins without a login; it gets the address of the portal."""
    url = f"http://apps.localhost:{free_port()}"
    portal, port = Origins.parse(url).portal_url, free_port()
    provider = OpenIdProvider(
        port,
        f"{portal}/login/oidc/callback",
        f"http://127.0.0.1:{port}",
        logout=f"{portal}/login/oidc/logout",
    )

    def browse() -> None:
        with (
            running_chromium(chromium_program()) as chromium,
            chromium.new_context(java_script_enabled=scripts) as context,
        ):
            context.set_default_timeout(DEADLINE_MS)
            scene(context, portal, provider)

    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), _site(provider.issuer, url):
            await asyncio.to_thread(browse)

    with provider.running():
        asyncio.run(whole())


def test_login_leads_to_the_page_and_a_logout_at_the_provider_ends_it() -> None:
    def scene(context: BrowserContext, portal: str, provider: OpenIdProvider) -> None:
        page = context.new_page()
        page.goto(f"{portal}/browsers")
        page.get_by_role("link", name=f"Log in with {NAME}").click()
        page.get_by_label("User").fill("sub-me")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{portal}/browsers")
        expect(page.get_by_role("button", name="Log out the browser")).to_have_count(1)
        expect(page.get_by_role("heading", name="(this browser)")).to_have_count(1)
        expect(page.get_by_text("OpenID Connect")).to_be_visible()
        cookies = {each["name"]: each for each in context.cookies(portal)}
        assert set(cookies) == {"__Host-Http-berth-portal"}

        page.goto(f"{provider.issuer}/session/end")
        page.get_by_role("button", name="Yes, sign me out").click()
        expect(page.get_by_text("Sign-out Success")).to_be_visible()  # it waits for the answers of all clients
        page.goto(f"{portal}/browsers")
        page.wait_for_url(f"{portal}/login?next=/browsers")

    _play(scene)


def test_person_without_an_account_reads_why_without_scripts() -> None:
    def scene(context: BrowserContext, portal: str, _: OpenIdProvider) -> None:
        page = context.new_page()
        page.goto(f"{portal}/login")
        page.get_by_role("link", name=f"Log in with {NAME}").click()
        page.get_by_label("User").fill("sub-stranger")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("sub-stranger has no account on this site")).to_be_visible()
        assert "__Host-Http-berth-portal" not in {each["name"] for each in context.cookies(portal)}

    _play(scene, scripts=False)


def test_answer_in_another_browser_logs_nobody_in() -> None:
    """Login CSRF: the attacker keeps the provider's answer from being used, and leads a victim to it."""

    def scene(context: BrowserContext, portal: str, _: OpenIdProvider) -> None:
        attacker = context.new_page()
        attacker.goto(f"{portal}/login")
        attacker.get_by_role("link", name=f"Log in with {NAME}").click()
        attacker.get_by_label("User").fill("sub-me")
        context.clear_cookies(name=COOKIE)
        attacker.get_by_role("button", name="Sign in").click()
        expect(attacker.get_by_text("this browser has begun no login")).to_be_visible()
        assert context.browser is not None
        with context.browser.new_context() as other:
            victim = other.new_page()
            victim.goto(f"{portal}/login")
            victim.get_by_role("link", name=f"Log in with {NAME}").click()
            victim.goto(attacker.url)
            expect(victim.get_by_text("has begun this login")).to_be_visible()
            assert "__Host-Http-berth-portal" not in {each["name"] for each in other.cookies(portal)}

    _play(scene)
