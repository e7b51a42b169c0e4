"""berth-web acts for a logged-in browser on a list of routes; no other caller can use its routes or a delegation."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute

from broker.controller import accounts as accounts_module
from broker.controller.api.app import application
from broker.controller.api.route_access import BERTH_WEB, DELEGATED, DELEGATED_OPTIONS
from broker.schema.web import DELEGATION_HEADER, DelegationAnswer, LinkRequest, Target
from slurm.sbatch import OPTIONS, Takes
from tests.component.controller.api.api_server import ME, calling, every_call, make, refusal, services, serving
from tests.deadlines import DEADLINE_S
from tests.fakes.berth_web import FakeBerthWeb
from tests.fakes.rows import HOST_KEY

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.fakes.core import Core

ACCOUNTS = {"alice": 4001, "bob": 4002}
URL = "https://apps.example.org"
GATEWAY = {"host": "login.example", "account": "somebody-else"}
OPEN = {"/v1/health", "/openapi.json"}
NOT_DELEGATED = "a browser may not do this"
NOT_BERTH_WEB = "only berth-web may send this request"


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """The accounts that the machine has beside its own: name by uid."""
    present = {uid: name for name, uid in ACCOUNTS.items()}
    names_of = accounts_module._name_of
    monkeypatch.setattr(accounts_module, "_name_of", lambda uid: present.get(uid) or names_of(uid))
    monkeypatch.setattr(accounts_module, "FRESH_S", 0.0)
    monkeypatch.setattr(accounts_module, "GRACE_S", 0.0)
    return present


def site(directory: Path, account: str = ME, **settings: object) -> Core:
    """A site with web access, whose berth-web is the user of this test unless `account` is another one."""
    web = {"url": URL, "account": account, "runtime_dir": directory / "web", "minimum_uid": 0}
    web |= {"source_addresses": ["192.0.2.1/32"]}
    return make(directory, gateway=GATEWAY, **{"web": web} | settings)


def routes(core: Core) -> list[tuple[str, str]]:
    """Method and pattern of every route that identifies its caller."""
    known = [route for route in application(services(core)).routes if isinstance(route, APIRoute)]
    return [(method, route.path) for route in known for method in route.methods or () if route.path not in OPEN]


async def send(client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    filled = re.sub(r"\{[^}]*\}", "dev", path)
    accept = {"Accept": "application/json, text/event-stream"}
    async with client.stream(
        method, filled, json={} if method == "POST" else None, headers=accept | headers
    ) as response:
        if response.status_code >= 400:
            await response.aread()
        return response


async def secret_of(core: Core, client: httpx.AsyncClient, user: str = "alice") -> str:
    assert core.web is not None
    link = await core.web.browsers.make_link(user, ACCOUNTS[user], LinkRequest())
    response = await client.post("/v1/web/delegations", json={"proof": link.url.partition("#")[2]})
    assert response.status_code == 201, response.text
    return DelegationAnswer.model_validate_json(response.content).secret


def test_tables_name_routes_that_exist(directory: Path) -> None:
    core = site(directory)
    known = routes(core)
    assert len(known) >= len(every_call(core)) - len(OPEN)
    assert set(known) >= DELEGATED | BERTH_WEB
    assert not DELEGATED & BERTH_WEB
    opening = {path for _, path in known if re.search(r"/(keys|ca|certificates|rebuild|gc|deleted|environments)", path)}
    assert {(method, path) for method, path in DELEGATED if path in opening} == {("GET", "/v1/keys")}
    assert not {(method, path) for method, path in DELEGATED if method in {"PUT", "PATCH"}}


def test_delegation_reaches_exactly_its_routes(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        async with serving(core) as path, calling(path) as client:
            secret = await secret_of(core, client)
            for method, route in routes(core):
                response = await send(client, method, route, {DELEGATION_HEADER: secret})
                if response.is_success and method == "DELETE":  # the login has ended
                    secret = await secret_of(core, client)
                if (method, route) in DELEGATED:
                    assert response.status_code not in {401, 403}, (method, route, response.text)
                else:
                    assert (response.status_code, refusal(response).message) == (403, NOT_DELEGATED), (method, route)

    asyncio.run(scenario())


def test_berth_web_without_a_delegation_reaches_its_own_routes_only(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        async with serving(core) as path, calling(path) as client:
            for method, route in routes(core):
                response = await send(client, method, route, {})
                if (method, route) in BERTH_WEB:
                    assert response.status_code == 422, (method, route)
                else:
                    assert (response.status_code, refusal(response).message) == (403, NOT_DELEGATED), (method, route)

    asyncio.run(scenario())


@pytest.mark.parametrize("account", ["somebody", None])
def test_other_users_cannot_use_a_delegation_or_the_routes_of_berth_web(directory: Path, account: str | None) -> None:
    async def scenario() -> None:
        core = site(directory, "somebody") if account else make(directory, gateway=GATEWAY)
        async with serving(core) as path, calling(path) as client:
            for method, route in routes(core):
                for header in ({DELEGATION_HEADER: "x" * 43}, {DELEGATION_HEADER: ""}):
                    response = await send(client, method, route, header)
                    assert (response.status_code, refusal(response).message) == (403, NOT_BERTH_WEB), (method, route)
            for method, route in BERTH_WEB:
                assert refusal(await send(client, method, route, {})).message == NOT_BERTH_WEB

    asyncio.run(scenario())


def test_delegation_acts_as_its_user_until_it_ends(directory: Path) -> None:
    async def scenario() -> None:
        core, fake = site(directory), FakeBerthWeb()
        await core.ready(user="alice")
        await core.ready("other", user=ME)
        async with (
            serving(core) as path,
            calling(path) as client,
            fake.listening(core.config.web_control_socket),
        ):
            alice = {DELEGATION_HEADER: await secret_of(core, client)}
            assert [each["name"] for each in (await client.get("/v1/sessions", headers=alice)).json()["sessions"]] == [
                "dev"
            ]
            assert (await client.get("/v1/site", headers=alice)).json()["user"] == "alice"
            assert (await client.get("/v1/sessions/other", headers=alice)).status_code == 404
            for wrong in ("", "x" * 43, alice[DELEGATION_HEADER][:-1]):
                response = await client.get("/v1/sessions", headers={DELEGATION_HEADER: wrong})
                assert (response.status_code, refusal(response).reason) == (401, "logged-out")
            answer = await client.delete("/v1/web/delegation", headers=alice)
            assert answer.json()["closed"] is True
            assert (await client.get("/v1/sessions", headers=alice)).status_code == 401

    asyncio.run(scenario())


@pytest.mark.parametrize("successor", [None, "bob"])
def test_login_ends_with_its_users_account(directory: Path, accounts: dict[int, str], successor: str | None) -> None:
    async def scenario() -> None:
        core = site(directory)
        async with serving(core) as path, calling(path) as client:
            alice = {DELEGATION_HEADER: await secret_of(core, client)}
            assert (await client.get("/v1/sessions", headers=alice)).status_code == 200
            del accounts[ACCOUNTS["alice"]]
            if successor is not None:
                accounts[ACCOUNTS["alice"]] = successor
            response = await client.get("/v1/sessions", headers=alice)
            assert (response.status_code, refusal(response).reason) == (401, "logged-out")
            assert refusal(response).message == "alice no longer has an account here"

    asyncio.run(scenario())


def test_wait_of_a_browser_ends_with_its_login(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.start(user="alice")
        session = core.row(user="alice")
        async with serving(core) as path, calling(path) as client, asyncio.timeout(DEADLINE_S):
            alice = {DELEGATION_HEADER: await secret_of(core, client)}
            question = {"after": session.revision + 1000, "wait": 300}
            waiting = asyncio.create_task(
                client.get("/v1/sessions/dev", params=question, headers=alice, timeout=DEADLINE_S)
            )
            while not core.changes.is_followed(session.id, "alice"):  # noqa: ASYNC110 - another task waits
                await asyncio.sleep(0.01)
            assert (await client.delete("/v1/web/browsers", headers=alice)).json()["ended"]
            assert (await waiting).status_code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["start", "switch"])
def test_browser_changes_no_policy(directory: Path, call: str) -> None:
    async def scenario() -> None:
        core = site(directory)
        async with serving(core) as path, calling(path) as client:
            alice = {DELEGATION_HEADER: await secret_of(core, client)}
            body = {"profile": "base", "persistence": {"fresh": ["~/work"]}}
            response = await client.post(f"/v1/sessions/dev/{call}", json=body, headers=alice)
            assert "may not change what a session keeps" in refusal(response).message
        assert core.launcher.submissions() == 0

    asyncio.run(scenario())


def test_browser_sets_a_jobs_size_and_queue_and_no_other_option(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        async with serving(core) as path, calling(path) as client:
            alice = {DELEGATION_HEADER: await secret_of(core, client)}
            for option in OPTIONS.values():
                words = [f"--{option.name}"] if option.takes is Takes.NOTHING else [f"--{option.name}=1"]
                requests: list[tuple[str, dict[str, Any]]] = [
                    ("start", {"profile": "none", "options": words}),
                    ("start", {"profile": "none", "defaults": words}),
                    ("check", {"resize": {"options": words}}),
                ]
                for call, body in requests:
                    response = await client.post(f"/v1/sessions/dev/{call}", json=body, headers=alice)
                    refused = f"a browser may not set the option --{option.name}" in response.text
                    assert refused is (option.name not in DELEGATED_OPTIONS), (call, words, response.text)
        assert core.launcher.submissions() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("word", ["--comment=x", "-c2", "--mem-per-cpu=1G", "--Mem=1G", "mem=1G", "--", "", "--mem "])
def test_browser_sets_options_by_their_whole_names_only(directory: Path, word: str) -> None:
    async def scenario() -> None:
        core = site(directory)
        async with serving(core) as path, calling(path) as client:
            alice = {DELEGATION_HEADER: await secret_of(core, client)}
            body = {"profile": "base", "options": ["--mem=1G", word]}
            response = await client.post("/v1/sessions/dev/start", json=body, headers=alice)
            assert response.status_code in {403, 422}, response.text
            body["options"] = ["--mem=1G", "--time=5", "--gres=gpu:1", "--cpus-per-task=2"]
            response = await client.post("/v1/sessions/dev/start", json=body, headers=alice)
            assert response.status_code == 202, response.text
        (options,) = [session.options for session in core.registry.sessions_of("alice")]
        assert options == body["options"]

    asyncio.run(scenario())


def test_look_at_a_link_says_whose_login_it_is_and_does_not_use_it_up(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready(user="alice")
        async with serving(core) as path, calling(path) as client:
            assert core.web is not None
            target = Target(session="dev", service="jupyter")
            link = await core.web.browsers.make_link("alice", ACCOUNTS["alice"], LinkRequest(target=target))
            for proof in (link.url.partition("#")[2], link.code):
                preview = (await client.post("/v1/web/links/check", json={"proof": proof})).json()
                assert preview == {"user": "alice", "target": target.model_dump()}
            assert (await client.post("/v1/web/delegations", json={"proof": link.code})).status_code == 201
            assert (await client.post("/v1/web/links/check", json={"proof": link.code})).status_code == 403

    asyncio.run(scenario())


def test_visit_leads_through_the_door_until_logout(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready(user="alice")
        async with serving(core) as path, calling(path) as client:
            alice = {DELEGATION_HEADER: await secret_of(core, client)}
            bob = {DELEGATION_HEADER: await secret_of(core, client, "bob")}
            wanted = {"host": "jupyter--dev--alice.apps.example.org"}
            assert (await client.post("/v1/web/visits", json=wanted, headers=bob)).status_code == 404
            response = await client.post("/v1/web/visits", json=wanted, headers=alice)
            assert response.status_code == 201
            visit = response.json()
            question: dict[str, Any] = {"visit": visit["secret"], "public_key": HOST_KEY}
            door = (await client.post("/v1/web/door", json=question)).json()
            assert (door["host"], door["login"]) == ("c1", "berth-web")
            check = {"visit_ids": [visit["id"]]}
            assert (await client.post("/v1/web/visits/check", json=check)).json() == check
            (browser,) = (await client.get("/v1/web/browsers", headers=alice)).json()["browsers"]
            assert (browser["login"], browser["current"]) == ("link", True)
            assert (await client.delete(f"/v1/web/browsers/{browser['id']}", headers=bob)).status_code == 404
            ended = (await client.delete(f"/v1/web/browsers/{browser['id']}", headers=alice)).json()
            assert (ended["closed"], [each["id"] for each in ended["ended"]]) == (False, [browser["id"]])
            assert (await client.post("/v1/web/visits/check", json=check)).json() == {"visit_ids": []}
            assert (await client.post("/v1/web/door", json=question)).status_code == 404

    asyncio.run(scenario())


def test_user_gets_a_link_and_lists_browsers(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory, "somebody")
        async with serving(core) as path, calling(path) as client:
            link = (await client.post("/v1/web/links", json={})).json()
            assert link["url"].startswith("https://portal.apps.example.org/login#")
            assert (await client.get("/v1/web/browsers")).json() == {"browsers": []}
            assert (await client.delete("/v1/web/browsers")).json() == {"ended": [], "closed": True}
            for method, route in (("DELETE", "/v1/web/delegation"), ("POST", "/v1/web/visits")):
                assert refusal(await send(client, method, route, {})).message == "only a logged-in browser can do this"
            target = {"target": {"session": "dev", "service": "jupyter"}}
            assert (await client.post("/v1/web/links", json=target)).status_code == 404

    asyncio.run(scenario())


@pytest.mark.parametrize(("settings", "words"), [({}, "this site"), ({"mode": "personal"}, "personal mode")])
def test_without_web_access_the_local_way_is_named(directory: Path, settings: dict[str, object], words: str) -> None:
    async def scenario() -> None:
        off = {"url": URL} if settings else {}
        core = make(directory, gateway={"enabled": not settings}, web=off, **settings)
        async with serving(core, os.getuid()) as path, calling(path) as client:
            error = refusal(await client.post("/v1/web/links", json={}))
            assert error.message == f"{words} has no web access"
            assert "--local" in error.hint

    asyncio.run(scenario())
