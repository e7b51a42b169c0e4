"""Every route of operators, for operators and others, compared with the one access function."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller import accounts as accounts_module
from broker.controller import clock
from broker.controller.api.route_access import BERTH_WEB, DELEGATED
from broker.controller.cluster import groups as groups_module
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.access import OPERATOR_PERMISSIONS
from broker.schema.permissions import Permission
from broker.schema.web import DELEGATION_HEADER, DelegationAnswer, LinkRequest
from tests.component.controller.api.api_server import calling, every_call, make, serving
from tests.component.controller.api.test_api_sharing import BODIES as OWNERS_BODIES
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.fakes.core import Core

WHY = {"message": "new kernel at 18:00"}
ROUTES: dict[tuple[str, str], tuple[Permission | None, Any, int]] = {
    ("get", "/v1/admin/sessions"): (Permission.SEE, None, 200),
    ("get", "/v1/admin/users/{owner}/limits"): (Permission.SEE, None, 200),
    ("get", "/v1/admin/events"): (None, None, 200),
    ("post", "/v1/admin/sessions/{name}/message"): (Permission.MESSAGE, WHY, 200),
    ("post", "/v1/admin/nodes/{node}/message"): (Permission.MESSAGE, WHY, 200),
    ("post", "/v1/admin/sessions/{name}/extend"): (Permission.EXTEND, WHY | {"seconds": 60}, 200),
    ("post", "/v1/admin/sessions/{name}/stop"): (Permission.STOP, WHY, 202),
    ("post", "/v1/admin/nodes/{node}/drain"): (Permission.STOP, WHY, 202),
}
"""All routes of operators: the permission, a valid request, and the status of its answer. Those that stop are last."""

MEMBERS = {"carol": {"hpc-admins"}, "bob": {"users"}, "alice": {"users"}}


@pytest.fixture(autouse=True)
def caller(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The user that this process is for the controller: the operator carol, unless a test says otherwise."""
    who = {"name": "carol"}
    monkeypatch.setattr(accounts_module, "_name_of", lambda _: who["name"])
    monkeypatch.setattr(accounts_module, "FRESH_S", 0.0)
    monkeypatch.setattr(accounts_module, "GRACE_S", 0.0)
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset(MEMBERS.get(user, ())))
    monkeypatch.setattr(groups_module, "_has_account", lambda name: name in MEMBERS)
    return who


def operated_site(directory: Path, **settings: object) -> Core:
    """A site with operators, and a ready session of alice's."""
    values = {"operators": {"group": "@hpc-admins"}, "slurm": {"longest_job": 86400}}
    core = make(directory, **({"gateway": {"host": "login.example", "account": "gate"}} | values | settings))
    job: dict[str, Any] = {"node": "c1", "port": 20001, "fingerprint": "SHA256:x", "started_at": 0.0, "ends_at": 3600.0}
    digest = core.stores.find("base").digest
    secret: dict[str, Any] = {"options": ["--mem=1G", "--account=secret"], "reason": "secret", "idle": "2h"}
    row = make_session("alice", digest=digest, job_id=core.scheduler.submit("berth-x"), **job, **secret)
    core.registry.create(row, EventEntry("alice", "start", "secret@1"))
    return core


async def send(client: httpx.AsyncClient, route: tuple[str, str], name: str, **headers: str) -> httpx.Response:
    """Call a route of operators about the session `name`, its owner and its node."""
    path = route[1].replace("{name}", name).replace("{node}", "c1").replace("{owner}", name.partition(".")[0])
    return await client.request(route[0].upper(), path, json=ROUTES[route][1], headers=headers)


def test_the_table_has_every_route_of_operators(directory: Path) -> None:
    assert {call for call in every_call(operated_site(directory)) if call[1].startswith("/v1/admin")} == ROUTES.keys()
    assert {permission for permission, _, _ in ROUTES.values()} - {None} == OPERATOR_PERMISSIONS
    assert not {(method, path) for method, path in DELEGATED | BERTH_WEB if "/admin/" in path}


def test_an_operator_is_answered_without_contents_and_named_in_events(directory: Path) -> None:
    async def scenario() -> None:
        core = operated_site(directory)
        row = core.registry.find("alice", "dev")
        assert row is not None
        await core.launcher.prepare("alice", row.id, "auto")
        async with serving(core) as path, calling(path) as client:
            for route, (_, _, status) in ROUTES.items():
                answer = await send(client, route, "alice.dev")
                assert (answer.status_code, "secret" in answer.text) == (status, False), (route, answer.text)
                if "{name}" in route[1]:
                    missing = await send(client, route, "alice.nowhere")
                    assert (missing.status_code, "no session named nowhere" in missing.text) == (404, True), route
            drained = await client.post("/v1/admin/nodes/c9/drain", json=WHY)
            assert drained.json() == {"node": "c9", "done": [], "failed": []}
        acts = [(event.actor, event.action) for event in core.registry.events_of("alice") if event.actor == "carol"]
        verbs = ("message", "message", "extend", "stop")
        assert acts == [("carol", f"operator-{verb}") for verb in verbs]

    asyncio.run(scenario())


