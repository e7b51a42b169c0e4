"""The real application on a real Unix socket: who calls is what the kernel says, and what is not allowed is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import pwd
import re
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import generate_latest

from broker.client.client import Client
from broker.controller.api import protocol
from broker.controller.api.app import application
from broker.controller.api.dependencies import Services
from broker.controller.api.request_limits import MAX_BODY_BYTES
from broker.controller.doctor import controller_checks
from broker.controller.process import ActivityTracker, _serving
from broker.controller.rebuild import rebuild
from broker.controller.registry.registry import EventEntry
from broker.controller.site import Site
from broker.errors import BerthError
from broker.names import new_id
from broker.schema import volumes
from broker.schema.base import ErrorBody
from broker.schema.connections import ConnectionRecord
from broker.schema.environments import EnvironmentRequest, PromoteRequest
from broker.schema.login import KeyView, UserCertificateRequest
from broker.schema.sessions import ConnectPolicy, JobView, SessionState, SessionView, StartRequest
from broker.schema.site import DoctorCheck, EventView
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.controller import ScriptedController, view
from tests.fakes.core import Core, site_config
from tests.fakes.gateway_world import until
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import HOST_KEY, make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from broker.controller.registry.models import Session

ME = pwd.getpwuid(os.getuid()).pw_name
ROOT = os.getuid() == 0
OTHER = "nobody"
OPEN = {"/v1/health", "/openapi.json"}
"""What anybody may ask; everything else says who they are first."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, since a socket's may have 107 bytes, which other users can reach."""
    with tempfile.TemporaryDirectory(prefix="berth-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def services(core: Core, own_uid: int = 4242) -> Services:
    """The controller runs as nobody in particular, so that nobody is it by chance."""
    parts = (core.config, core.scheduler, core.launcher, core.stores, core.reconciler)
    return Services(
        config=core.config,
        sessions=core.sessions,
        connect=core.connect,
        policies=core.policies,
        extend=core.extend,
        resize=core.resize,
        connections=core.connections,
        snapshots=core.snapshots,
        deleted=core.deleted,
        environments=core.environments,
        keys=core.keys,
        logins=core.logins,
        site=Site(core.config, core.async_registry, core.authority, core.user_authority),
        checks=functools.partial(controller_checks, *parts),
        rebuild=functools.partial(rebuild, core.config, core.registry, core.scheduler, core.launcher),
        in_use=ActivityTracker().request,
        own_uid=own_uid,
    )


@contextlib.asynccontextmanager
async def serving(core: Core, own_uid: int = 4242) -> AsyncIterator[Path]:
    """The API as the controller serves it; its socket."""
    path = core.config.runtime_dir / "api.sock"
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        async with asyncio.timeout(TEST_DEADLINE_S), _serving(services(core, own_uid), listener):
            yield path


@contextlib.asynccontextmanager
async def calling(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://berth") as client:
        yield client


def make(directory: Path, **settings: object) -> Core:
    """A site whose gateway is whoever runs this test, unless `settings` say otherwise."""
    values = {"gateway": {"host": "login.example", "account": ME}} | settings
    return Core.make(site_config(directory, **values), FakeLauncher(FakeScheduler()))


def refusal(response: httpx.Response) -> ErrorBody:
    assert response.status_code >= 400, response.text
    return ErrorBody.model_validate_json(response.content)


def every_call(core: Core) -> list[tuple[str, str]]:
    document = application(services(core)).openapi()
    return [(method, path) for path, methods in document["paths"].items() for method in methods]


# Who calls.


def test_every_call_but_two_refuses_who_has_no_identity(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        nobody = httpx.ASGITransport(application(services(core)), client=("192.0.2.1", 4711))
        async with httpx.AsyncClient(transport=nobody, base_url="http://berth") as client:
            calls = every_call(core)
            assert len(calls) >= 18
            for method, path in calls:
                filled = re.sub(r"\{[^}]*\}", "dev", path)
                response = await client.request(method, filled, json={} if method == "post" else None)
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


async def as_other(path: Path, method: str, target: str, body: str = "") -> tuple[int, Any]:
    """The same call by another account; status and decoded body."""
    program = (
        "import json, socket, sys\n"
        "method, target, body = sys.argv[2:]\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n"
        "s.sendall(f'{method} {target} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Type: application/json"
        "\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}'.encode())\n"
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode(), end='')\n"
    )
    account = pwd.getpwnam(OTHER)
    process = await asyncio.create_subprocess_exec(
        "setpriv",
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "python3",  # the system's, which that account can reach
        "-c",
        program,
        str(path),
        method,
        target,
        body,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        cwd="/",
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    head, _, content = output.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)


needs_root = pytest.mark.skipif(not ROOT, reason="only root can be two users; `make test` runs as root")


def waiting_for(session_id: str, revision: int, seconds: float = 60) -> dict[str, Any]:
    """A question of the gateway's."""
    return {"sessions": [{"session_id": session_id, "revision": revision}], "seconds": seconds}


@needs_root
def test_another_user_sees_nothing_and_is_refused_what_is_not_theirs(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        async with serving(core) as path:
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


def test_requests_are_counted_by_the_routes_pattern_and_not_by_what_was_asked_for(directory: Path) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            await client.get("/v1/sessions/made-up-name")
            await client.get("/made/up/path")

    asyncio.run(scenario())
    told = generate_latest().decode()
    assert 'berth_http_requests_total{method="GET",path="/v1/sessions/{name}",status="404"}' in told
    assert 'berth_http_requests_total{method="GET",path="other",status="404"}' in told
    assert "made" not in told


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


# What is wrong with a request.


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "words"),
    [
        ("GET", "/v1/nothing", None, 404, "/v1/nothing"),
        ("PUT", "/v1/sessions", None, 405, "PUT"),
        ("GET", "/v1/sessions/Not-A-Name", None, 422, "name"),
        ("GET", "/v1/sessions/" + "a" * 40, None, 422, "name"),
        ("GET", "/v1/sessions/..%2f..%2fetc", None, 404, ""),
        ("GET", "/v1/sessions/none", None, 404, "none"),
        ("GET", "/v1/sessions/dev?after=-1", None, 422, "after"),
        ("GET", "/v1/sessions/dev?wait=1e9", None, 422, "wait"),
        ("GET", "/v1/sessions/dev?wait=nan", None, 422, "wait"),
        ("GET", "/v1/sessions/dev/log?bytes=0", None, 422, "bytes"),
        ("POST", "/v1/sessions/dev/start", "{", 422, "the request"),
        ("POST", "/v1/sessions/dev/start", "[]", 422, "the request"),
        ("POST", "/v1/sessions/dev/start", '{"profil": "base"}', 422, "profil"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "../base"}', 422, "profile"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "base", "options": ["--wrap=id"]}', 422, "wrap"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "base", "options": [7]}', 422, "options"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "none"}', 404, "none"),
        ("POST", "/v1/keys", '{"public_key": "no key"}', 422, "key"),
        ("POST", "/v1/resolve", '{"user": "root"}', 422, "target"),
        ("DELETE", "/v1/keys/SHA256:none", None, 404, "SHA256:none"),
        ("POST", "/v1/sessions/dev/snapshots", '{"label": "7"}', 422, "label"),
        ("POST", "/v1/sessions/dev/rollback", '{"snapshot": "0"}', 422, "snapshot"),
        ("DELETE", "/v1/sessions/dev/snapshots/0", None, 422, "reference"),
        ("GET", "/v1/sessions/dev/diff?from=/", None, 422, "from"),
        ("GET", "/v1/sessions/dev/diff?content=perhaps", None, 422, "content"),
        ("POST", "/v1/sessions/dev/clone", '{"name": "Two"}', 422, "name"),
        ("POST", "/v1/sessions/dev/switch", '{"profile": "none"}', 404, "dev"),
        ("POST", "/v1/sessions/dev/start", '{"persistence": {"keep": ["/a/../b"]}}', 422, "persistence"),
        ("POST", "/v1/deleted/dev/restore", "{}", 404, "dev"),
    ],
)
def test_what_is_wrong_is_refused_at_the_edge_with_the_one_body(  # noqa: PLR0917 - the columns of the table above
    directory: Path, method: str, path: str, content: str | None, status: int, words: str
) -> None:
    async def scenario() -> None:
        core = make(directory)
        async with serving(core) as socket_path, calling(socket_path) as client:
            headers = {"Content-Type": "application/json"}
            response = await client.request(method, path, content=content, headers=headers)
            assert response.status_code == status
            assert words in refusal(response).message
        assert core.launcher.submissions() == 0

    asyncio.run(scenario())


