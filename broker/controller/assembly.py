"""Build the controller from its parts. Only this module knows which part needs which."""

from __future__ import annotations

import functools
import os
from functools import cached_property
from typing import TYPE_CHECKING

from broker.controller.api.dependencies import Services
from broker.controller.credentials.authorized_keys import AuthorizedKeys
from broker.controller.credentials.login import LoginPolicy
from broker.controller.doctor import controller_checks
from broker.controller.rebuild import rebuild
from broker.controller.reconcile.continuation import Continuation
from broker.controller.reconcile.deletion import DeletionRunner
from broker.controller.reconcile.idle import IdlePolicy
from broker.controller.reconcile.loop import Reconciler
from broker.controller.reconcile.maintenance import Maintenance
from broker.controller.reconcile.operation_runner import OperationRunner
from broker.controller.reconcile.stop import ScheduledStopPolicy
from broker.controller.reconcile.submission import Submitter
from broker.controller.registry.async_registry import AsyncRegistry
from broker.controller.sessions.connect import ConnectService
from broker.controller.sessions.connections import Connections
from broker.controller.sessions.deleted import DeletedSessions
from broker.controller.sessions.environments import Environments
from broker.controller.sessions.extend import ExtendService
from broker.controller.sessions.lifecycle import Sessions
from broker.controller.sessions.limits import Limits
from broker.controller.sessions.pending import PendingOperations
from broker.controller.sessions.policies import Policies
from broker.controller.sessions.resize import ResizeService
from broker.controller.sessions.snapshots import Snapshots
from broker.controller.site import Site
from broker.controller.wakeup import ChangeNotifier
from broker.ssh.certificates import CertificateAuthority
from profiles.image.store import Stores

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from broker.config.settings import Config
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.registry import Registry
    from slurm.scheduler import Scheduler


