"""Checks of `berth doctor` on this machine, as this user. The controller adds its own checks.

A check that is not ok makes the command fail. A check that is ok and has a hint is a note about an optional item.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import asyncio
import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli import login_key
from broker.errors import BerthError, ControllerUnavailableError
from broker.schema.site import DoctorCheck
from slurm.run import CommandError, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.context import Invocation
    from broker.client.client import Client

PROGRAM_TIMEOUT_S = 15.0
"""Time for a program to print its version."""

LOG_BYTES = 2**20
"""Bytes of the end of a job's log in which a warning from its start is searched."""

OLDEST_SSH = (7, 3)
"""ProxyJump and Include came with OpenSSH 7.3 (its release notes)."""

OLDEST_APPTAINER = (1, 4, 4)
"""Older versions lose deletions in overlays; see docs/quickstart.md."""


def every_check(invocation: Invocation) -> Iterator[DoctorCheck]:
    """Yield the results of all checks; without those of the controller if it does not answer."""
    yield _configuration(invocation)
    yield _ssh()
    yield _apptainer()
    yield from _subordinate_ids()
    try:
        client = invocation.client
        site = client.site()
    except BerthError as error:
        hint = _CONTROLLER_HINT if isinstance(error, ControllerUnavailableError) else error.hint or _CONTROLLER_HINT
        yield DoctorCheck(name="controller", ok=False, detail=error.message, hint=hint)
        return
    where = invocation.config.api_socket
    yield DoctorCheck(name="controller", ok=True, detail=f"answers at {where} as {site.mode} mode")
    yield from client.doctor()
    yield from _own_profiles(invocation)
    yield _keys(client)
    yield from _own_file()
    yield from _layers(client)
    yield from _tmp(client)
    yield _ssh_config(site.domain)


_CONTROLLER_HINT = "see `systemctl status berth`; in personal mode ~/.local/state/berth/controller.log"


def _configuration(invocation: Invocation) -> DoctorCheck:
    try:
        config = invocation.config
    except BerthError as error:
        return DoctorCheck(name="configuration", ok=False, detail=error.message, hint=error.hint)
    return DoctorCheck(name="configuration", ok=True, detail=f"{config.mode} mode, storage {config.storage.root}")


def _ssh() -> DoctorCheck:
    hint = f"install OpenSSH's client {_format_version(OLDEST_SSH)} or newer"
    said = _program("ssh", "-V")
    found = re.search(r"OpenSSH_(\d+)\.(\d+)\S*", said or "")
    if not found:
        return DoctorCheck(name="ssh", ok=False, detail="no OpenSSH client here", hint=hint)
    new = (int(found[1]), int(found[2])) >= OLDEST_SSH
    return DoctorCheck(name="ssh", ok=new, detail=found[0], hint="" if new else hint)


def _apptainer() -> DoctorCheck:
    """Check Apptainer, which this machine needs only to build profiles. Each job checks it on its compute node."""
    hint = f"a build of a profile requires Apptainer {_format_version(OLDEST_APPTAINER)} or newer"
    said = _program("apptainer", "--version")
    if said is None:
        return DoctorCheck(name="apptainer", ok=True, detail="not installed on this machine", hint=hint)
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    new = found is not None and tuple(int(part) for part in found.groups()) >= OLDEST_APPTAINER
    return DoctorCheck(name="apptainer", ok=new, detail=said, hint="" if new else hint)


def _subordinate_ids() -> Iterator[DoctorCheck]:
    """Check the ranges of subordinate ids: a build unpacks files of many owners. Root does not need them."""
    if os.geteuid() == 0:
        return
    account = pwd.getpwuid(os.getuid())
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        have = any(line.split(":")[0] in {account.pw_name, str(account.pw_uid)} for line in lines)
        hint = f"a build of a profile requires a range of ids: `usermod --add-{file.name}s` as root, see usermod(8)"
        detail = f"{file} has {'a range' if have else 'no range'} for {account.pw_name}"
        yield DoctorCheck(name=file.name, ok=True, detail=detail, hint="" if have else hint)