@pytest.mark.parametrize("user", ["alice", "bob", "root", "hpc-admins"])
def test_others_are_refused_alike_whether_or_not_the_session_exists(
    directory: Path, caller: dict[str, str], user: str
) -> None:
    caller["name"] = user

    async def scenario() -> None:
        core = operated_site(directory)
        async with serving(core) as path, calling(path) as client:
            for route in ROUTES:
                answers = [await send(client, route, name) for name in ("alice.dev", "alice.nowhere", "zoe.dev")]
                assert {answer.status_code for answer in answers} == {403}, route
                assert len({answer.text for answer in answers}) == 1, route
                assert "only the site's operators may do this" in answers[0].text
        assert {event.actor for event in core.registry.events_of("alice")} == {"alice"}

    asyncio.run(scenario())


def test_an_operator_has_nothing_on_the_routes_of_sessions(directory: Path) -> None:
    async def scenario() -> None:
        core = operated_site(directory)
        async with serving(core) as path, calling(path) as client:
            for method, template in every_call(core):
                if not template.startswith(("/v1/sessions/{name}", "/v1/shared/{name}")):
                    continue
                url = template.replace("{name}", "alice.dev").replace("{reference}", "1").replace("{grantee}", "dave")
                body = OWNERS_BODIES.get((method, template.rpartition("/")[2]))
                answer = await client.request(method.upper(), url, json=body)
                assert answer.status_code == 404, (method, template, answer.text)
            assert (await client.get("/v1/sessions")).json() == {"sessions": []}
            assert (await client.get("/v1/events")).json() == {"events": []}
            resolve = {"user": "carol", "target": "alice.dev.berth"}
            assert (await client.post("/v1/resolve", json=resolve)).status_code == 404

    asyncio.run(scenario())


def test_an_operators_browser_is_refused(directory: Path, caller: dict[str, str]) -> None:
    web = {"url": "https://apps.example.org", "account": "berth-web", "runtime_dir": directory, "minimum_uid": 0}

    async def scenario() -> None:
        core = operated_site(directory, web=web)
        assert core.web is not None
        link = await core.web.browsers.make_link("carol", 4711, LinkRequest())
        caller["name"] = "berth-web"
        async with serving(core) as path, calling(path) as client:
            made = await client.post("/v1/web/delegations", json={"proof": link.url.partition("#")[2]})
            secret = DelegationAnswer.model_validate_json(made.content).secret
            for route in ROUTES:
                for headers in ({}, {DELEGATION_HEADER: secret}):
                    answer = await send(client, route, "alice.dev", **headers)
                    assert (answer.status_code, "a browser may not do this" in answer.text) == (403, True), route

    asyncio.run(scenario())


def test_in_personal_mode_there_are_no_operators(directory: Path) -> None:
    async def scenario() -> None:
        core = operated_site(directory, mode="personal", gateway={"enabled": False})
        async with serving(core, own_uid=0) as path, calling(path) as client:
            for route in ROUTES:
                answer = await send(client, route, "alice.dev")
                assert (answer.status_code, "personal mode has no operators" in answer.text) == (403, True), answer.text

    asyncio.run(scenario())


REFUSED: dict[str, tuple[str, str, Any]] = {
    "no message": ("post", "sessions/alice.dev/stop", {}),
    "an empty message": ("post", "sessions/alice.dev/stop", {"message": " "}),
    "two lines": ("post", "sessions/alice.dev/stop", {"message": "a\nb"}),
    "an escape sequence": ("post", "nodes/c1/drain", {"message": "\x1b[2J"}),
    "a long message": ("post", "nodes/c1/message", {"message": "x" * 201}),
    "further keys": ("post", "sessions/alice.dev/stop", WHY | {"force": True}),
    "no owner": ("post", "sessions/dev/stop", WHY),
    "a path as node": ("post", "nodes/..%2Fc1/drain", WHY),
    "no time": ("post", "sessions/alice.dev/extend", WHY | {"seconds": 0}),
    "too many events": ("get", "events?limit=10001", None),
    "milliseconds": ("get", "events?since=4e12", None),
    "a wrong user": ("get", "events?owner=a%20b", None),
    "a wrong node": ("get", "sessions?node=c1;c2", None),
    "no sessions": ("get", "sessions?limit=0", None),
    "too many sessions": ("get", "sessions?limit=1001", None),
    "a page behind no session": ("get", "sessions?after=dev", None),
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_wrong_request_is_refused_and_changes_nothing(directory: Path, word: str) -> None:
    method, target, body = REFUSED[word]

    async def scenario() -> None:
        core = operated_site(directory)
        before = core.registry.find("alice", "dev")
        async with serving(core) as path, calling(path) as client:
            answer = await client.request(method, f"/v1/admin/{target}", json=body)
            assert answer.status_code in {404, 422}, answer.text
        assert core.registry.find("alice", "dev") == before
        assert len(core.registry.audit_events(None, 0, 10)) == 1
        assert clock.now() > 0

    asyncio.run(scenario())
