"""The API takes the caller from the kernel (SO_PEERCRED), and refuses what that user may not do."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from broker.controller.api.app import application
from broker.schema.sessions import SessionState
from tests.component.controller.api.api_server import (
    ME,
    OTHER,
    ROOT,
    a_connection,
    as_other,
    calling,
    every_call,
    make,
    needs_root,
    refusal,
    services,
    serving,
    waiting_for,
)
from tests.fakes.rows import HOST_KEY

if TYPE_CHECKING:
    from pathlib import Path


OPEN = {"/v1/health", "/openapi.json"}
"""The paths that need no known caller. All others refuse one."""


def test_every_call_but_two_refuses_who_has_no_identity(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        nobody = httpx.ASGITransport(application(services(core)), client=("192.0.2.1", 4711))
        async with httpx.AsyncClient(transport=nobody, base_url="http://berth") as client:
            calls = every_call(core)
            assert len(calls) >= 18
            for method, path in calls:
                filled = re.sub(r"\{[^}]*\}", "dev", path)
                accept = {"Accept": "application/json, text/event-stream"}
                response = await client.request(method, filled, json={} if method == "post" else None, headers=accept)
                if path in OPEN:
                    assert response.status_code == 200, path
                else:
                    assert refusal(response).reason == "refused", (method, path)
                    assert response.status_code == 403, (method, path)
        assert core.launcher.asked == []

    asyncio.run(scenario())


def test_the_caller_is_who_the_kernel_says(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        async with serving(core) as path, calling(path) as client:
            spoofed = {"X-Forwarded-For": "uid:0", "X-Remote-User": "alice", "Forwarded": "for=uid:0"}
            assert (await client.get("/v1/site", headers=spoofed)).json()["user"] == ME

    asyncio.run(scenario())


@needs_root
def test_another_user_sees_nothing_and_is_refused_what_is_not_theirs(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        await core.start("waiting", user=ME)
        async with serving(core) as path:
            status, cluster = await as_other(path, "GET", "/v1/cluster")
            assert (status, cluster["queue"]["ahead_of"], len(cluster["queue"]["jobs"])) == (200, [], 1)
            assert "waiting" not in json.dumps(cluster)
            assert (await as_other(path, "GET", "/v1/site"))[1]["user"] == OTHER
            assert await as_other(path, "GET", "/v1/sessions") == (200, {"sessions": []})
            assert await as_other(path, "GET", "/v1/events") == (200, {"events": []})
            for method, target in (
                ("GET", "/v1/sessions/dev"),
                ("GET", "/v1/sessions/dev/log"),
                ("GET", "/v1/sessions/dev/events"),
                ("GET", "/v1/sessions/dev/connections"),
                ("GET", "/v1/sessions/dev/connections?ended=true"),
                ("POST", "/v1/sessions/dev/stop"),
                ("DELETE", "/v1/sessions/dev"),
                ("GET", "/v1/sessions/dev/snapshots"),
                ("DELETE", "/v1/sessions/dev/snapshots/1"),
                ("GET", "/v1/sessions/dev/diff"),
                ("GET", "/v1/sessions/dev/size"),
                ("POST", "/v1/sessions/dev/verify"),
                ("POST", "/v1/sessions/dev/flatten"),
                ("POST", "/v1/sessions/dev/root"),
            ):
                assert (await as_other(path, method, target))[0] == 404, target
            for target, words in (
                ("snapshots", {}),
                ("rollback", {"snapshot": "1"}),
                ("switch", {"profile": "base"}),
                ("clone", {"name": "mine", "at": "1"}),
            ):
                body = json.dumps(words)
                assert (await as_other(path, "POST", f"/v1/sessions/dev/{target}", body))[0] == 404, target
            mine = json.dumps({"user": ME, "target": "dev"})
            assert (await as_other(path, "POST", "/v1/resolve", mine))[0] == 403
            theirs = json.dumps({"user": OTHER, "target": f"{ME}.dev.berth"})
            assert (await as_other(path, "POST", "/v1/resolve", theirs))[0] == 404
            about = json.dumps({"connections": [a_connection(core.row(user=ME).id).model_dump()]})
            assert (await as_other(path, "POST", "/v1/connections", about))[0] == 403
            for method, target, body in (
                ("GET", f"/v1/gateway/keys/{ME}", ""),
                ("POST", "/v1/gateway/certificate", json.dumps({"public_key": HOST_KEY})),
                ("POST", "/v1/gateway/wait", json.dumps(waiting_for(core.row(user=ME).id, 0))),
                (
                    "POST",
                    "/v1/gateway/guests",
                    json.dumps({"worker": "0" * 26, "number": 1, "guests": [], "seconds": 0}),
                ),
                ("POST", "/v1/rebuild", ""),
            ):
                assert (await as_other(path, method, target, body))[0] == 403, target
        assert core.row(user=ME).state is SessionState.READY

    asyncio.run(scenario())


@needs_root
def test_a_personal_controller_serves_nobody_else_not_even_root(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory, mode="personal", gateway={"enabled": False})
        async with serving(core, own_uid=os.getuid()) as path, calling(path) as client:
            assert (await client.get("/v1/site")).json()["mode"] == "personal"
            for method, target in every_call(core):
                if target in OPEN:
                    continue
                status, body = await as_other(path, method.upper(), re.sub(r"\{[^}]*\}", "dev", target), "{}")
                assert (status, body["reason"]) == (403, "refused"), target
        second = directory / "second"
        second.mkdir(mode=0o755)
        core = make(second, mode="personal", gateway={"enabled": False})
        async with serving(core, own_uid=pwd.getpwnam(OTHER).pw_uid) as path, calling(path) as client:
            assert refusal(await client.get("/v1/sessions")).reason == "refused"

    asyncio.run(scenario())


def test_only_the_gateways_account_asks_for_others(directory: Path) -> None:
    async def scenario() -> None:
        for account, status in ((ME, 200), ("somebody-else", 403)):
            place = directory / account
            place.mkdir(mode=0o755)
            core = make(place, gateway={"host": "login.example", "account": account})
            core.launcher.authorized_keys["alice"] = HOST_KEY
            await core.ready(user="alice")
            async with serving(core) as path, calling(path) as client:
                resolve = {"user": "alice", "target": "dev.berth"}
                answers = [
                    await client.get("/v1/gateway/keys/alice"),
                    await client.post("/v1/gateway/certificate", json={"public_key": HOST_KEY}),
                    await client.post("/v1/resolve", json=resolve),
                ]
                assert [answer.status_code for answer in answers] == [status] * 3
                if status == 200:
                    assert answers[0].json() == {"user": "alice", "keys": [HOST_KEY]}
                    assert answers[2].json()["host"] == "c1"

    asyncio.run(scenario())


def test_without_a_gateway_nobody_is_one(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory, gateway={"enabled": False, "account": ME})
        async with serving(core) as path, calling(path) as client:
            assert (await client.get("/v1/gateway/keys/alice")).status_code == 403
            assert (await client.get("/v1/site")).json()["gateway_host"] == ""

    asyncio.run(scenario())


@pytest.mark.parametrize("own_uid", [os.getuid(), 4242])
def test_the_service_account_and_root_may_rebuild(directory: Path, own_uid: int) -> None:
    async def scenario() -> None:
        async with serving(make(directory), own_uid) as path, calling(path) as client:
            allowed = own_uid == os.getuid() or ROOT
            assert (await client.post("/v1/rebuild")).status_code == (200 if allowed else 403)

    asyncio.run(scenario())


FORWARDED = (
    *("X-Forwarded-For", "X-Forwarded-User", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
    *("X-Forwarded-Client-Cert", "X-Real-IP", "X-Client-IP", "X-Remote-User", "Remote-User", "Via", "True-Client-IP"),
)


SPOOFED = ("[uid:65534]", "[uid:65534]:1", "uid:65534", "65534", "[uid:65534], [uid:65534]", "127.0.0.1")


def test_no_header_changes_the_callers_identity(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setenv("WEB_CONCURRENCY", "many")

    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            for value in SPOOFED:
                headers = dict.fromkeys(FORWARDED, value) | {"Forwarded": f"for={value};by={value};proto={value}"}
                for sent in (headers, *({name: each} for name, each in headers.items())):
                    assert (await client.get("/v1/site", headers=sent)).json()["user"] == ME, sent

    asyncio.run(scenario())