def test_a_body_that_is_too_large_or_of_unknown_length_is_not_read(directory: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            large = await client.post("/v1/keys", content=b" " * (MAX_BODY_BYTES + 1))
            assert str(MAX_BODY_BYTES) in refusal(large).message
            assert "Content-Length" in refusal(await client.post("/v1/keys", content=chunks())).message
            fitting = json.dumps({"public_key": "x"}).encode().ljust(MAX_BODY_BYTES)
            json_body = {"Content-Type": "application/json"}
            assert "key" in refusal(await client.post("/v1/keys", content=fitting, headers=json_body)).message

    asyncio.run(scenario())


def test_a_bug_is_an_answer_too_and_tells_nothing_of_the_inside(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        core = make(directory)

        async def fail(_: str) -> list[SessionView]:
            raise RuntimeError("a secret of the inside")

        monkeypatch.setattr(core.sessions, "all", fail)
        async with serving(core) as path, calling(path) as client:
            response = await client.get("/v1/sessions")
            assert response.status_code == 500
            assert "secret" not in response.text
            assert refusal(response).hint

    asyncio.run(scenario())


def test_the_document_describes_every_answer_and_every_failure(directory: Path) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            document = (await client.get("/openapi.json")).json()
        for target, methods in document["paths"].items():
            for method, call in methods.items():
                failures = {
                    call["responses"][key]["content"]["application/json"]["schema"]["$ref"]
                    for key in ("422", "default")
                }
                assert failures == {"#/components/schemas/ErrorBody"}, (method, target)
                answer = next(value for key, value in call["responses"].items() if key.startswith("2"))
                assert answer["content"]["application/json"]["schema"], (method, target)

    asyncio.run(scenario())


# What the calls do.


def test_a_waiting_call_is_woken_by_the_change(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        async with serving(core) as path, calling(path) as client:
            revision = (await client.get("/v1/sessions/dev")).json()["revision"]
            waiting = asyncio.create_task(client.get(f"/v1/sessions/dev?after={revision}&wait=50", timeout=60))
            unchanged = await client.get(f"/v1/sessions/dev?after={revision}&wait=0.05")
            assert unchanged.json()["revision"] == revision
            assert not waiting.done()
            stopped = await client.post("/v1/sessions/dev/stop")
            assert stopped.status_code == 202
            woken = (await asyncio.wait_for(waiting, 45)).json()
            assert (woken["state"], woken["revision"] > revision) == ("stopping", True)

    asyncio.run(scenario())


HELD: dict[str, Callable[[Session], tuple[str, str, object]]] = {
    "show": lambda now: ("GET", f"/v1/sessions/dev?after={now.revision}&wait=300", None),
    "resolve": lambda _: ("POST", "/v1/resolve", {"user": ME, "target": "dev", "waited": 1}),
    "gateway wait": lambda now: ("POST", "/v1/gateway/wait", waiting_for(now.id, now.revision)),
}
"""Calls that wait until something happens to the session `dev`."""


def held(call: str, now: Session) -> bytes:
    """Return such a call as it goes over the socket."""
    method, target, content = HELD[call](now)
    body = "" if content is None else json.dumps(content)
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(("call", "status"), [("show", 200), ("resolve", 504), ("gateway wait", 200)])
def test_a_call_that_waits_is_answered_when_the_controller_stops(
    directory: Path, caplog: pytest.LogCaptureFixture, call: str, status: int
) -> None:
    async def scenario() -> None:
        core = make(directory, ssh={"connect_wait": 3600.0})
        await core.start(user=ME)
        await core.tick()
        now = core.row(user=ME)
        async with serving(core) as path:
            lines = [await asyncio.open_unix_connection(path) for _ in range(3)]
            for _, writer in lines:
                writer.write(held(call, now))
            await until(lambda: calls_under_way() == 3)
        for reader, writer in lines:
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.split()[1] == b"%d" % status
            answer = json.loads(body)
            if call == "show":
                assert answer["revision"] == now.revision
            elif call == "resolve":
                assert "starting" in answer["message"] or "queued" in answer["message"]
            else:
                assert answer == {"changed": []}
            writer.close()

    asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_call_that_outlasts_a_stop_is_told_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        core = make(directory)
        await core.start(user=ME)
        monkeypatch.setattr(core.launcher, "log", hang)
        async with serving(core) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /v1/sessions/dev/log HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: calls_under_way() == 1)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.split()[1] == b"502"
        said = ErrorBody.model_validate_json(body)
        assert said.reason == "controller-unavailable"
        assert "stopped before the request was complete" in said.message
        writer.close()

    monkeypatch.setattr(protocol, "STOP_TIMEOUT_S", 1)
    asyncio.run(scenario())
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("call", HELD)
def test_a_call_that_waits_ends_when_its_caller_leaves(directory: Path, call: str) -> None:
    async def scenario() -> None:
        core = make(directory, ssh={"connect_wait": 3600.0})
        await core.start(user=ME)
        await core.tick()
        now = core.row(user=ME)
        async with serving(core) as path:
            writers = []
            for _ in range(20):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(held(call, now))
                writers.append(writer)
            await until(lambda: calls_under_way() == 20)
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            await until(lambda: calls_under_way() == 0, within=15)  # the shortest of these waits takes 20 s by itself
        assert core.row(user=ME) == now

    asyncio.run(scenario())


def calls_under_way() -> int:
    """Return the number of calls that the application, which is in this process, has not ended."""
    return sum("run_asgi" in repr(task.get_coro()) for task in asyncio.all_tasks())


def test_the_gateway_waits_for_many_sessions_with_one_question(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        for name in ("one", "two", "three"):
            await core.start(name, ME)
        await core.tick()
        known = {name: core.row(name, ME) for name in ("one", "two", "three")}
        asked = {"sessions": [{"session_id": row.id, "revision": row.revision} for row in known.values()]}
        async with serving(core) as path, calling(path) as client:
            nothing = await client.post("/v1/gateway/wait", json=asked | {"seconds": 0.05})
            assert nothing.json() == {"changed": []}
            waiting = asyncio.create_task(client.post("/v1/gateway/wait", json=asked | {"seconds": 60}, timeout=60))
            await client.post("/v1/sessions/two/stop")
            assert (await waiting).json() == {"changed": [known["two"].id]}
            again = await client.post("/v1/gateway/wait", json=asked | {"seconds": 60})
            assert again.json() == {"changed": [known["two"].id]}, "what has changed before is told at once"
            unknown = await client.post("/v1/gateway/wait", json=waiting_for(new_id(), 0))
            assert len(unknown.json()["changed"]) == 1
            nonsense = [waiting_for("../x", 0), waiting_for(new_id(), 0, 1e9), {"sessions": [], "seconds": 1}]
            for wrong in nonsense:
                assert (await client.post("/v1/gateway/wait", json=wrong)).status_code == 422

    asyncio.run(scenario())


def test_a_question_that_is_not_held_says_what_to_wait_for(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory, ssh={"connect_wait": 12.0})
        await core.start(user=ME)
        await core.tick()
        now = core.row(user=ME)
        question = {"user": ME, "target": "dev"}
        async with serving(core) as path, calling(path) as client:
            told = refusal(await client.post("/v1/resolve", json=question | {"hold": False, "waited": 2}))
            assert told.waiting is not None
            assert (told.reason, told.waiting.session_id, told.waiting.revision) == ("waiting", now.id, now.revision)
            assert 9 < told.waiting.seconds <= 10
            over = await client.post("/v1/resolve", json=question | {"hold": False, "waited": 12})
            assert over.json().keys() == {"reason", "message", "hint"}, "a gateway of before knows no more"
            assert over.json()["reason"] == "conflict"

    asyncio.run(scenario())


def test_the_server_ends_although_somebody_waits(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        async with serving(core) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /v1/sessions/dev?after=1000&wait=300 HTTP/1.1\r\nHost: x\r\n\r\n")
            await writer.drain()
            await asyncio.to_thread(Client(path).site)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()

    asyncio.run(scenario())


def a_connection(session_id: str) -> ConnectionRecord:
    return ConnectionRecord(id=new_id(), user=ME, session_id=session_id, generation="1.0", began_at=1.0)


CALLS: dict[str, Callable[[Client], object]] = {
    "site": lambda c: c.site(),
    "sessions": lambda c: c.sessions(),
    "session": lambda c: c.session("dev"),
    "session, waiting": lambda c: c.session("dev", after=0, wait=0.01),
    "start": lambda c: c.start("dev", StartRequest()),
    "stop": lambda c: c.stop("dev"),
    "delete": lambda c: c.delete("dev"),
    "log": lambda c: c.log("dev"),
    "events of one": lambda c: c.events("dev"),
    "events": lambda c: c.events(),
    "lifecycle": lambda c: c.events("dev", connections=False),
    "certificates": lambda c: c.certificates(),
    "sign": lambda c: c.sign(UserCertificateRequest(public_key=HOST_KEY)),
    "revoke": lambda c: c.revoke(),
    "authorities": lambda c: c.authorities(),
    "rotate": lambda c: c.rotate("host"),
    "retire": lambda c: c.retire("user", "SHA256:none"),
    "note": lambda c: c.note(a_connection(c.session("dev").id)),
    "connections": lambda c: c.connections("dev"),
    "all connections": lambda c: c.connections("dev", ended=True),
    "keys": lambda c: c.keys(),
    "add key": lambda c: c.add_key(HOST_KEY),
    "remove key": lambda c: c.remove_key(c.keys()[0].fingerprint),
    "resolve": lambda c: c.resolve(ME, "dev"),
    "continuation": lambda c: c.set_continuation("dev", "12h"),
    "idle": lambda c: c.set_idle("dev", "8h"),
    "stop time": lambda c: c.set_stop_time("dev", 4e9),
    "resize": lambda c: c.resize("dev", ["--mem=2G"]),
    "extend": lambda c: c.extend("dev", 3600),
    "jobs": lambda c: c.jobs("dev"),
    "connecting": lambda c: c.set_connecting("dev", ConnectPolicy(wait=30)),
    "doctor": lambda c: c.doctor(),
    "environments": lambda c: c.environments(),
    "environment": lambda c: c.make_environment(EnvironmentRequest(of="base@1")),
    "discard": lambda c: c.discard_environment(new_id()),
    "promote": lambda c: c.promote(new_id(), PromoteRequest(name="job", job="7")),
    "missing session": lambda c: c.session("none"),
    "missing start": lambda c: c.start("none", StartRequest()),
    "missing key": lambda c: c.remove_key("SHA256:none"),
    "health": lambda c: c.health(),
}


KEEPING: dict[str, Callable[[Client], object]] = {
    "snapshot": lambda c: c.snapshot("dev", volumes.SnapshotRequest(label="one")),
    "snapshots": lambda c: c.snapshots("dev"),
    "diff": lambda c: c.diff("dev", "one"),
    "diff over the profile": lambda c: c.diff("dev"),
    "diff of content": lambda c: c.diff("dev", "one", content=True),
    "size": lambda c: c.size("dev"),
    "verify": lambda c: c.verify("dev"),
    "flatten": lambda c: c.flatten("dev"),
    "rollback": lambda c: c.rollback("dev", volumes.RollbackRequest(snapshot="one")),
    "switch": lambda c: c.switch("dev", volumes.SwitchRequest(profile="base", fresh=True)),
    "clone": lambda c: c.clone("dev", volumes.CloneRequest(name="two", at="1")),
    "delete snapshot": lambda c: c.delete_snapshot("dev", "one"),
    "delete the clone": lambda c: c.delete("two"),
    "deleted": lambda c: c.deleted(),
    "restore": lambda c: c.restore("two", volumes.RestoreRequest(name="three")),
    "delete for good": lambda c: c.delete("three", purge=True),
    "gc": lambda c: c.gc(volumes.GcRequest()),
    "root": lambda c: c.root("dev"),
    "commit of root": lambda c: c.commit_root("dev"),
}
"""Asked in this order, each finds what the ones before have left."""

ANSWERS = {
    "snapshots": "list of SnapshotView",
    "diff": "DiffReport",
    "diff over the profile": "DiffReport",
    "diff of content": "DiffReport",
    "size": "SizeReport",
    "verify": "VerifyReport",
    "delete snapshot": "SnapshotView",
    "deleted": "list of SessionView",
    "gc": "GcReport",
    "commit of root": "ConflictError",
}
"""Of those whose answer is no SessionView."""


def test_what_a_session_keeps_can_be_asked_for_over_the_api(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.stopped(user=ME)
        ticking = asyncio.create_task(core.reconciler.run())
        async with serving(core) as path:
            client = Client(path)
            for word, call in KEEPING.items():
                if word in {"deleted", "restore", "gc"}:
                    while core.registry.in_states({SessionState.DELETING}):  # noqa: ASYNC110 - nobody is told of the end
                        await asyncio.sleep(0.01)
                assert await asyncio.to_thread(_kind, call, client) == ANSWERS.get(word, "SessionView"), word
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)

    asyncio.run(scenario())


def test_a_failed_operation_is_the_answer_with_its_own_status(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.stopped(user=ME)
        core.launcher.volumes.full = True
        async with serving(core) as path, calling(path) as client:
            answer = await client.post("/v1/sessions/dev/snapshots", json={})
            assert answer.status_code == 507
            body = refusal(answer)
            assert (body.reason, "berth gc" in body.hint) == ("no-space", True)
            shown = SessionView.model_validate((await client.get("/v1/sessions/dev")).json())
            assert shown.operation is not None
            assert (shown.state, shown.operation.status) == (SessionState.STOPPED, "failed")

    asyncio.run(scenario())


def _kind(call: Callable[[Client], object], client: Client) -> str:
    try:
        answer = call(client)
    except BerthError as error:
        return f"{type(error).__name__}"
    if isinstance(answer, list):
        return f"list of {type(answer[0]).__name__}" if answer else "empty list"
    return type(answer).__name__


@pytest.mark.parametrize("word", CALLS)
def test_the_controller_of_the_command_lines_tests_answers_in_the_same_types(directory: Path, word: str) -> None:
    state = SessionState.STOPPED if word in {"start", "delete"} else SessionState.READY

    async def scenario() -> str:
        core = make(directory, slurm={"longest_job": 86400})
        columns: dict[str, Any] = {"node": "c1", "port": 20001, "fingerprint": "SHA256:x", "host_key": ""}
        if word == "extend":
            columns |= {"job_id": core.scheduler.submit("berth-x"), "started_at": 0.0, "ends_at": 3600.0}
        digest = core.stores.find("base").digest
        core.registry.create(make_session(ME, state=state, digest=digest, **columns), EventEntry(ME, "start"))
        await core.launcher.prepare(ME, core.row(user=ME).id, "auto")
        if word in {"keys", "remove key"}:
            await core.keys.add(ME, HOST_KEY)
        async with serving(core) as path:
            return await asyncio.to_thread(_kind, CALLS[word], Client(path))

    real = asyncio.run(scenario())
    with ScriptedController() as scripted:
        scripted.sessions["dev"] = view(state=state)
        scripted.events = [EventView(at=1.0, actor="alice", session="dev", action="start")]
        scripted.jobs["dev"] = [JobView(submission=1, asked_at=1.0)]
        scripted.checks = [DoctorCheck(name="slurm", ok=True, detail="")]
        if word in {"keys", "remove key"}:
            Client(scripted.socket).add_key(HOST_KEY)
        assert _kind(CALLS[word], Client(scripted.socket)) == real


def test_every_call_of_the_api_is_one_of_these(directory: Path) -> None:
    """Or the gateway's own, or the rebuild; a new path must be added to the table above."""

    async def scenario() -> set[tuple[str, str]]:
        return set(every_call(make(directory)))

    with ScriptedController() as scripted:
        scripted.sessions["dev"] = view()
        for call in [*CALLS.values(), *KEEPING.values()]:
            scripted.keys["SHA256:x"] = KeyView(fingerprint="SHA256:x", algorithm="ssh-ed25519", source="berth")
            with contextlib.suppress(BerthError, ValueError):  # what it answers does not matter here
                call(Client(scripted.socket))
        asked = {(method.lower(), path.partition("?")[0]) for method, path, _ in scripted.asked}
    gateway = {("get", "/v1/gateway/keys/{user}"), ("post", "/v1/gateway/certificate"), ("post", "/v1/gateway/wait")}
    left = gateway | {("post", "/v1/rebuild")}
    for method, template in asyncio.run(scenario()) - left:
        pattern = re.compile(re.sub(r"\{[^}]*\}", ".+", template))
        assert any(method == m and pattern.fullmatch(path) for m, path in asked), (method, template)
