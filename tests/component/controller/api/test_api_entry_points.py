"""Every route has its place in the matrix of access, and those that let a guest in do what the access function says."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.controller import accounts as accounts_module
from broker.controller.api.route_access import BERTH_WEB, DELEGATED
from broker.controller.cluster import groups as groups_module
from broker.controller.sessions.access import ENTRY_ROLES, ROLE_PERMISSIONS
from broker.schema.grants import Role
from broker.schema.permissions import Permission
from tests.component.controller.api.api_server import calling, every_call, serving
from tests.component.controller.api.test_api_sharing import ROUTES, add_session, ready_core
from tests.fakes.core import publish

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.core import Core

BY_NAME = re.compile(r"/v1/(sessions|shared)/\{name\}")
"""Routes about one session: test_api_sharing.py and test_api_guests.py call all of them for every role and state."""
OPERATORS = re.compile(r"/v1/admin/")
"""test_api_operators.py calls all of them for operators and others."""
SERVICE_ACCOUNTS = re.compile(r"/v1/(gateway|ca)/|/v1/(rebuild|health)$")
"""For the gateway, or for administrators: test_api_identity.py."""
SHOWN = {("get", "/v1/shared"), ("get", "/v1/shared/services")}
"""Routes that show only what other users share."""
WAYS_IN = {
    ("post", "/v1/resolve"): frozenset(ENTRY_ROLES.values()),
    ("post", "/v1/web/links"): frozenset({Permission.VISIT}),
    ("post", "/v1/connections"): frozenset(ENTRY_ROLES.values()),
}
"""Routes that let a guest into a session, and the permissions of which one is needed. Visits are in
test_api_guests.py."""
BROWSERS = {("post", "/v1/web/visits"), ("post", "/v1/web/watches"), ("delete", "/v1/web/delegation")}
"""They need a browser's login: test_api_guests.py and test_access.py."""
OWN = {
    ("get", "/v1/ca"),
    ("get", "/v1/certificates"),
    ("post", "/v1/certificates"),
    ("delete", "/v1/certificates"),
    ("get", "/v1/cluster"),
    ("get", "/v1/deleted"),
    ("post", "/v1/deleted/{name}/restore"),
    ("get", "/v1/doctor"),
    ("get", "/v1/environments"),
    ("post", "/v1/environments"),
    ("delete", "/v1/environments/{environment}"),
    ("post", "/v1/environments/{environment}/promote"),
    ("get", "/v1/events"),
    ("post", "/v1/gc"),
    ("get", "/v1/grants"),
    ("get", "/v1/keys"),
    ("post", "/v1/keys"),
    ("delete", "/v1/keys/{fingerprint}"),
    ("get", "/v1/profiles"),
    ("get", "/v1/sessions"),
    ("get", "/v1/sessions/watch"),
    ("get", "/v1/site"),
    ("get", "/v1/web/browsers"),
    ("delete", "/v1/web/browsers"),
    ("delete", "/v1/web/browsers/{browser}"),
}
"""Routes about what is the caller's own. No grant counts there, and no session of another user can be named."""


@pytest.fixture(autouse=True)
def _caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is bob for the controller, and every account exists."""
    monkeypatch.setattr(accounts_module, "_name_of", lambda _: "bob")
    monkeypatch.setattr(groups_module, "_group_names", lambda _: frozenset())
    monkeypatch.setattr(groups_module, "_has_account", lambda _: True)


async def shared_site(directory: Path, *roles: Role) -> tuple[Core, str]:
    """A site with web access, on which bob has these roles in a ready session of alice's; its id."""
    web = {"url": "https://apps.example.org", "account": "berth-web", "runtime_dir": directory / "web"}
    core = ready_core(directory, web=web | {"minimum_uid": 0}, sharing={"roles": list(Role)})
    publish(core.stores.stores[0], version="2", extra="services:\n  - {name: board, command: exec board}\n")
    core.launcher.authorized_keys["bob"] = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    session_id = await add_session(core, [], version="2")
    objects: dict[Role, dict[str, object]] = {Role.PORT: {"service": "board"}, Role.SNAPSHOT: {"snapshot": 1}}
    usual: dict[str, object] = {"grantee": "bob", "until": None, "granted_at": 1.0}
    grants = [usual | {"role": role} | objects.get(role, {}) for role in roles]
    core.registry.update(session_id, lambda _: ({"grants": grants}, None))
    return core, session_id


def test_each_route_has_one_place(directory: Path) -> None:
    async def scenario() -> set[tuple[str, str]]:
        return set(every_call((await shared_site(directory))[0]))

    berth_web = {(method.lower(), path) for method, path in BERTH_WEB}
    listed = [SHOWN, WAYS_IN.keys(), BROWSERS, OWN, berth_web]
    for route in sorted(asyncio.run(scenario())):
        places = [route in each for each in listed]
        places += [bool(pattern.match(route[1])) for pattern in (BY_NAME, OPERATORS, SERVICE_ACCOUNTS)]
        assert sum(places) == 1, f"{route} has no place in the matrix of access, or several"
    assert not {(method.lower(), path) for method, path in DELEGATED} & berth_web


def test_each_role_has_its_routes(directory: Path) -> None:
    """Those of `port` are in test_api_guests.py: to leave, and nothing else."""
    assert ROUTES.keys() | {Role.PORT} == set(Role)
    assert directory


@pytest.mark.parametrize("role", list(Role))
def test_ways_in_are_open_as_the_access_function_says(directory: Path, role: Role) -> None:
    async def scenario() -> None:
        core, session_id = await shared_site(directory, role)
        row = core.registry.get(session_id)
        assert row is not None
        record = {"id": "0" * 26, "user": "bob", "session_id": session_id, "generation": row.generation}
        bodies = {
            "/v1/resolve": {"user": "bob", "target": "alice.dev.berth", "hold": False},
            "/v1/web/links": {"target": {"session": "alice.dev", "service": "board"}},
            "/v1/connections": {"connections": [record | {"began_at": 1.0}]},
        }
        async with serving(core) as path, calling(path) as client:
            for (method, route), needed in WAYS_IN.items():
                answer = await client.request(method, route, json=bodies[route])
                is_open = bool(ROLE_PERMISSIONS[role] & needed)
                assert (answer.status_code in {200, 201}) is is_open, (route, answer.text)
                assert is_open or answer.status_code in {403, 404}
                if route == "/v1/resolve" and is_open:
                    assert answer.json()["role"] == role

    asyncio.run(scenario())


def test_routes_about_what_is_the_callers_own_show_no_other_session(directory: Path) -> None:
    """Also not to a guest with every role."""

    async def scenario() -> None:
        core, session_id = await shared_site(directory, *Role)
        before = core.registry.get(session_id)
        async with serving(core) as path, calling(path) as client:
            for method, route in sorted(OWN - {("get", "/v1/sessions/watch")}):
                url = re.sub(r"\{[a-z]+\}", "dev" if "deleted" in route else session_id, route)
                answer = await client.request(method, url, json={} if method == "post" else None)
                assert answer.status_code < 500, (method, route, answer.text)
                shown = answer.text.replace(session_id, "", int(session_id in url))
                hidden = [session_id] if route == "/v1/cluster" else [session_id, "alice"]  # as squeue(1) shows users
                assert not [word for word in hidden if word in shown], (method, route, answer.text)
        assert core.registry.get(session_id) == before

    asyncio.run(scenario())