class Controller:
    """The parts between the API and the outside world: registry, Slurm, launcher.

    `process` has its life cycle. Each part is created at its first use, together with the parts that it needs.
    """

    def __init__(self, config: Config, registry: Registry, scheduler: Scheduler, launcher: LauncherClient) -> None:
        self.config = config
        self.registry = registry
        self.scheduler = scheduler
        self.launcher = launcher

    @cached_property
    def async_registry(self) -> AsyncRegistry:
        return AsyncRegistry(self.registry)

    @cached_property
    def authority(self) -> CertificateAuthority:
        return CertificateAuthority.load_or_create(self.config.state_dir / "ca_ed25519_key")

    @cached_property
    def user_authority(self) -> CertificateAuthority:
        return CertificateAuthority.load_or_create(self.config.state_dir / "user_ca_ed25519_key", "berth user CA")

    @cached_property
    def stores(self) -> Stores:
        return Stores(self.config.profiles.stores)

    @cached_property
    def keys(self) -> AuthorizedKeys:
        return AuthorizedKeys(self.async_registry, self.launcher, enough=self.config.ssh.login_with != "certificates")

    @cached_property
    def logins(self) -> LoginPolicy:
        return LoginPolicy(self.config.ssh, self.async_registry, self.keys, self.user_authority)

    @cached_property
    def changes(self) -> ChangeNotifier:
        return ChangeNotifier()

    @cached_property
    def submitter(self) -> Submitter:
        return Submitter(
            config=self.config,
            registry=self.async_registry,
            launcher=self.launcher,
            stores=self.stores,
            authority=self.authority,
            logins=self.logins,
            changes=self.changes,
        )

    @cached_property
    def maintenance(self) -> Maintenance:
        return Maintenance(
            settings=self.config.storage,
            registry=self.async_registry,
            stores=self.stores,
            launcher=self.launcher,
            changes=self.changes,
        )

    @cached_property
    def operations(self) -> OperationRunner:
        return OperationRunner(
            registry=self.async_registry,
            launcher=self.launcher,
            submitter=self.submitter,
            maintenance=self.maintenance,
            changes=self.changes,
        )

    @cached_property
    def deletion(self) -> DeletionRunner:
        return DeletionRunner(registry=self.async_registry, launcher=self.launcher, changes=self.changes)

    @cached_property
    def continuation(self) -> Continuation:
        return Continuation(settings=self.config.slurm, registry=self.async_registry, submitter=self.submitter)

    @cached_property
    def scheduled_stop(self) -> ScheduledStopPolicy:
        return ScheduledStopPolicy(self.async_registry)

    @cached_property
    def idle_policy(self) -> IdlePolicy:
        return IdlePolicy(self.async_registry, self.launcher)

    @cached_property
    def reconciler(self) -> Reconciler:
        return Reconciler(
            settings=self.config.slurm,
            registry=self.async_registry,
            scheduler=self.scheduler,
            submitter=self.submitter,
            operations=self.operations,
            deletion=self.deletion,
            maintenance=self.maintenance,
            continuation=self.continuation,
            scheduled_stop=self.scheduled_stop,
            idle_policy=self.idle_policy,
            changes=self.changes,
        )

    @cached_property
    def pending(self) -> PendingOperations:
        return PendingOperations(
            registry=self.async_registry, operations=self.operations, reconciler=self.reconciler, changes=self.changes
        )

    @cached_property
    def limits(self) -> Limits:
        return Limits(self.config.limits, self.async_registry, self.launcher)

    @cached_property
    def connections(self) -> Connections:
        return Connections(
            self.async_registry,
            days=self.config.registry.connection_days,
            records=self.config.registry.connection_records,
        )

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(
            registry=self.async_registry,
            connections=self.connections,
            stores=self.stores,
            launcher=self.launcher,
            submitter=self.submitter,
            reconciler=self.reconciler,
            limits=self.limits,
            changes=self.changes,
            grace=self.config.storage.deleted_grace,
        )

    @cached_property
    def connect(self) -> ConnectService:
        return ConnectService(
            registry=self.async_registry,
            sessions=self.sessions,
            launcher=self.launcher,
            reconciler=self.reconciler,
            logins=self.logins,
            changes=self.changes,
            settings=self.config.ssh,
        )

    @cached_property
    def policies(self) -> Policies:
        return Policies(
            registry=self.async_registry, launcher=self.launcher, reconciler=self.reconciler, changes=self.changes
        )

    @cached_property
    def extend(self) -> ExtendService:
        return ExtendService(
            settings=self.config.slurm,
            registry=self.async_registry,
            scheduler=self.scheduler,
            reconciler=self.reconciler,
        )

    @cached_property
    def resize(self) -> ResizeService:
        return ResizeService(
            registry=self.async_registry,
            stores=self.stores,
            submitter=self.submitter,
            reconciler=self.reconciler,
            limits=self.limits,
        )

    @cached_property
    def snapshots(self) -> Snapshots:
        return Snapshots(
            registry=self.async_registry,
            stores=self.stores,
            launcher=self.launcher,
            maintenance=self.maintenance,
            pending=self.pending,
            limits=self.limits,
        )

    @cached_property
    def deleted(self) -> DeletedSessions:
        return DeletedSessions(
            registry=self.async_registry, maintenance=self.maintenance, pending=self.pending, limits=self.limits
        )

    @cached_property
    def environments(self) -> Environments:
        return Environments(
            settings=self.config.storage,
            registry=self.async_registry,
            stores=self.stores,
            launcher=self.launcher,
            scheduler=self.scheduler,
            pending=self.pending,
            limits=self.limits,
        )

    def services(self, in_use: Callable[[], AbstractContextManager[None]]) -> Services:
        """Return the parts that the API calls. Each request enters `in_use`."""
        outside = (self.config, self.registry, self.scheduler, self.launcher)
        checked = (self.config, self.scheduler, self.launcher, self.stores, self.reconciler)
        return Services(
            config=self.config,
            sessions=self.sessions,
            connect=self.connect,
            policies=self.policies,
            extend=self.extend,
            resize=self.resize,
            connections=self.connections,
            snapshots=self.snapshots,
            deleted=self.deleted,
            environments=self.environments,
            keys=self.keys,
            logins=self.logins,
            site=Site(self.config, self.async_registry, self.authority, self.user_authority),
            checks=functools.partial(controller_checks, *checked),
            rebuild=functools.partial(rebuild, *outside),
            in_use=in_use,
            own_uid=os.getuid(),
        )

    async def finish(self, *, wait: bool = True) -> None:
        """Wait for running submissions, and cancel the other tasks, which the next controller repeats.

        Without `wait`, as when another controller may have the registry, cancel only.
        """
        if wait:
            await self.submitter.drain()
        for part in (self.operations, self.deletion, self.maintenance, self.environments, self.idle_policy):
            await part.close()
