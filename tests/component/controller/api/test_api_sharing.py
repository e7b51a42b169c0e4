"""Every route, for every state of a guest's grant, compared with the one access function."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller import accounts as accounts_module
from broker.controller import clock
from broker.controller.cluster import groups as groups_module
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions import pending
from broker.launcher.arguments import SnapshotArguments
from broker.names import new_id
from broker.schema.sessions import StartRequest
from tests.component.controller.api.api_server import calling, every_call, make, serving
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from tests.fakes.core import Core

GRANTED = {
    ("get", "/v1/sessions/{name}"),
    ("get", "/v1/sessions/{name}/log"),
    ("get", "/v1/sessions/{name}/events"),
    ("get", "/v1/sessions/{name}/jobs"),
    ("post", "/v1/sessions/{name}/start"),
    ("post", "/v1/sessions/{name}/stop"),
    ("post", "/v1/sessions/{name}/extend"),
    ("post", "/v1/sessions/{name}/snapshots"),
    ("delete", "/v1/shared/{name}"),
}
"""The routes of the role `operate`."""
CLONED = {("post", "/v1/sessions/{name}/clone"), ("delete", "/v1/shared/{name}")}
"""The routes of the role `snapshot`."""

WATCHED = {("get", "/v1/sessions/{name}"), ("delete", "/v1/shared/{name}")}
"""The routes of the roles `watch` and `pair`, beside the way in by ssh."""
ROUTES = {"operate": GRANTED, "snapshot": CLONED, "watch": WATCHED, "pair": WATCHED, "use": GRANTED}
OPERATED = ("stop", "extend", "snapshot")
ACTS = {"operate": OPERATED, "use": OPERATED, "snapshot": ("clone",), "watch": (), "pair": ()}

BODIES: dict[tuple[str, str], Any] = {
    ("post", "start"): {},
    ("put", "continuation"): {"continuation": "never"},
    ("put", "idle"): {"idle": "8h"},
    ("put", "stop-time"): {"at": 4e9},
    ("post", "extend"): {"seconds": 60},
    ("post", "resize"): {"options": ["--mem=2G"]},
    ("post", "check"): {"restart": True},
    ("post", "rename"): {"name": "taken"},
    ("patch", "connecting"): {"wait": 1},
    ("post", "snapshots"): {},
    ("post", "rollback"): {"snapshot": "1"},
    ("post", "switch"): {"profile": "base", "fresh": True},
    ("post", "upgrade"): {},
    ("put", "follow"): {"follow": None},
    ("post", "clone"): {"name": "mine", "at": "1"},
    ("put", "{grantee}"): {"role": "operate"},
}
"""A valid request for each route with a body, by method and last word of its path."""

LATER_S = 3600.0
STATES: dict[str, tuple[list[tuple[str, float | None]], bool]] = {
    "none": ([], False),
    "direct": ([("bob", None)], True),
    "by group": ([("@devs", LATER_S)], True),
    "expired": ([("bob", -1.0), ("@devs", -1.0)], False),
    "revoked": ([("carol", None)], False),
    "left the group": ([("@former", None)], False),
}
"""Receivers and ends of the grants on alice's session, in seconds from now, and whether bob has the role."""


