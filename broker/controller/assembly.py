"""The controller's parts put together: the one place that knows which of them needs which."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from broker.controller.api.dependencies import Services
from broker.controller.credentials.authorized_keys import AuthorizedKeys
from broker.controller.credentials.login import Logins
from broker.controller.doctor import controller_checks
from broker.controller.rebuild import rebuild
from broker.controller.reconcile.continuation import Continuation
from broker.controller.reconcile.deletion import Deletion
from broker.controller.reconcile.idle import Idleness
from broker.controller.reconcile.loop import Reconciler
from broker.controller.reconcile.maintenance import Upkeep
from broker.controller.reconcile.operations import Operator
from broker.controller.reconcile.scheduled_stop import Stopping
from broker.controller.reconcile.submission import Submitter
from broker.controller.sessions.connect import Connecting
from broker.controller.sessions.connections import Connections
from broker.controller.sessions.deleted import Deleted
from broker.controller.sessions.environments import Batch
from broker.controller.sessions.extend import Extending
from broker.controller.sessions.lifecycle import Sessions
from broker.controller.sessions.limits import Limits
from broker.controller.sessions.pending import Answering
from broker.controller.sessions.policies import Policies
from broker.controller.sessions.resize import Resizing
from broker.controller.sessions.snapshots import Snapshots
from broker.controller.site import Site
from broker.controller.wakeup import Changes
from broker.ssh.certificates import CertificateAuthority
from profiles.store import Stores

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from broker.config.settings import Config
    from broker.controller.launcher_client.client import Launcher
    from broker.controller.registry.registry import Registry
    from slurm.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Controller:
    """Everything between the API and the outside world: registry, Slurm, launcher. Its life cycle is `daemon`'s."""

    config: Config
    registry: Registry
    scheduler: Scheduler
    launcher: Launcher
    stores: Stores
    authority: CertificateAuthority
    user_authority: CertificateAuthority
    keys: AuthorizedKeys
    logins: Logins
    changes: Changes
    submitter: Submitter
    upkeep: Upkeep
    operator: Operator
    deletion: Deletion
    idleness: Idleness
    reconciler: Reconciler
    sessions: Sessions
    connecting: Connecting
    policies: Policies
    extending: Extending
    resizing: Resizing
    connections: Connections
    snapshots: Snapshots
    deleted: Deleted
    batch: Batch

    @classmethod
    def assemble(cls, config: Config, registry: Registry, scheduler: Scheduler, launcher: Launcher) -> Self:
        """Make the parts; the certificate authority's key is made at first use. Nothing runs yet."""
        authority = CertificateAuthority.load_or_create(config.state_dir / "ca_ed25519_key")
        user_authority = CertificateAuthority.load_or_create(config.state_dir / "user_ca_ed25519_key", "berth user CA")
        stores = Stores(config.profiles.stores)
        keys = AuthorizedKeys(registry, launcher, enough=config.ssh.login_with != "certificates")
        logins = Logins(config.ssh, registry, keys, user_authority)
        changes = Changes()
        submitter = Submitter(
            config=config,
            registry=registry,
            launcher=launcher,
            stores=stores,
            authority=authority,
            logins=logins,
            changes=changes,
        )
        upkeep = Upkeep(settings=config.storage, registry=registry, stores=stores, launcher=launcher, changes=changes)
        operator = Operator(registry=registry, launcher=launcher, submitter=submitter, upkeep=upkeep, changes=changes)
        deletion = Deletion(registry=registry, launcher=launcher, changes=changes)
        continuation = Continuation(settings=config.slurm, registry=registry, submitter=submitter)
        stopping = Stopping(registry)
        idleness = Idleness(registry, launcher)
        reconciler = Reconciler(
            settings=config.slurm,
            registry=registry,
            scheduler=scheduler,
            submitter=submitter,
            operator=operator,
            deletion=deletion,
            upkeep=upkeep,
            continuation=continuation,
            stopping=stopping,
            idleness=idleness,
            changes=changes,
        )
        answering = Answering(registry=registry, operator=operator, reconciler=reconciler, changes=changes)
        limits = Limits(config.limits, registry, launcher)
        connections = Connections(
            registry, days=config.registry.connection_days, records=config.registry.connection_records
        )
        sessions = Sessions(
            registry=registry,
            connections=connections,
            stores=stores,
            launcher=launcher,
            submitter=submitter,
            reconciler=reconciler,
            limits=limits,
            changes=changes,
            grace=config.storage.deleted_grace,
        )
        connecting = Connecting(
            registry=registry,
            sessions=sessions,
            launcher=launcher,
            reconciler=reconciler,
            logins=logins,
            changes=changes,
            settings=config.ssh,
        )
        policies = Policies(registry=registry, launcher=launcher, reconciler=reconciler, changes=changes)
        extending = Extending(settings=config.slurm, registry=registry, scheduler=scheduler, reconciler=reconciler)
        resizing = Resizing(registry=registry, stores=stores, submitter=submitter, reconciler=reconciler, limits=limits)
        snapshots = Snapshots(
            registry=registry, stores=stores, launcher=launcher, upkeep=upkeep, answering=answering, limits=limits
        )
        deleted = Deleted(registry=registry, upkeep=upkeep, answering=answering, limits=limits)
        batch = Batch(
            settings=config.storage,
            registry=registry,
            stores=stores,
            launcher=launcher,
            scheduler=scheduler,
            answering=answering,
            limits=limits,
        )
        return cls(
            config=config,
            registry=registry,
            scheduler=scheduler,
            launcher=launcher,
            stores=stores,
            authority=authority,
            user_authority=user_authority,
            keys=keys,
            logins=logins,
            changes=changes,
            submitter=submitter,
            upkeep=upkeep,
            operator=operator,
            deletion=deletion,
            idleness=idleness,
            reconciler=reconciler,
            sessions=sessions,
            connecting=connecting,
            policies=policies,
            extending=extending,
            resizing=resizing,
            connections=connections,
            snapshots=snapshots,
            deleted=deleted,
            batch=batch,
        )

    def services(self, in_use: Callable[[], AbstractContextManager[None]]) -> Services:
        """What the API hands over to; `in_use` is entered for every request."""
        outside = (self.config, self.registry, self.scheduler, self.launcher)
        looked_at = (self.config, self.scheduler, self.launcher, self.stores, self.reconciler)
        return Services(
            config=self.config,
            sessions=self.sessions,
            connecting=self.connecting,
            policies=self.policies,
            extending=self.extending,
            resizing=self.resizing,
            connections=self.connections,
            snapshots=self.snapshots,
            deleted=self.deleted,
            batch=self.batch,
            keys=self.keys,
            logins=self.logins,
            site=Site(self.config, self.registry, self.authority, self.user_authority),
            checks=functools.partial(controller_checks, *looked_at),
            rebuild=functools.partial(rebuild, *outside),
            in_use=in_use,
            own_uid=os.getuid(),
        )

    async def finish(self, *, wait: bool = True) -> None:
        """Wait for what was begun, however long it takes; without `wait`, as when another controller may have the
        registry, leave the rest to the next one.
        """
        if wait:
            await self.submitter.drain()
        for part in (self.operator, self.deletion, self.upkeep, self.batch, self.idleness):
            await part.close()
