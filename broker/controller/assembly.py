"""Build the controller from its parts. This module and `reconcile_parts` alone know which part needs which."""

from __future__ import annotations

import asyncio
import functools
import os
from functools import cached_property
from typing import TYPE_CHECKING

from broker.config.file import Mode
from broker.controller.api.dependencies import Services
from broker.controller.doctor import controller_checks
from broker.controller.rebuild import rebuild
from broker.controller.reconcile_parts import ReconcileParts
from broker.controller.sessions.access import SessionAccess
from broker.controller.sessions.added_services import AddedServices
from broker.controller.sessions.clones import CloneService
from broker.controller.sessions.connect import ConnectService
from broker.controller.sessions.connections import Connections
from broker.controller.sessions.container_changes import ContainerChanges
from broker.controller.sessions.deleted import DeletedSessions
from broker.controller.sessions.environments import Environments
from broker.controller.sessions.extend import ExtendService
from broker.controller.sessions.guests import GuestService
from broker.controller.sessions.history_sweep import HistorySweep
from broker.controller.sessions.lifecycle import Sessions
from broker.controller.sessions.limits import Limits
from broker.controller.sessions.offers import Offers
from broker.controller.sessions.operation_requests import OperationRequests
from broker.controller.sessions.operator_service import OperatorService
from broker.controller.sessions.pending import PendingOperations
from broker.controller.sessions.policies import Policies
from broker.controller.sessions.rename import RenameService
from broker.controller.sessions.request_checks import RequestChecks
from broker.controller.sessions.resize import ResizeService
from broker.controller.sessions.role_policy import RolePolicy
from broker.controller.sessions.shared_clones import SharedCloneService
from broker.controller.sessions.shared_services import SharedServices
from broker.controller.sessions.shares import ShareService
from broker.controller.sessions.snapshot_lookup import SnapshotLookup
from broker.controller.sessions.snapshots import Snapshots
from broker.controller.sessions.start_estimates import StartEstimates
from broker.controller.sessions.upgrades import UpgradeService
from broker.controller.sessions.watch import SessionWatches
from broker.controller.web.web_access import WebAccess
from broker.schema.grants import Role

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class Controller(ReconcileParts):
    """The parts between the API and the outside world: registry, Slurm, launcher.

    `process` has its life cycle. Each part is created at its first use, together with the parts that it needs.
    """

    @cached_property
    def pending(self) -> PendingOperations:
        return PendingOperations(
            registry=self.async_registry, operations=self.operations, reconciler=self.reconciler, changes=self.changes
        )

    @cached_property
    def access(self) -> SessionAccess:
        return SessionAccess(
            self.async_registry,
            self.groups,
            self.config.has_sharing,
            operators=self.config.operators.group,
            is_personal=self.config.mode is Mode.PERSONAL,
            roles=frozenset(Role(rule.role) for rule in self.config.sharing.roles),
            policies={Role(rule.role): RolePolicy.of(rule) for rule in self.config.sharing.roles if rule.is_limited},
        )

    @cached_property
    def guests(self) -> GuestService:
        return GuestService(
            access=self.access,
            registry=self.async_registry,
            launcher=self.launcher,
            logins=self.logins,
            changes=self.changes,
        )

    @cached_property
    def shares(self) -> ShareService:
        return ShareService(
            settings=self.config.sharing,
            access=self.access,
            registry=self.async_registry,
            manifests=self.manifests,
            observed=self.observed,
            lookup=self.snapshot_lookup,
            services=self.shared_services,
            origins=self.config.origins,
            apply=self._apply_grants,
        )

    async def _apply_grants(self, session_id: str) -> bool:
        """Close the connections of a session's guests that its grants do not allow now. Return whether that is done."""
        closing = [self.guests.apply(session_id)]
        if self.web is not None:
            closing.append(self.web.guests.end_refused(session_id))
        return all(await asyncio.gather(*closing))

    @cached_property
    def shared_services(self) -> SharedServices:
        return SharedServices(self.images, self.added_services)

    @cached_property
    def limits(self) -> Limits:
        return Limits(self.config.limits, self.async_registry, self.launcher)

    @cached_property
    def connections(self) -> Connections:
        return Connections(
            self.access,
            self.async_registry,
            self.launcher,
            self.open_connections,
            guests=self.guests,
            settings=self.config.registry,
        )

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(
            access=self.access,
            registry=self.async_registry,
            connections=self.connections,
            images=self.images,
            launcher=self.launcher,
            submitter=self.submitter,
            reconciler=self.reconciler,
            limits=self.limits,
            changes=self.changes,
            upgrades=self.upgrades,
            grace=self.config.storage.deleted_grace,
        )

    @cached_property
    def watches(self) -> SessionWatches:
        return SessionWatches(
            settings=self.config.watch, registry=self.async_registry, observed=self.observed, changes=self.changes
        )

    @cached_property
    def connect(self) -> ConnectService:
        return ConnectService(
            access=self.access,
            registry=self.async_registry,
            sessions=self.sessions,
            reconciler=self.reconciler,
            credentials=self.installed_credentials,
            guests=self.guests,
            changes=self.changes,
            settings=self.config.ssh,
        )

    @cached_property
    def policies(self) -> Policies:
        return Policies(
            access=self.access, registry=self.async_registry, manifests=self.manifests, reconciler=self.reconciler
        )

    @cached_property
    def extend(self) -> ExtendService:
        return ExtendService(
            settings=self.config.slurm,
            access=self.access,
            registry=self.async_registry,
            scheduler=self.scheduler,
            reconciler=self.reconciler,
        )

    @cached_property
    def operators(self) -> OperatorService:
        return OperatorService(
            access=self.access,
            registry=self.async_registry,
            extend=self.extend,
            limits=self.limits,
            launcher=self.launcher,
            reconciler=self.reconciler,
        )

    @cached_property
    def start_estimates(self) -> StartEstimates:
        return StartEstimates(submitter=self.submitter, launcher=self.launcher, scheduler=self.scheduler)

    @cached_property
    def resize(self) -> ResizeService:
        return ResizeService(
            access=self.access,
            registry=self.async_registry,
            images=self.images,
            submitter=self.submitter,
            reconciler=self.reconciler,
            limits=self.limits,
            estimates=self.start_estimates,
            rewriter=self.file_rewriter,
        )

    @cached_property
    def rename(self) -> RenameService:
        return RenameService(access=self.access, registry=self.async_registry, pending=self.pending)

    @cached_property
    def snapshots(self) -> Snapshots:
        return Snapshots(
            access=self.access,
            registry=self.async_registry,
            images=self.images,
            launcher=self.launcher,
            requests=self.operation_requests,
            lookup=self.snapshot_lookup,
            maintenance=self.maintenance,
            pending=self.pending,
            limits=self.limits,
            shares=self.shares,
        )

    @cached_property
    def shared_clones(self) -> SharedCloneService:
        return SharedCloneService(
            access=self.access,
            registry=self.async_registry,
            images=self.images,
            submitter=self.submitter,
            lookup=self.snapshot_lookup,
            pending=self.pending,
            limits=self.limits,
            driver=self.config.storage.driver,
        )

    @cached_property
    def clones(self) -> CloneService:
        return CloneService(
            access=self.access,
            registry=self.async_registry,
            copies=self.copies,
            images=self.images,
            submitter=self.submitter,
            requests=self.operation_requests,
            lookup=self.snapshot_lookup,
            pending=self.pending,
            limits=self.limits,
            shared=self.shared_clones,
        )

    @cached_property
    def container_changes(self) -> ContainerChanges:
        return ContainerChanges(
            access=self.access,
            images=self.images,
            submitter=self.submitter,
            requests=self.operation_requests,
            pending=self.pending,
            limits=self.limits,
        )

    @cached_property
    def upgrades(self) -> UpgradeService:
        parts = (self.access, self.async_registry, self.images, self.submitter, self.manifests)
        return UpgradeService(*parts, offers=self.upgrade_offers, requests=self.operation_requests)

    @cached_property
    def operation_requests(self) -> OperationRequests:
        return OperationRequests(
            registry=self.async_registry, images=self.images, submitter=self.submitter, pending=self.pending
        )

    @cached_property
    def snapshot_lookup(self) -> SnapshotLookup:
        return SnapshotLookup(self.launcher, self.async_registry)

    @cached_property
    def request_checks(self) -> RequestChecks:
        return RequestChecks(
            sessions=self.sessions,
            snapshots=self.snapshots,
            container_changes=self.container_changes,
            upgrades=self.upgrades,
            resize=self.resize,
            images=self.images,
            submitter=self.submitter,
            estimates=self.start_estimates,
            pending=self.pending,
        )

    @cached_property
    def deleted(self) -> DeletedSessions:
        return DeletedSessions(
            registry=self.async_registry, maintenance=self.maintenance, pending=self.pending, limits=self.limits
        )

    @cached_property
    def history_sweep(self) -> HistorySweep:
        return HistorySweep(self.async_registry, days=self.config.registry.history_days)

    @cached_property
    def environments(self) -> Environments:
        return Environments(
            settings=self.config.storage,
            access=self.access,
            registry=self.async_registry,
            copies=self.copies,
            images=self.images,
            launcher=self.launcher,
            scheduler=self.scheduler,
            pending=self.pending,
            limits=self.limits,
            lookup=self.snapshot_lookup,
        )

    @cached_property
    def offers(self) -> Offers:
        return Offers(access=self.access, registry=self.async_registry, images=self.images, added=self.added_services)

    @cached_property
    def added_services(self) -> AddedServices:
        return AddedServices(self.launcher)

    @cached_property
    def web(self) -> WebAccess | None:
        """Return the parts of web access; None in personal mode, and for a site without `web.url`."""
        if self.web_authority is None:
            return None
        return WebAccess.build(
            self.config,
            self.web_authority,
            access=self.access,
            registry=self.async_registry,
            images=self.images,
            credentials=self.installed_credentials,
            added=self.added_services,
            shared=self.shared_services,
            site=self.site,
            observed=self.observed,
            changes=self.changes,
            watches=self.watches,
        )

    def services(self, in_use: Callable[[], AbstractContextManager[None]]) -> Services:
        """Return the parts that the API calls. Each request enters `in_use`."""
        checked = (self.config, self.scheduler, self.launcher, self.stores, self.reconciler)
        further = None if self.web is None or self.web.provider is None else self.web.provider.doctor_check
        return Services(
            config=self.config,
            sessions=self.sessions,
            watches=self.watches,
            connect=self.connect,
            policies=self.policies,
            extend=self.extend,
            resize=self.resize,
            rename=self.rename,
            shares=self.shares,
            guests=self.guests,
            operators=self.operators,
            connections=self.connections,
            snapshots=self.snapshots,
            clones=self.clones,
            container_changes=self.container_changes,
            upgrades=self.upgrades,
            deleted=self.deleted,
            environments=self.environments,
            offers=self.offers,
            request_checks=self.request_checks,
            keys=self.keys,
            logins=self.logins,
            cluster=self.cluster,
            site=self.site,
            web=self.web,
            checks=functools.partial(controller_checks, *checked, further=further),
            rebuild=functools.partial(rebuild, self.config, self.registry, self.scheduler, self.launcher),
            in_use=in_use,
            own_uid=os.getuid(),
        )

    async def finish(self, *, wait: bool = True) -> None:
        """Wait for running submissions, and cancel the other tasks, which the next controller repeats.

        Without `wait`, as when another controller may have the registry, cancel only.
        """
        if wait:
            await self.submitter.drain()
        files = (self.idle_policy, self.end_notices, self.file_rewriter)
        queries = (self.node_watch, self.name_policy, self.cluster_answers, self.groups)
        changes = (self.holder, self.operations, self.deletion, self.maintenance, self.environments, self.guests)
        for part in (*changes, self.upgrade_offers, *files, *queries):
            await part.close()
