"""Every way to a session, for every state of a grant of one of its services: that service opens, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from broker.controller import accounts as accounts_module
from broker.controller.api.route_access import DELEGATED
from broker.controller.cluster import groups as groups_module
from broker.schema.web import DELEGATION_HEADER, DelegationAnswer, LinkRequest
from tests.component.controller.api.api_server import calling, refusal, serving
from tests.component.controller.api.test_api_sharing import STATES, add_session, ready_core, routes_of_sessions, send
from tests.fakes.core import publish

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.fakes.core import Core

UIDS = {"alice": 4001, "bob": 4002, "carol": 4003}
WEB = "berth-web"
LEAVE = ("delete", "/v1/shared/{name}")
SERVICES = (
    "services:\n"
    "  - {name: board, command: exec board}\n"
    "  - {name: notes, command: exec notes}\n"
    "  - {name: terminal, command: exec ttyd, shell: true}\n"
)


@pytest.fixture(autouse=True)
def caller(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The user that this process is for the controller. bob is in the group devs."""
    who = {"name": "bob"}
    known = {uid: name for name, uid in UIDS.items()}
    monkeypatch.setattr(accounts_module, "_name_of", lambda uid: known.get(uid) or who["name"])
    monkeypatch.setattr(accounts_module, "FRESH_S", 0.0)
    monkeypatch.setattr(accounts_module, "GRACE_S", 0.0)
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset({"devs"} if user == "bob" else ()))
    monkeypatch.setattr(groups_module, "_has_account", lambda _: True)
    monkeypatch.setattr(groups_module, "_has_account", lambda _: True)
    return who


async def site(directory: Path, state: str) -> tuple[Core, str]:
    """A site with web access, and alice's session whose board is shared in this state. Also the session's id."""
    web = {"url": "https://apps.example.org", "account": WEB, "runtime_dir": directory / "web", "minimum_uid": 0}
    core = ready_core(
        directory, web=web | {"source_addresses": ["192.0.2.1/32"]}, sharing={"roles": ["operate", "port"]}
    )
    publish(core.stores.stores[0], version="2", extra=SERVICES)
    return core, await add_session(core, STATES[state][0], version="2", role="port", service="board")


async def log_in(core: Core, client: httpx.AsyncClient, user: str) -> dict[str, str]:
    """The header of a browser of this user."""
    assert core.web is not None
    link = await core.web.browsers.make_link(user, UIDS[user], LinkRequest())
    response = await client.post("/v1/web/delegations", json={"proof": link.url.partition("#")[2]})
    return {DELEGATION_HEADER: DelegationAnswer.model_validate_json(response.content).secret}


@pytest.mark.parametrize("state", STATES)
def test_no_route_but_leaving_is_open_to_the_guest_of_a_service(directory: Path, state: str) -> None:
    counts = STATES[state][1]

    async def scenario() -> None:
        core, session_id = await site(directory, state)
        async with serving(core) as path, calling(path) as client:
            for method, template in routes_of_sessions(core, {LEAVE}):
                answer = await send(client, method, template, "alice.dev")
                missing = await send(client, method, template, "alice.nowhere")
                assert missing.status_code == 404, (method, template, missing.text)
                if not counts:
                    assert answer.status_code == 404, (method, template, answer.text)
                    assert answer.text.replace("dev", "NAME") == missing.text.replace("nowhere", "NAME")
                elif (method, template) == LEAVE:
                    assert answer.status_code == (409 if state == "by group" else 200), answer.text
                else:
                    assert answer.status_code == 403, (method, template, answer.text)
                    assert "your role there is port of board" in answer.text
            shared = await client.get("/v1/shared")
            assert shared.json()["sessions"] == []
        row = core.registry.get(session_id)
        assert row is not None
        assert {event.actor for event in core.registry.events_of("alice")} <= {"alice", "bob"}
        assert core.registry.sessions_of("bob") == []

    asyncio.run(scenario())


@pytest.mark.parametrize("state", STATES)
def test_browser_of_a_guest_reaches_the_service_and_no_route_of_the_session(
    directory: Path, caller: dict[str, str], state: str
) -> None:
    counts = STATES[state][1]
    caller["name"] = WEB

    async def scenario() -> None:
        core, session_id = await site(directory, state)
        async with serving(core) as path, calling(path) as client:
            bob = await log_in(core, client, "bob")
            for method, template in sorted(DELEGATED):
                if "{name}" in template:
                    path_of = template.replace("{name}", "alice.dev")
                    answer = await client.request(method, path_of, json={} if method == "POST" else None, headers=bob)
                    assert answer.status_code == 403, (method, template, answer.text)
                    assert "session of another user" in refusal(answer).message
                elif method == "GET":
                    answer = await client.get(template, headers=bob)
                    named = template == "/v1/shared/services" and counts
                    assert ("alice.dev" in answer.text, session_id in answer.text) == (named, False), template
            listed = (await client.get("/v1/shared/services", headers=bob)).json()["services"]
            assert [(each["session"], each["service"]) for each in listed] == [("alice.dev", "board")] * counts

    asyncio.run(scenario())


@pytest.mark.parametrize("state", STATES)
def test_visits_are_the_owners_and_those_that_are_granted(directory: Path, caller: dict[str, str], state: str) -> None:
    """Every user at every service, by the session's name and by the host of the origin."""
    counts = STATES[state][1]
    caller["name"] = WEB

    async def scenario() -> None:
        core, _ = await site(directory, state)
        opened = set()
        async with serving(core) as path, calling(path) as client:
            browsers = {user: await log_in(core, client, user) for user in UIDS}
            for user, service in itertools.product(UIDS, ("board", "notes", "terminal", "none")):
                for request in (
                    {"target": {"session": "alice.dev", "service": service}},
                    {"host": f"{service}--dev--alice.apps.example.org"},
                ):
                    answer = await client.post("/v1/web/visits", json=request, headers=browsers[user])
                    granted = user == "alice" or (counts and (user, service) == ("bob", "board"))
                    granted |= state == "revoked" and (user, service) == ("carol", "board")
                    assert answer.status_code == 201 if granted else answer.status_code in {403, 404}, answer.text
                    opened |= {(user, service)} if answer.status_code == 201 else set()
            for wrong in ("Alice.dev", "alice.", "alice/dev", "a" * 80):
                target = {"target": {"session": wrong, "service": "board"}}
                assert (await client.post("/v1/web/visits", json=target, headers=browsers["bob"])).status_code == 422
        assert {("alice", "board"), ("alice", "terminal")} <= opened

    asyncio.run(scenario())


@pytest.mark.parametrize("service", ["Board", "a--b", "", "b" * 40, "../x"])
def test_wrong_name_of_a_service_is_refused(directory: Path, caller: dict[str, str], service: str) -> None:
    caller["name"] = "alice"

    async def scenario() -> None:
        core, _ = await site(directory, "none")
        async with serving(core) as path, calling(path) as client:
            body = {"role": "port", "service": service}
            assert (await client.put("/v1/sessions/dev/grants/bob", json=body)).status_code == 422
            for call in ("/v1/sessions/dev/grants/bob", "/v1/shared/bob.dev"):
                assert (await client.delete(call, params={"service": service})).status_code == 422
        assert core.row().grants == []

    asyncio.run(scenario())
