"""The controller's checks for `berth doctor`, each with a hint on how to repair a failure."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

from broker.config.file import Mode
from broker.errors import BerthError
from broker.schema.site import DoctorCheck
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.config.settings import Config
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.loop import Reconciler
    from profiles.image.store import Stores
    from slurm.scheduler import Scheduler


async def controller_checks(  # noqa: PLR0917 - every part that is checked, and the user
    config: Config,
    scheduler: Scheduler,
    launcher: LauncherClient,
    stores: Stores,
    reconciler: Reconciler,
    user: str,
    *,
    further: Callable[[], Awaitable[DoctorCheck]] | None = None,
) -> list[DoctorCheck]:
    """Run all checks, and a further one, also after a failed one. Checks that depend on the user run for `user`."""
    return [
        await _slurm(scheduler, reconciler),
        *([_sbatch()] if config.mode is Mode.PERSONAL else [_launcher(launcher)]),
        await asyncio.to_thread(_profiles, config, stores),
        await _storage(launcher, user),
        *([await further()] if further is not None else []),
    ]


async def _slurm(scheduler: Scheduler, reconciler: Reconciler) -> DoctorCheck:
    try:
        version = await scheduler.version()
    except NoAnswer as error:
        hint = (
            "look at `scontrol ping` and slurmctld's log; sessions that run are not affected"
            if shutil.which("scontrol")
            else "install Slurm's client programs, or put them on the controller's PATH"
        )
        return DoctorCheck(name="slurm", ok=False, detail=f"no answer: {error}", hint=hint)
    stale = reconciler.observed.stale_since is not None
    return DoctorCheck(
        name="slurm",
        ok=not stale,
        detail=f"Slurm {version} through {scheduler.name}",
        hint="the job query fails: see the log" if stale else "",
    )


def _sbatch() -> DoctorCheck:
    """Check for sbatch on the controller's PATH: in personal mode that of the command that started the controller."""
    found = shutil.which("sbatch")
    remedy = (
        "put Slurm's programs on the PATH, also of shells that are not interactive; "
        f"then `kill {os.getpid()}`, and the next command starts another controller"
    )
    return DoctorCheck(
        name="sbatch",
        ok=found is not None,
        detail=found or "not on the controller's PATH",
        hint="" if found else remedy,
    )


def _launcher(launcher: LauncherClient) -> DoctorCheck:
    gone = launcher.gone.is_set()
    hint = "restart the service: `systemctl restart berth`" if gone else ""
    return DoctorCheck(name="launcher", ok=not gone, detail=f"storage {launcher.storage}", hint=hint)


async def _storage(launcher: LauncherClient, user: str) -> DoctorCheck:
    """Report the driver that a new session of this user gets."""
    try:
        driver, why = await launcher.probe(user)
    except BerthError as error:
        hint = "see docs/howto/site.md on storage.root"
        return DoctorCheck(name="storage", ok=False, detail=error.message, hint=hint)
    return DoctorCheck(name="storage", ok=True, detail=f"new sessions get the driver {driver}: {why}")


def _profiles(config: Config, stores: Stores) -> DoctorCheck:
    if not config.profiles.stores:
        return DoctorCheck(name="profiles", ok=False, detail="no store is configured", hint="set profiles.stores")
    contents = stores.contents()
    if contents.damaged:
        worst = contents.damaged[0]
        return DoctorCheck(name="profiles", ok=False, detail=worst.message, hint=worst.hint)
    if not contents.images:
        where = config.profiles.stores[0]
        return DoctorCheck(
            name="profiles",
            ok=False,
            detail=f"no profile is built in {where}",
            hint="`berth profile build base` makes one",
        )
    names = sorted({image.name for image in contents.images})
    return DoctorCheck(name="profiles", ok=True, detail=f"images: {len(contents.images)}, of {', '.join(names)}")
