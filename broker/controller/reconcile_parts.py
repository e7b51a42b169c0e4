"""The parts of the controller that the reconcile loop needs. `assembly` adds those that the API calls."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from broker.config.signature_policy import signature_policy
from broker.controller.cluster.answers import ClusterAnswers
from broker.controller.cluster.groups import UserGroups
from broker.controller.cluster.service import ClusterService
from broker.controller.credential_parts import CredentialParts
from broker.controller.images import ImageFinder
from broker.controller.open_connections import OpenConnections
from broker.controller.reconcile.cancellation import JobCanceller
from broker.controller.reconcile.continuation import Continuation
from broker.controller.reconcile.deletion import DeletionRunner
from broker.controller.reconcile.end_notice import EndNoticeWriter
from broker.controller.reconcile.held_jobs import JobHolder
from broker.controller.reconcile.idle import IdlePolicy
from broker.controller.reconcile.loop import Reconciler
from broker.controller.reconcile.maintenance import Maintenance
from broker.controller.reconcile.manifests import ManifestWriter
from broker.controller.reconcile.node_watch import NodeWatch
from broker.controller.reconcile.observed_slurm import ObservedSlurm
from broker.controller.reconcile.operation_runner import OperationRunner
from broker.controller.reconcile.own_changes import OwnChangesFinder
from broker.controller.reconcile.running_copies import RunningCopies
from broker.controller.reconcile.session_files import FileRewriter, SessionFiles
from broker.controller.reconcile.shown_names import NamePolicy
from broker.controller.reconcile.stop import ScheduledStopPolicy
from broker.controller.reconcile.submission import Submitter
from broker.controller.reconcile.upgrade_offers import UpgradeOffers
from profiles.image.store import Stores

if TYPE_CHECKING:
    from broker.config.settings import Config
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.registry import Registry
    from slurm.scheduler import Scheduler


class ReconcileParts(CredentialParts):
    """The reconcile loop, and everything that works for it. Each part is created at its first use."""

    def __init__(self, config: Config, registry: Registry, scheduler: Scheduler, launcher: LauncherClient) -> None:
        super().__init__(config, registry, launcher)
        self.scheduler = scheduler
        self.copies = RunningCopies()

    @cached_property
    def stores(self) -> Stores:
        return Stores(self.config.profiles.stores)

    @cached_property
    def images(self) -> ImageFinder:
        return ImageFinder(self.stores, self.launcher, self.config.mode, signature_policy(self.config))

    @cached_property
    def cluster_answers(self) -> ClusterAnswers:
        return ClusterAnswers(self.scheduler)

    @cached_property
    def groups(self) -> UserGroups:
        return UserGroups()

    @cached_property
    def cluster(self) -> ClusterService:
        return ClusterService(
            answers=self.cluster_answers,
            groups=self.groups,
            registry=self.async_registry,
            interval_s=self.config.slurm.cluster_interval,
        )

    @cached_property
    def observed(self) -> ObservedSlurm:
        return ObservedSlurm(self.changes, self.open_connections)

    @cached_property
    def open_connections(self) -> OpenConnections:
        return OpenConnections(self.changes)

    @cached_property
    def name_policy(self) -> NamePolicy:
        return NamePolicy(self.config.slurm, self.scheduler)

    @cached_property
    def manifests(self) -> ManifestWriter:
        return ManifestWriter(self.async_registry, self.launcher)

    @cached_property
    def submitter(self) -> Submitter:
        return Submitter(
            config=self.config,
            registry=self.async_registry,
            launcher=self.launcher,
            manifests=self.manifests,
            images=self.images,
            files=SessionFiles(self.config, self.authority),
            logins=self.logins,
            names=self.name_policy,
            rewriter=self.file_rewriter,
            changes=self.changes,
        )

    @cached_property
    def maintenance(self) -> Maintenance:
        return Maintenance(
            settings=self.config.storage, registry=self.async_registry, images=self.images, launcher=self.launcher
        )

    @cached_property
    def operations(self) -> OperationRunner:
        return OperationRunner(
            registry=self.async_registry,
            launcher=self.launcher,
            manifests=self.manifests,
            submitter=self.submitter,
            maintenance=self.maintenance,
            own_changes=OwnChangesFinder(self.launcher, self.images),
            changes=self.changes,
        )

    @cached_property
    def upgrade_offers(self) -> UpgradeOffers:
        return UpgradeOffers(
            registry=self.async_registry, images=self.images, submitter=self.submitter, node_watch=self.node_watch
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
    def end_notices(self) -> EndNoticeWriter:
        return EndNoticeWriter(self.launcher)

    @cached_property
    def node_watch(self) -> NodeWatch:
        return NodeWatch(self.async_registry, self.cluster_answers, self.launcher)

    @cached_property
    def holder(self) -> JobHolder:
        return JobHolder(
            registry=self.async_registry,
            launcher=self.launcher,
            end_notices=self.end_notices,
            operations=self.operations,
            changes=self.changes,
        )

    @cached_property
    def file_rewriter(self) -> FileRewriter:
        return FileRewriter(
            registry=self.async_registry,
            manifests=self.manifests,
            images=self.images,
            names=self.name_policy,
            files=SessionFiles(self.config, self.authority),
        )

    @cached_property
    def reconciler(self) -> Reconciler:
        return Reconciler(
            settings=self.config.slurm,
            registry=self.async_registry,
            scheduler=self.scheduler,
            submitter=self.submitter,
            canceller=JobCanceller(
                registry=self.async_registry, scheduler=self.scheduler, submitter=self.submitter, copies=self.copies
            ),
            operations=self.operations,
            deletion=self.deletion,
            maintenance=self.maintenance,
            continuation=self.continuation,
            scheduled_stop=self.scheduled_stop,
            idle_policy=self.idle_policy,
            end_notices=self.end_notices,
            node_watch=self.node_watch,
            holder=self.holder,
            rewriter=self.file_rewriter,
            copies=self.copies,
            offers=self.upgrade_offers,
            observed=self.observed,
        )
