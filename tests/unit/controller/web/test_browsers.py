"""Logins of browsers: they act for one user until they expire or are logged out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.controller.web.browsers import USE_INTERVAL_S
from broker.controller.web.secret import hash_secret
from broker.errors import LoggedOutError, NotFoundError, RefusedError, TooManyError
from broker.names import MAX_ITEMS, new_id
from broker.schema.web import DelegationRequest, LinkRequest, Target
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.berth_web import FakeBerthWeb
from tests.fakes.core import Core
from tests.unit.controller.web.browser_of import UID, browser_of, log_in, visit, web_of

if TYPE_CHECKING:
    from tests.fakes.core import Clock


def test_link_leads_to_the_portal_and_its_target(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.start(user="alice")
        browsers = web_of(web_core).browsers
        target = Target(session="dev", service="jupyter")
        with pytest.raises(NotFoundError, match="no session named dev"):
            await browsers.make_link("bob", UID, LinkRequest(target=target))
        link = await browsers.make_link("alice", UID, LinkRequest(target=target))
        page, _, secret = link.url.partition("#")
        assert page == link.login_url == "https://portal.apps.example.org/login"
        answer = await browsers.log_in(DelegationRequest(proof=secret, browser="Firefox", address="192.0.2.1"))
        assert (answer.user, answer.target) == ("alice", target)
        assert answer.secret not in str((await web_core.async_registry.delegations_of("alice", 0))[0])
        with pytest.raises(RefusedError):
            await browsers.log_in(DelegationRequest(proof=secret))
        (view,) = await browsers.views("alice")
        assert (view.id, view.browser, view.address) == (answer.id, "Firefox", "192.0.2.1")
        assert await browsers.views("bob") == []
        await log_in(web_core)
        of_request = await browsers.authenticate(answer.secret)
        assert {each.id for each in await browsers.views("alice", of_request) if each.current} == {answer.id}

    asyncio.run(scenario())


def test_login_expires(web_core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        browsers = web_of(web_core).browsers
        login = await log_in(web_core)
        assert login.expires_at == clock.now + 12 * 3600
        clock.now = login.expires_at - 1
        assert (await browsers.authenticate(login.secret)).user == "alice"
        clock.now += 1
        with pytest.raises(LoggedOutError):
            await browsers.authenticate(login.secret)
        assert await browsers.views("alice") == []

    asyncio.run(scenario())


def test_use_is_recorded_once_a_minute(web_core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        browsers = web_of(web_core).browsers
        login, began = await log_in(web_core), clock.now
        for passed, recorded in ((USE_INTERVAL_S, 0.0), (USE_INTERVAL_S + 1, USE_INTERVAL_S + 1)):
            clock.now = began + passed
            await browsers.authenticate(login.secret)
            assert (await browsers.views("alice"))[0].used_at == began + recorded

    asyncio.run(scenario())


def test_logout_ends_delegation_and_visits_before_it_closes(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.start()
        web, fake = web_of(web_core), FakeBerthWeb()
        async with asyncio.timeout(TEST_DEADLINE_S), fake.listening(web_core.config.web_control_socket):
            opened, other = await visit(web_core), await visit(web_core)
            with pytest.raises(NotFoundError, match=r"no logged-in browser"):
                await web.browsers.log_out("bob", opened.delegation_id)
            answer = await web.browsers.log_out("alice", opened.delegation_id)
            assert (answer.closed, [each.id for each in answer.ended]) == (True, [opened.delegation_id])
            assert fake.closed[-1].delegation_ids == [opened.delegation_id]
            with pytest.raises(NotFoundError):
                await web.visits.require(opened.secret)
            assert (await web.visits.require(other.secret))[0].id == other.id
            fake.status = 500
            assert not (await web.browsers.log_out_all("alice")).closed
        assert (await web.browsers.log_out_all("alice")).ended == []
        assert not (await web.browsers.log_out("alice", (await browser_of(web_core)).id)).closed  # berth-web is away
        assert await web.browsers.views("alice") == []

    asyncio.run(scenario())


def test_number_of_browsers_is_limited(web_core: Core) -> None:
    async def scenario() -> None:
        first = await browser_of(web_core)
        for number in range(MAX_ITEMS - 1):
            changed = {"id": new_id(), "secret_hash": hash_secret(str(number))}
            copy = type(first)(**(first.model_dump() | changed))
            web_core.registry.add_delegation(copy, MAX_ITEMS)
        with pytest.raises(TooManyError, match="limit of logged-in browsers"):
            await log_in(web_core)
        assert (await log_in(web_core, "bob")).user == "bob"

    asyncio.run(scenario())


def test_no_browser_acts_for_a_system_account(web_core: Core) -> None:
    async def scenario() -> None:
        browsers = web_of(web_core).browsers
        for uid in (0, 999):
            with pytest.raises(RefusedError, match="alice is a system account"):
                await browsers.make_link("alice", uid, LinkRequest())
        link = await browsers.make_link("alice", 1000, LinkRequest())
        login = await browsers.log_in(DelegationRequest(proof=link.code))
        assert (await browsers.authenticate(login.secret)).uid == 1000
        settings = web_core.config.web.model_copy(update={"minimum_uid": 1001})
        restarted = Core.make(web_core.config.model_copy(update={"web": settings}), web_core.launcher)
        with pytest.raises(RefusedError, match="alice is a system account"):
            await web_of(restarted).browsers.authenticate(login.secret)

    asyncio.run(scenario())


def test_wait_for_the_end_of_a_login_that_has_ended_is_over_at_once(web_core: Core) -> None:
    async def scenario() -> None:
        browsers, browser = web_of(web_core).browsers, await browser_of(web_core)
        await browsers.log_out_all("alice")
        async with asyncio.timeout(DEADLINE_S):
            await browsers.wait_ended(browser, asyncio.Event())

    asyncio.run(scenario())
