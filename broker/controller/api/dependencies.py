"""Dependencies of the routes: the caller, the checked parts of a path, and the parts of the controller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Path

from broker.controller.api.departure import departure
from broker.controller.api.peer_credentials import Caller, caller
from broker.controller.api.route_access import DELEGATED_OPTIONS
from broker.controller.registry.web_models import Delegation
from broker.errors import RefusedError
from broker.names import GRANTEE_PATTERN, IDENTIFIER, NAME_PATTERN, REFERENCE_PATTERN, split_reference

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from broker.config.settings import Config
    from broker.controller.cluster.service import ClusterService
    from broker.controller.credentials.authorized_keys import AuthorizedKeys
    from broker.controller.credentials.login import LoginPolicy
    from broker.controller.sessions.clones import CloneService
    from broker.controller.sessions.connect import ConnectService
    from broker.controller.sessions.connections import Connections
    from broker.controller.sessions.container_changes import ContainerChanges
    from broker.controller.sessions.deleted import DeletedSessions
    from broker.controller.sessions.environments import Environments
    from broker.controller.sessions.extend import ExtendService
    from broker.controller.sessions.guests import GuestService
    from broker.controller.sessions.lifecycle import Sessions
    from broker.controller.sessions.offers import Offers
    from broker.controller.sessions.operator_service import OperatorService
    from broker.controller.sessions.policies import Policies
    from broker.controller.sessions.rename import RenameService
    from broker.controller.sessions.request_checks import RequestChecks
    from broker.controller.sessions.resize import ResizeService
    from broker.controller.sessions.shares import ShareService
    from broker.controller.sessions.snapshots import Snapshots
    from broker.controller.sessions.upgrades import UpgradeService
    from broker.controller.sessions.watch import SessionWatches
    from broker.controller.site import Site
    from broker.controller.web.web_access import WebAccess
    from broker.schema.sessions import Persistence
    from broker.schema.site import DoctorCheck, RebuildReport


Who = Annotated[Caller, Depends(caller)]


def delegation(who: Who) -> Delegation:
    """Return the login of the browser for which the request is. RefusedError for a request of a user's own process."""
    if who.delegation is None:
        raise RefusedError("only a logged-in browser can do this", hint="`berth portal` logs one in")
    return who.delegation


Delegate = Annotated[Delegation, Depends(delegation)]


Gone = Annotated[asyncio.Event, Depends(departure)]
"""The event that ends a call that waits."""


def session_name(who: Who, name: Annotated[str, Path(pattern=REFERENCE_PATTERN)]) -> str:
    """Return `NAME` for a session of the caller's own, `OWNER.NAME` for one of another user.

    RefusedError for a browser: it acts on its user's own sessions only.
    """
    owner, own = split_reference(name, who.user)
    if owner == who.user:
        return own
    if who.delegation is not None:
        raise RefusedError(
            "a browser may not do this with a session of another user",
            hint="use the command line, where the user's own login counts",
        )
    return name


SessionName = Annotated[str, Depends(session_name)]
"""The session of a path, as `session_name` returns it."""


DeletedName = Annotated[str, Path(alias="name", pattern=NAME_PATTERN)]
"""The name of a deleted session of the caller's own."""


GranteeName = Annotated[str, Path(alias="grantee", pattern=GRANTEE_PATTERN)]


EnvironmentId = Annotated[str, Path(pattern=f"^{IDENTIFIER.pattern}$")]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the controller that the routes call."""

    config: Config
    sessions: Sessions
    watches: SessionWatches
    connect: ConnectService
    policies: Policies
    extend: ExtendService
    resize: ResizeService
    rename: RenameService
    shares: ShareService
    guests: GuestService
    operators: OperatorService
    connections: Connections
    snapshots: Snapshots
    clones: CloneService
    container_changes: ContainerChanges
    upgrades: UpgradeService
    deleted: DeletedSessions
    environments: Environments
    offers: Offers
    request_checks: RequestChecks
    keys: AuthorizedKeys
    logins: LoginPolicy
    cluster: ClusterService
    site: Site
    web: WebAccess | None
    """None in personal mode, and for a site without web access."""
    checks: Callable[[str], Awaitable[list[DoctorCheck]]]
    """Takes the caller's user name."""
    rebuild: Callable[[], Awaitable[RebuildReport]]
    in_use: Callable[[], AbstractContextManager[None]]
    """Entered for the time of every request, so that a personal controller knows that it is in use."""
    own_uid: int


def refuse_policies(who: Caller, persistence: Persistence | None) -> None:
    """RefusedError if a browser's request changes what a session keeps: that needs the user's own login."""
    if who.delegation is not None and persistence is not None:
        raise RefusedError(
            "a browser may not change what a session keeps",
            hint="use the command line, as `berth start NAME --keep system`",
        )


def refuse_options(who: Caller, *options: str) -> None:
    """RefusedError if a browser's request sets an option of sbatch that is not in DELEGATED_OPTIONS."""
    if who.delegation is None:
        return
    for word in options:
        name = word.partition("=")[0]
        if name.removeprefix("--") not in DELEGATED_OPTIONS:
            raise RefusedError(
                f"a browser may not set the option {ascii(name[:60])[1:-1]}",
                hint="use the command line: `berth start NAME` takes every option that a session may use",
            )


def require_administrator(services: Services, who: Caller) -> None:
    if who.uid not in {0, services.own_uid}:
        raise RefusedError("only root and the service account may do this", hint="ask an administrator of the site")


def is_gateway(services: Services, who: Caller) -> bool:
    return services.config.gateway.enabled and who.user == services.config.gateway.account


def require_gateway(services: Services, who: Caller) -> None:
    if not is_gateway(services, who):
        raise RefusedError("only the gateway may send this request")