@pytest.fixture(autouse=True)
def caller(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The user that this process is for the controller. bob is in the group devs; the machine knows all names."""
    who = {"name": "bob"}
    monkeypatch.setattr(accounts_module, "_name_of", lambda _: who["name"])
    monkeypatch.setattr(pending, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(accounts_module, "FRESH_S", 0.0)
    monkeypatch.setattr(accounts_module, "GRACE_S", 0.0)
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset({"devs"} if user == "bob" else ()))
    monkeypatch.setattr(groups_module, "_has_account", lambda name: name not in {"nobody-knows", "@nobody-knows"})
    return who


async def send(client: httpx.AsyncClient, method: str, template: str, name: str) -> httpx.Response:
    """Call a route about the session `name`."""
    path = template.replace("{name}", name).replace("{reference}", "1").replace("{grantee}", "dave")
    return await client.request(method.upper(), path, json=BODIES.get((method, template.rpartition("/")[2])))


def routes_of_sessions(core: Core, last: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Every route that names a session, those last that change it for a guest."""
    found = [call for call in every_call(core) if re.match(r"/v1/(sessions|shared)/\{name\}", call[1])]
    return sorted(found, key=lambda call: (call in last, call[0] == "delete", call))


def ready_core(directory: Path, **settings: object) -> Core:
    """A controller with a ready session of alice's, and one of bob's of the same name."""
    gateway = {"host": "login.example", "account": "somebody-else"}
    return make(directory, gateway=gateway, slurm={"longest_job": 86400}, **settings)


async def add_session(core: Core, grants: list[tuple[str, float | None]], version: str = "1", **grant: object) -> str:
    """Add alice's session dev, its snapshot 1, and these grants, of the role `operate` unless `grant` has another.

    Return its id.
    """
    now = clock.now()
    usual = {"role": "operate", "granted_at": now} | grant
    rows = [
        usual | {"grantee": grantee, "until": None if seconds is None else now + seconds} for grantee, seconds in grants
    ]
    digest = core.stores.find("base").digest
    job: dict[str, Any] = {"node": "c1", "port": 20001, "fingerprint": "SHA256:x", "started_at": 0.0, "ends_at": 3600.0}
    row = make_session(
        "alice", version=version, digest=digest, grants=rows, job_id=core.scheduler.submit("berth-x"), **job
    )
    core.registry.create(row, EventEntry("alice", "start"))
    await core.launcher.prepare("alice", row.id, "auto")
    taken = SnapshotArguments.parse({"session": row.id, "operation": new_id(), **row.image})
    await core.launcher.snapshot("alice", taken)
    return row.id


@pytest.mark.parametrize(
    ("role", "state"),
    [
        *(("operate", state) for state in STATES),
        *(("snapshot", state) for state in ("direct", "by group", "expired")),
        *((role, state) for role in ("watch", "pair", "use") for state in ("direct", "expired")),
    ],
)
def test_each_route_answers_a_guest_as_the_access_function_says(directory: Path, role: str, state: str) -> None:
    grants, counts = STATES[state]
    granted = ROUTES[role]

    async def scenario() -> None:
        core = ready_core(directory, sharing={"roles": list(ROUTES)})
        session_id = await add_session(core, grants, role=role, snapshot=1 if role == "snapshot" else None)
        seen = []
        async with serving(core) as path, calling(path) as client:
            for method, template in routes_of_sessions(core, granted):
                answer = await send(client, method, template, "alice.dev")
                missing = await send(client, method, template, "alice.nowhere")
                seen.append((method, template))
                assert missing.status_code == 404, (method, template, missing.text)
                if not counts:
                    assert answer.status_code == 404, (method, template, answer.text)
                    assert answer.text.replace("dev", "NAME") == missing.text.replace("nowhere", "NAME")
                elif (method, template) in granted:
                    expected = {409} if state == "by group" and template.startswith("/v1/shared") else {200, 202}
                    assert answer.status_code in expected, (method, template, answer.text)
                else:
                    assert answer.status_code == 403, (method, template, answer.text)
                    assert f"your role there is {role}" in answer.text
        assert set(seen) >= granted
        row = core.registry.get(session_id)
        assert row is not None
        assert row.name == "dev"
        events = {(event.actor, event.action) for event in core.registry.events_of("alice")}
        by_bob = {("bob", act) for act in ACTS[role]} | ({("bob", "leave")} if state == "direct" else set())
        assert {event for event in events if event[0] == "bob"} == (by_bob if counts else set())
        made = [each.name for each in core.registry.sessions_of("bob")]
        assert made == (["mine"] if counts and role == "snapshot" else [])

    asyncio.run(scenario())


@pytest.mark.parametrize("state", STATES)
def test_no_other_route_shows_or_reaches_the_session(directory: Path, state: str) -> None:
    grants, counts = STATES[state]

    async def scenario() -> None:
        core = ready_core(directory)
        session_id = await add_session(core, grants)
        resolve = {"user": "bob", "target": "alice.dev.berth"}
        connection = {"id": new_id(), "user": "bob", "session_id": session_id, "generation": "1.0", "began_at": 1.0}
        async with serving(core) as path, calling(path) as client:
            for url in ("sessions", "events", "grants", "deleted", "environments", "certificates", "keys"):
                answer = await client.get(f"/v1/{url}")
                assert (answer.status_code, session_id in answer.text, "alice" in answer.text) == (200, False, False)
            shared = (await client.get("/v1/shared")).json()["sessions"]
            assert [each["session"]["name"] for each in shared] == (["alice.dev"] if counts else [])
            assert (await client.post("/v1/resolve", json=resolve)).status_code == (403 if counts else 404)
            answer = await client.post("/v1/connections", json={"connections": [connection]})
            assert answer.status_code == 403
            answer = await client.post("/v1/environments", json={"of": "alice.dev"})
            assert answer.status_code in {404, 422}
            assert (await client.post("/v1/deleted/alice.dev/restore", json={})).status_code == 422

    asyncio.run(scenario())


def test_a_guest_sees_state_and_resources_only(directory: Path) -> None:
    async def scenario() -> None:
        core = ready_core(directory)
        session_id = await add_session(core, [("bob", None), ("carol", None)])
        values = {
            "options": ["--mem=1G", "--account=secret", "--reservation=secret"],
            "connecting": {"wait": 5.0},
            "persistence": {"keep": ["/secret"]},
            "idle": "2h",
            "continuation": "always",
            "stop_at": 1e10,
            "reason": "stopped by carol",
        }
        hidden = {
            "share": "with carol",
            "resize": "--account=secret",
            "set": "idle=secret",
            "clone": "of secret",
            "rename": "from secret",
            "clone-done": "created dev from secret",
        }

        def happens(entry: EventEntry) -> None:
            values["used_at"] = clock.now()  # a row that does not change has no event
            core.registry.update(session_id, lambda _: (dict(values), entry))

        for action, detail in hidden.items():
            happens(EventEntry("alice", action, detail))
        happens(EventEntry("carol", "snapshot", "secret"))
        happens(EventEntry("berth", "stopped", "CANCELLED stopped by carol"))
        async with serving(core) as path, calling(path) as client:
            view = (await client.get("/v1/sessions/alice.dev")).json()
            events = (await client.get("/v1/sessions/alice.dev/events")).json()["events"]
            listed = (await client.get("/v1/shared")).json()["sessions"][0]["session"]
        assert view == listed
        assert (view["name"], view["owner"], view["state"]) == ("alice.dev", "alice", "ready")
        assert view["options"] == ["--mem=1G"]
        assert (view["image"], view["clients"], view["volumes"], view["used_at"]) == ("", [], None, None)
        assert "secret" not in str(view)
        assert (view["idle"], view["continuation"], view["stop_at"]) == ("", "", None)
        assert view["reason"] == "stopped by another guest"
        assert [(event["actor"], event["action"]) for event in events] == [
            ("alice", "start"),
            ("another guest", "snapshot"),
            ("berth", "stopped"),
        ]
        assert events[-1]["detail"] == "CANCELLED stopped by another guest"
        assert "secret" not in str(events)

    asyncio.run(scenario())


def test_a_guest_learns_nothing_of_the_owners_other_sessions_and_clients(directory: Path) -> None:
    async def scenario() -> None:
        core = ready_core(directory, limits={"gpu_sessions": 1})
        await core.stopped()
        row = core.row()
        added = {"grantee": "bob", "role": "operate", "until": None, "granted_at": 1.0}
        core.registry.update(row.id, lambda _: ({"grants": [added], "options": ["--gres=gpu:intel:1"]}, None))
        await core.start("private", request=StartRequest(profile="base", options=["--gres=gpu:intel:1"]))
        lines = "Accepted publickey for alice from 192.0.2.1 port 7 ssh2: ED25519 SHA256:abc\nhello\n"
        core.launcher.directories["alice", row.id].log = lines
        async with serving(core) as path, calling(path) as client:
            refused = await client.post("/v1/sessions/alice.dev/start", json={})
            assert (refused.status_code, "a limit of alice" in refused.text) == (403, True), refused.text
            assert "private" not in refused.text
            assert (await client.get("/v1/sessions/alice.dev/log")).json()["text"] == "hello\n"
            labelled = await client.post("/v1/sessions/alice.dev/snapshots", json={"label": "one"})
            assert labelled.status_code == 403

    asyncio.run(scenario())


def test_a_guest_starts_for_the_owner_and_changes_no_option(directory: Path) -> None:
    async def scenario() -> None:
        core = ready_core(directory)
        await core.stopped()
        row = core.row()
        added = {"grantee": "bob", "role": "operate", "until": None, "granted_at": 1.0}
        core.registry.update(row.id, lambda _: ({"grants": [added]}, None))
        async with serving(core) as path, calling(path) as client:
            for body in ({"options": ["--mem=2G"]}, {"profile": "base"}, {"reset_options": True}):
                refused = await client.post("/v1/sessions/alice.dev/start", json=body)
                assert (refused.status_code, "as it is" in refused.text) == (403, True), body
            assert core.live_jobs(row) == {}
            started = await client.post("/v1/sessions/alice.dev/start", json={"defaults": ["--mem=9G"]})
            assert started.status_code == 202, started.text
        after = core.row()
        assert after.options == row.options
        assert len(core.live_jobs(after)) == 1, "the job is alice's"
        assert ("bob", "start") in {(event.actor, event.action) for event in core.registry.events_of("alice")}

    asyncio.run(scenario())


def test_a_revocation_ends_a_call_that_waits(directory: Path) -> None:
    async def scenario() -> None:
        core = ready_core(directory)
        session_id = await add_session(core, [("bob", None)])
        async with serving(core) as path, calling(path) as client:
            revision = core.row().revision
            url = f"/v1/sessions/alice.dev?after={revision}&wait=60"
            waiting = asyncio.create_task(client.get(url, timeout=60))
            while not core.changes.is_followed(session_id, "alice"):  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)
            await core.shares.unshare("alice", "dev", "bob")
            assert (await asyncio.wait_for(waiting, 2)).status_code == 404

    asyncio.run(scenario())


