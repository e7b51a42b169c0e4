"""Visits: one browser, one service, for the session's owner alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import ConflictError, LoggedOutError, NotFoundError, TooManyError
from broker.names import new_id
from broker.origins import service_label
from broker.schema.sessions import StartRequest
from broker.schema.web import Target, VisitCheck, VisitRequest
from profiles.image.store import Store
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.berth_web import FakeBerthWeb
from tests.fakes.core import publish
from tests.unit.controller.web.browser_of import JUPYTER, browser_of, visit, web_of

if TYPE_CHECKING:
    from tests.fakes.core import Clock, Core

SERVICES = "services:\n  - {name: notebook, command: exec notebook}\n"


def test_owner_visits_by_name_and_by_host(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.start()
        web, browser = web_of(web_core), await browser_of(web_core)
        answer = await web.visits.begin(browser, JUPYTER)
        assert answer.host == "jupyter--dev--alice.apps.example.org"
        assert (answer.owner, answer.session, answer.service) == ("alice", "dev", "jupyter")
        assert (answer.delegation_id, answer.expires_at) == (browser.id, browser.expires_at)
        again = await web.visits.begin(browser, VisitRequest(host=answer.host))
        assert (again.session_id, again.service, again.host) == (answer.session_id, "jupyter", answer.host)
        valid = await web.visits.check(VisitCheck(visit_ids=[again.id, answer.id, new_id()]))
        assert valid.visit_ids == [again.id]

    asyncio.run(scenario())


def test_visited_services_are_listed_after_those_of_the_profile(web_core: Core) -> None:
    async def scenario() -> None:
        publish(web_core.stores.stores[0], version="2", extra=SERVICES)
        await web_core.start(request=StartRequest(profile="base", version="2"))
        await web_core.start("other")
        browser = await browser_of(web_core)
        for session, service in (("dev", "port-8000"), ("dev", "notebook"), ("other", "port-1"), ("dev", "port-8000")):
            request = VisitRequest(target=Target(session=session, service=service))
            await web_of(web_core).visits.begin(browser, request)
        found = (await web_core.offers.services("alice", "dev")).services
        assert [each.name for each in found] == ["notebook", "port-8000"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "host",
    [
        "jupyter--dev--alice.apps.example.org",
        "jupyter--none--alice.apps.example.org",
        "portal.apps.example.org",
        "jupyter--dev--alice.other.example.org",
        "jupyter--dev--alice--x.apps.example.org",
        "a.jupyter--dev--alice.apps.example.org",
        "jupyter--dev--.apps.example.org",
        "--dev--alice.apps.example.org",
        "s-0000000000000000000000000000000000000000.apps.example.org",
        "apps.example.org",
    ],
)
def test_other_users_learn_nothing_from_a_host(web_core: Core, host: str) -> None:
    async def scenario() -> None:
        await web_core.start(user="alice")
        with pytest.raises(NotFoundError) as refusal:
            await visit(web_core, VisitRequest(host=host), user="bob")
        assert refusal.value.message == f"you may open no service at {host}"
        with pytest.raises(NotFoundError, match="you have no session named dev"):
            await visit(web_core, JUPYTER, user="bob")

    asyncio.run(scenario())


def test_readable_label_of_a_hashed_triple_is_refused(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.start("dev-", user="alice")
        with pytest.raises(NotFoundError):
            await visit(web_core, VisitRequest(host="jupyter--dev---alice.apps.example.org"))

    asyncio.run(scenario())


def test_hashed_host_is_found_by_the_profile_and_by_former_visits(web_core: Core) -> None:
    async def scenario() -> None:
        publish(Store(web_core.config.profiles.stores[0]), version="2", extra=SERVICES)
        view = await web_core.start("dev-", user="alice")
        assert view.version == "2"
        for service, known in (("notebook", True), ("mine", False)):
            host = f"{service_label(service, 'dev-', view.id, 'alice')}.apps.example.org"
            assert host.startswith("s-")
            if not known:
                with pytest.raises(NotFoundError):
                    await visit(web_core, VisitRequest(host=host))
                await visit(web_core, VisitRequest(target=Target(session="dev-", service=service)))
            found = await visit(web_core, VisitRequest(host=host))
            assert (found.session, found.service, found.host) == ("dev-", service, host)
            with pytest.raises(NotFoundError):
                await visit(web_core, VisitRequest(host=host), user="bob")

    asyncio.run(scenario())


def test_stopped_session_has_no_visits_and_a_waiting_one_has(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.start("waiting")
        await visit(web_core, VisitRequest(target=Target(session="waiting", service="jupyter")))
        await web_core.stopped()
        with pytest.raises(ConflictError, match="dev is stopped") as refusal:
            await visit(web_core)
        assert refusal.value.hint == "`berth start dev` starts it"

    asyncio.run(scenario())


def test_visit_needs_a_delegation_that_lasts(web_core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        await web_core.start()
        web, browser = web_of(web_core), await browser_of(web_core)
        opened = await web.visits.begin(browser, JUPYTER)
        await web.browsers.log_out("alice", browser.id)
        with pytest.raises(LoggedOutError):
            await web.visits.begin(browser, JUPYTER)
        assert (await web.visits.check(VisitCheck(visit_ids=[opened.id]))).visit_ids == []
        last = await visit(web_core)
        clock.now = last.expires_at
        with pytest.raises(NotFoundError, match="ended"):
            await web.visits.require(last.secret)
        assert (await web.visits.check(VisitCheck(visit_ids=[last.id]))).visit_ids == []
        await web.sweep.sweep()
        assert web_core.registry.visited_sessions() == []

    asyncio.run(scenario())


def test_new_visit_replaces_the_browsers_earlier_one(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.start()
        visits, fake = web_of(web_core).visits, FakeBerthWeb()
        browser, other_browser = await browser_of(web_core), await browser_of(web_core)
        async with asyncio.timeout(TEST_DEADLINE_S), fake.listening(web_core.config.web_control_socket):
            first = await visits.begin(browser, JUPYTER)
            kept = [
                await visits.begin(other_browser, JUPYTER),
                await visits.begin(browser, VisitRequest(target=Target(session="dev", service="terminal"))),
            ]
            assert fake.closed == []
            second = await visits.begin(browser, JUPYTER)
            assert [each.visit_ids for each in fake.closed] == [[first.id]]
        with pytest.raises(NotFoundError, match="ended"):
            await visits.require(first.secret)
        ids = {second.id, *(each.id for each in kept)}
        assert set((await visits.check(VisitCheck(visit_ids=[first.id, *ids]))).visit_ids) == ids
        third = await visits.begin(browser, JUPYTER)  # berth-web is away
        assert (await visits.require(third.secret))[0].id == third.id

    asyncio.run(scenario())


def test_number_of_visits_of_one_user_is_limited(web_core: Core, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.controller.web.visits.MAX_USER_VISITS", 2)
    notebook = VisitRequest(target=Target(session="dev", service="notebook"))

    async def scenario() -> None:
        await web_core.start()
        await web_core.start(user="bob")
        browser, visits = await browser_of(web_core), web_of(web_core).visits
        last = [await visits.begin(browser, JUPYTER), await visit(web_core)]
        for another in (browser, await browser_of(web_core)):
            with pytest.raises(TooManyError, match=r"limit of opened services reached \(2\)"):
                await visits.begin(another, notebook)
        last[0] = await visits.begin(browser, JUPYTER)  # in place of the first
        await visit(web_core, user="bob")
        assert (await visits.check(VisitCheck(visit_ids=[each.id for each in last]))).visit_ids == sorted(
            each.id for each in last
        )
        clock.now = last[1].expires_at
        await visit(web_core, notebook)

    asyncio.run(scenario())
