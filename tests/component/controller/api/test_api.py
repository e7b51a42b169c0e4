"""Every call of the API by the client: the real controller and the one of the command line's tests answer alike."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from broker.client.client import Client
from broker.controller.api.route_access import BERTH_WEB
from broker.controller.registry.registry import EventEntry
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.names import new_id
from broker.schema import volumes
from broker.schema.admin import AuditReport, NodeReport, OperatorSessionList, OperatorSessionView, UserLimits
from broker.schema.checks import CheckRequest
from broker.schema.environments import EnvironmentRequest, PromoteRequest
from broker.schema.grants import GrantList, GrantView, Role, SharedList, ShareRequest
from broker.schema.login import KeyView, UserCertificateRequest
from broker.schema.sessions import ConnectPolicy, JobView, RenameRequest, SessionState, StartRequest
from broker.schema.site import DoctorCheck, EventView
from broker.schema.web import BrowserList, LinkAnswer, LogoutAnswer
from tests.component.controller.api.api_server import ME, OTHER, a_connection, every_call, make, serving
from tests.fakes.controller import ScriptedController, view
from tests.fakes.rows import HOST_KEY, make_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

    from broker.schema.watch import SessionsEvent


def _first_event(client: Client) -> SessionsEvent:
    with client.watch() as watch:
        return next(watch)


PAGE = "https://portal.apps.example.org/login"

CALLS: dict[str, Callable[[Client], object]] = {
    "watch": _first_event,
    "site": lambda c: c.site(),
    "cluster": lambda c: c.cluster(),
    "sessions": lambda c: c.sessions(),
    "session": lambda c: c.session("dev"),
    "session, refreshed": lambda c: c.session("dev", refresh=True),
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
    "resize that is withdrawn": lambda c: (c.resize("dev", ["--mem=2G"]), c.withdraw_resize("dev"))[1],
    "follow": lambda c: c.set_follow("dev", None),
    "upgrade": lambda c: c.upgrade("dev", volumes.UpgradeRequest()),
    "check": lambda c: c.check("dev", CheckRequest(restart=True)),
    "check of what cannot be": lambda c: c.check("dev", CheckRequest(delete_snapshot="nosuch")),
    "extend": lambda c: c.extend("dev", 3600),
    "jobs": lambda c: c.jobs("dev"),
    "connecting": lambda c: c.set_connecting("dev", ConnectPolicy(wait=30)),
    "doctor": lambda c: c.doctor(),
    "share": lambda c: c.share("dev", OTHER, ShareRequest(role="operate")),
    "share in a role that is off": lambda c: c.share("dev", OTHER, ShareRequest(role="pair")),
    "unshare": lambda c: c.unshare("dev", OTHER),
    "grants of one": lambda c: c.grants("dev"),
    "grants": lambda c: c.grants(),
    "shared": lambda c: c.shared_list(),
    "leave": lambda c: c.leave("zoe.dev"),
    "all sessions": lambda c: c.all_sessions(),
    "stop as operator": lambda c: c.stop_as_operator(f"{ME}.dev", "why"),
    "extend as operator": lambda c: c.extend_as_operator(f"{ME}.dev", 3600, "why"),
    "message as operator": lambda c: c.message_as_operator(f"{ME}.dev", "why"),
    "drain": lambda c: c.drain("c1", "why"),
    "message to a node": lambda c: c.message_node("c1", "why"),
    "limits of a user": lambda c: c.user_limits(ME),
    "audit": lambda c: c.audit(),
    "environments": lambda c: c.environments(),
    "environment": lambda c: c.make_environment(EnvironmentRequest(of="base@1")),
    "discard": lambda c: c.discard_environment(new_id()),
    "promote": lambda c: c.promote(new_id(), PromoteRequest(name="job", job="7")),
    "link": lambda c: c.make_link(None),
    "browsers": lambda c: c.browsers(),
    "log browsers out": lambda c: c.log_browsers_out(None),
    "missing browser": lambda c: c.log_browsers_out(new_id()),
    "missing session": lambda c: c.session("none"),
    "missing start": lambda c: c.start("none", StartRequest()),
    "missing restart": lambda c: c.restart("none"),
    "missing key": lambda c: c.remove_key("SHA256:none"),
    "health": lambda c: c.health(),
}


KEEPING: dict[str, Callable[[Client], object]] = {
    "snapshot": lambda c: c.snapshot("dev", volumes.SnapshotRequest(label="one")),
    "snapshots": lambda c: c.snapshots("dev"),
    "shared content": lambda c: c.shared_content("dev", "one"),
    "diff": lambda c: c.diff("dev", "one"),
    "diff over the profile": lambda c: c.diff("dev"),
    "diff of two snapshots": lambda c: c.diff("dev", "one", "one"),
    "diff of content": lambda c: c.diff("dev", "one", content=True),
    "size": lambda c: c.size("dev"),
    "verify": lambda c: c.verify("dev"),
    "flatten": lambda c: c.flatten("dev"),
    "rollback": lambda c: c.rollback("dev", volumes.RollbackRequest(snapshot="one")),
    "switch": lambda c: c.switch("dev", volumes.SwitchRequest(profile="base", fresh=True)),
    "clone": lambda c: c.clone("dev", volumes.CloneRequest(name="two", at="1")),
    "delete snapshot": lambda c: c.delete_snapshot("dev", "one"),
    "delete the clone": lambda c: c.delete("two"),
    "deleted": lambda c: c.deleted_sessions(),
    "restore": lambda c: c.restore("two", volumes.RestoreRequest(name="three")),
    "rename": lambda c: c.rename("three", RenameRequest(name="four")),
    "delete for good": lambda c: c.delete("four", purge=True),
    "gc": lambda c: c.gc(volumes.GcRequest()),
    "root": lambda c: c.root("dev"),
    "commit of root": lambda c: c.commit_root("dev"),
}
"""Asked in this order, each finds what the ones before have left."""


ANSWERS = {
    "snapshots": "list of SnapshotView",
    "shared content": "SharedContent",
    "diff": "DiffReport",
    "diff over the profile": "DiffReport",
    "diff of content": "DiffReport",
    "diff of two snapshots": "DiffReport",
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


def operators_answers() -> dict[str, BaseModel]:
    """The scripted answers to an operator."""
    session = OperatorSessionView(
        session=f"{ME}.dev", owner=ME, name="dev", state=SessionState.READY, node="c1", created_at=1.0
    )
    report = NodeReport(node="c1", done=[session])
    acts = {f"POST /v1/admin/sessions/{ME}.dev/{verb}": session for verb in ("stop", "extend", "message")}
    return acts | {
        "GET /v1/admin/sessions": OperatorSessionList(sessions=[session]),
        "POST /v1/admin/nodes/c1/drain": report,
        "POST /v1/admin/nodes/c1/message": report,
        f"GET /v1/admin/users/{ME}/limits": UserLimits(user=ME, limits=[]),
        "GET /v1/admin/events": AuditReport(events=[]),
    }


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
        web = {"url": "https://apps.example.org", "runtime_dir": directory, "minimum_uid": 0}
        operators = {"group": f"@{grp.getgrgid(os.getgid()).gr_name}"}
        core = make(directory, slurm={"longest_job": 86400}, web=web, operators=operators)
        columns: dict[str, Any] = {"node": "c1", "port": 20001, "fingerprint": "SHA256:x", "host_key": ""}
        if word.startswith("extend"):
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
        link = LinkAnswer(url=PAGE, login_url=PAGE, code="ABCDE-FGHJK", expires_at=1.0)
        scripted.answers |= {
            "POST /v1/web/links": link,
            "GET /v1/web/browsers": BrowserList(browsers=[]),
            "DELETE /v1/web/browsers": LogoutAnswer(ended=[], closed=True),
            "GET /v1/shared": SharedList(sessions=[]),
            "GET /v1/grants": GrantList(grants=[]),
            "GET /v1/sessions/dev/grants": GrantList(grants=[]),
            f"PUT /v1/sessions/dev/grants/{OTHER}": GrantView(
                session="dev", grantee=OTHER, role=Role.OPERATE, granted_at=1.0
            ),
        }
        scripted.answers |= operators_answers()
        scripted.failures |= {
            f"DELETE /v1/sessions/dev/grants/{OTHER}": NotFoundError(f"dev is not shared with {OTHER}"),
            "POST /v1/sessions/dev/upgrade": ConflictError("dev follows no version"),
            "DELETE /v1/shared/zoe.dev": NotFoundError("zoe has no session named dev that you may use"),
        }
        if word == "share in a role that is off":
            scripted.failures[f"PUT /v1/sessions/dev/grants/{OTHER}"] = RefusedError(
                "this site does not have the role pair"
            )
        if word in {"keys", "remove key"}:
            Client(scripted.socket).add_key(HOST_KEY)
        assert _kind(CALLS[word], Client(scripted.socket)) == real


def test_every_call_of_the_api_is_one_of_these(directory: Path) -> None:
    """Or those of gateway and berth-web, or the rebuild; a new path must be added to the table above."""

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
    gateway |= {("post", "/v1/gateway/guests")}
    browser = {
        ("delete", "/v1/web/delegation"),
        ("post", "/v1/web/visits"),
        ("post", "/v1/web/watches"),
        ("get", "/v1/profiles"),
        ("get", "/v1/sessions/{name}/services"),
        ("get", "/v1/shared/services"),
    }
    berth_web = {(method.lower(), path) for method, path in BERTH_WEB}
    left = gateway | browser | berth_web | {("post", "/v1/rebuild")}
    for method, template in asyncio.run(scenario()) - left:
        pattern = re.compile(re.sub(r"\{[^}]*\}", ".+", template))
        assert any(method == m and pattern.fullmatch(path) for m, path in asked), (method, template)