def _own_profiles(invocation: Invocation) -> Iterator[DoctorCheck]:
    """Report the images in the user's own store, in site mode; nothing if there is none."""
    from broker.cli.stores import config_catalog
    from profiles.image.catalog import OWN, SITE

    stores = config_catalog(invocation.config).stores
    if SITE not in stores:
        return  # the controller's check has them
    contents = stores[OWN].contents()
    if contents.damaged:
        worst = contents.damaged[0]
        yield DoctorCheck(name="own profiles", ok=False, detail=worst.message, hint=worst.hint)
    elif contents.images:
        names = sorted({image.name for image in contents.images})
        detail = f"images of your own: {len(contents.images)}, of {', '.join(names)}"
        yield DoctorCheck(name="own profiles", ok=True, detail=detail)


def _keys(client: Client) -> DoctorCheck:
    keys = client.keys()
    if not keys:
        return DoctorCheck(
            name="keys",
            ok=True,
            detail="Berth knows no public key of yours; `berth ssh NAME` makes one when you first use it here",
            hint="`berth key add ~/.ssh/id_ed25519.pub` lets you log in from another computer",
        )
    own = login_key.login_key_path()
    here = f"; {own} is there for `berth ssh NAME`" if own.exists() else ""
    return DoctorCheck(name="keys", ok=True, detail=f"your public keys that open your sessions: {len(keys)}{here}")


def _own_file() -> Iterator[DoctorCheck]:
    """Say that Berth reads nothing of a file that is too large: the part that it read could lack a restriction."""
    from broker.launcher.session_verbs import KEYS_LIMIT

    file = Path.home() / ".ssh" / "authorized_keys"
    size = file.stat().st_size if file.is_file() else 0
    if size > KEYS_LIMIT:
        yield DoctorCheck(
            name="authorized_keys",
            ok=False,
            detail=f"{file} has {size} bytes; Berth takes no key from a file above {KEYS_LIMIT}",
            hint="take out lines that you do not need, or `berth key add FILE.pub`",
        )


def _layers(client: Client) -> Iterator[DoctorCheck]:
    """Report the user's sessions whose layers could not be merged, which makes each start slower."""
    for view in client.sessions():
        if view.volumes is not None and view.volumes.unflattened:
            yield DoctorCheck(
                name="layers",
                ok=False,
                detail=f"the layers of {view.name} cannot be merged: {view.volumes.unflattened}",
                hint=f"correct the cause, stop the session, and run `berth flatten {view.name}`",
            )


def _tmp(client: Client) -> Iterator[DoctorCheck]:
    """Report /tmp in memory, and directories that are not safe for it, as jobs of sessions found on their nodes."""
    from broker.text.advice import is_tmp_in_memory, refused_tmp_directories

    for view in client.sessions():
        if view.endpoint is None:
            continue
        log = client.log(view.name, tail=LOG_BYTES)
        for words in refused_tmp_directories(log):
            yield DoctorCheck(
                name="tmp",
                ok=True,
                detail=f"on {view.endpoint.node}, {words}",
                hint="ask the operators to protect it from other users, or to change storage.tmp_directories",
            )
        if is_tmp_in_memory(log):
            yield DoctorCheck(
                name="tmp",
                ok=True,
                detail=f"on {view.endpoint.node}, files in /tmp of {view.name} count as the session's memory",
                hint="ask the operators for a directory on a local disk of the nodes: storage.tmp_directories",
            )


def _ssh_config(domain: str) -> DoctorCheck:
    from broker.client.ssh_config import BEGIN

    file = Path.home() / ".ssh" / "config"
    installed = file.is_file() and BEGIN in file.read_bytes()
    return DoctorCheck(
        name="ssh-config",
        ok=True,
        detail=f"{file} {'knows' if installed else 'does not know'} *.{domain}",
        hint="" if installed else f"`berth ssh-config --install` makes `ssh NAME.{domain}` work here",
    )


def _program(*argv: str) -> str | None:
    """Return a program's output about its version, of stdout or stderr; None if it cannot be run."""
    try:
        done = asyncio.run(run_command(argv, timeout=PROGRAM_TIMEOUT_S))
    except CommandError:
        return None
    return (done.stdout or done.stderr).strip()


def _format_version(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