REFUSED: dict[str, tuple[str, Any, int]] = {
    "a role that the site has not": ("bob", {"role": "pair"}, 403),
    "an unknown role": ("bob", {"role": "admin"}, 422),
    "no role": ("bob", {}, 422),
    "a time that has passed": ("bob", {"role": "operate", "until": 1.0}, 422),
    "milliseconds": ("bob", {"role": "operate", "until": 4e12}, 422),
    "the owner": ("alice", {"role": "operate"}, 422),
    "an unknown user": ("nobody-knows", {"role": "operate"}, 422),
    "an unknown group": ("%40nobody-knows", {"role": "operate"}, 422),
    "a wrong name": ("b%20b", {"role": "operate"}, 422),
    "no object": ("bob", ["operate"], 422),
    "a role that is no word": ("bob", {"role": 7}, 422),
    "a role that is too long": ("bob", {"role": "o" * 40}, 422),
    "a time that is none": ("bob", {"role": "operate", "until": "tomorrow"}, 422),
    "a negative time": ("bob", {"role": "operate", "until": -1.0}, 422),
    "a snapshot and another role": ("bob", {"role": "operate", "snapshot": "1"}, 422),
    "no snapshot": ("bob", {"role": "snapshot"}, 422),
    "a snapshot that does not exist": ("bob", {"role": "snapshot", "snapshot": "9"}, 404),
    "a snapshot with a path": ("bob", {"role": "snapshot", "snapshot": "../1"}, 422),
    "a snapshot that is a number": ("bob", {"role": "snapshot", "snapshot": 1}, 422),
    "a service and another role": ("bob", {"role": "watch", "service": "board"}, 422),
    "a service with a path": ("bob", {"role": "operate", "service": "../x"}, 422),
    "an empty group": ("%40", {"role": "operate"}, 422),
    "a group with a space": ("%40domain%20users", {"role": "operate"}, 422),
    "a group with a line end": ("%40devs%0A", {"role": "operate"}, 422),
    "a group with a colon": ("%40a%3Ab", {"role": "operate"}, 422),
    "a group that begins with a dash": ("%40-devs", {"role": "operate"}, 422),
    "a group of a group": ("%40%40devs", {"role": "operate"}, 422),
    "a group that is too long": (f"%40{'g' * 65}", {"role": "operate"}, 422),
    "a user of another alphabet": ("b%C3%B6b", {"role": "operate"}, 422),
    "further keys": ("bob", {"role": "operate", "owner": "bob"}, 422),
    "one too many": ("dave", {"role": "operate"}, 403),
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_wrong_grant_is_refused_and_changes_nothing(directory: Path, caller: dict[str, str], word: str) -> None:
    grantee, body, status = REFUSED[word]
    caller["name"] = "alice"

    async def scenario() -> None:
        core = ready_core(directory, sharing={"max_grants": 2})
        await add_session(core, [("carol", None), ("@devs", None)])
        before = core.row().grants
        async with serving(core) as path, calling(path) as client:
            answer = await client.put(f"/v1/sessions/dev/grants/{grantee}", json=body)
            assert answer.status_code == status, answer.text
            assert word != "a role that the site has not" or "this site does not have the role pair" in answer.text
        assert core.row().grants == before

    asyncio.run(scenario())


def test_a_site_without_sharing_gives_no_guest_anything(directory: Path, caller: dict[str, str]) -> None:
    async def scenario(call: Callable[[httpx.AsyncClient], Any], status: int) -> None:
        core = ready_core(directory, sharing={"enabled": False})
        if core.registry.find("alice", "dev") is None:
            await add_session(core, [("bob", None)])
        async with serving(core) as path, calling(path) as client:
            assert (await call(client)).status_code == status
        (core.config.runtime_dir / "api.sock").unlink()

    asyncio.run(scenario(lambda client: client.get("/v1/sessions/alice.dev"), 404))
    caller["name"] = "alice"
    share = {"role": "operate"}
    asyncio.run(scenario(lambda client: client.put("/v1/sessions/dev/grants/carol", json=share), 403))
    asyncio.run(scenario(lambda client: client.get("/v1/sessions/dev/grants"), 200))
    asyncio.run(scenario(lambda client: client.delete("/v1/sessions/dev/grants/bob"), 200))


def test_the_owner_may_use_the_full_name(directory: Path, caller: dict[str, str]) -> None:
    caller["name"] = "alice"

    async def scenario() -> None:
        core = ready_core(directory)
        await add_session(core, [])
        async with serving(core) as path, calling(path) as client:
            view = (await client.get("/v1/sessions/alice.dev")).json()
            assert (view["name"], view["options"]) == ("dev", [])
            assert (await client.put("/v1/sessions/alice.dev/idle", json={"idle": "8h"})).status_code == 200

    asyncio.run(scenario())
