"""Berth in a guest, as the quickstart installs it: the four sites that the suite runs on, saved while they run.

A guest continues from a saved site in seconds. `push` brings the checkout's code into one that runs.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import lifecycle
from slurm.lab.cache import digest_of, keep_newest, mark_used
from slurm.lab.commands import run_tool
from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths, cache_root
from slurm.vm import image
from slurm.vm.guest import Guest, saved
from tests.site import deploy, quickstart

if TYPE_CHECKING:
    from slurm.lab.progress import ProgressLog

HERE = Path(__file__).parent
CHECKOUT = deploy.CHECKOUT
PACKAGES = ("broker", "profiles", "slurm", "tui")
INSTALLED = (*PACKAGES, "docs/man", "pyproject.toml", "README.md", "LICENSE", "requirements.lock")
"""The files of a checkout that `pip install .` reads."""
PROFILES = ("base", "other")
"""The images that sessions start from, in the order in which one stands on the other."""
GATEWAY_PORT = deploy.GATEWAY_PORT
PROFILE_TEAM = deploy.PROFILE_TEAM
API_SOCKET = "/run/berth/api.sock"
KEPT = 5
"""Versions of each part that the cache keeps: a saved guest takes 1.2 GB."""
COPY_SECONDS = 1800
"""Limit for copying Berth and the images into the guest: it takes 10 s on a free machine under emulation."""
SERVICE_SECONDS = 900
"""Limit for the services to answer: it takes 15 s on a free machine under emulation, many times that on a busy one."""
ANSWER_SECONDS = 120
"""Time for which the gateway waits for a session's sshd.

A key exchange takes 1 s on a free machine under emulation, and more than the default of 10 s on a busy one.
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A site: where /shared and /home are, and whether Berth is a service there or each user's own."""

    mounted: str
    """The argument of the guest's mount-shared."""
    backing: str
    """The same files on the file server, which is the guest: there root is not squashed."""
    personal: bool = False


SITES = {
    "ext4": Kind("local", "/export/local"),
    "nfs-ext4": Kind("nfs-ext4", "/export/ext4"),
    "nfs-xfs": Kind("nfs-xfs", "/export/xfs"),
    "personal-nfs": Kind("nfs-ext4", "/export/ext4", personal=True),
}

SHORT = ("ext4", "nfs-ext4")
"""The sites that share the tests of the short form."""


def site_image(name: str, progress: ProgressLog) -> Path:
    """Return the saved guest of a site with the checkout's Berth on it, made first if the cache has none."""
    cache = cache_root()
    key = image.key(cache)
    dependencies = _dependencies(cache, progress)
    disks = image.disks(cache, [dependencies], progress)
    booted = saved(cache, "vm-booted", disks, key=key, progress=progress)
    payload = image.payload(cache, {"berth": berth_layer(progress)} | _profiles(cache, progress), progress)
    recipe = [name, *map(str, (quickstart.commands(2), quickstart.commands(3), quickstart.commands(5)))]
    recipe += [quickstart.block(4, "yaml"), digest_of([], [Path(__file__)])]

    def prepare(guest: Guest) -> None:
        progress.say(f"installing Berth on the site {name}, as the quickstart does")
        install(guest, SITES[name])
        progress.say("Berth answers" if not SITES[name].personal else "Berth is installed")

    made = saved(cache, f"vm-site-{name}", booted, prepare, recipe=recipe, payload=payload, key=key, progress=progress)
    # A saved guest stands on the disks of those before it, so each use of it is a use of all.
    for tree in (disks, booted, payload.parent, made):
        kind = mark_used(tree).name.rpartition("-")[0]
        keep_newest(cache, kind, KEPT)
    return made


def install(guest: Guest, kind: Kind) -> None:
    """Put Berth and the profiles on a guest that has only booted; return when the services answer."""
    images = " ".join(f"/mnt/{profile}" for profile in PROFILES)
    guest.mount_payload()
    guest.sh(
        f"cp -a /mnt/berth/opt/. /opt/; cp -a /mnt/berth/usr/local/. /usr/local/; mount-shared {kind.mounted}",
        seconds=COPY_SECONDS,
    )
    if kind.personal:
        for user in ("alice", "bob"):
            store = ".local/share/berth/profiles"
            guest.sh(f"umask 022; mkdir -p {store}; cp -r {images} {store}/", user=user, seconds=COPY_SECONDS)
    else:
        _install_services(guest, kind, images)
    guest.sh("umount /mnt; sync")


def _install_services(guest: Guest, kind: Kind, images: str) -> None:
    guest.sh("sacctmgr -i add account research")
    for command in quickstart.commands(2):
        guest.sh(command.replace("ACCOUNT", "research"), stdin=b"y\n")
    for command in quickstart.commands(3):
        # Made on the file server: over NFS root is nobody.
        on_server = command.replace("/shared/", f"{kind.backing}/shared/")
        guest.sh(on_server.replace("PROFILE_TEAM", PROFILE_TEAM))
    guest.sh(f"cp -r {images} /shared/berth-profiles/", user=PROFILE_TEAM, seconds=COPY_SECONDS)
    config = quickstart.block(4, "yaml").replace("login.example.org", f"vm\n  answer_timeout: {ANSWER_SECONDS}")
    guest.sh("mkdir -p /etc/berth; cat >/etc/berth/config.yaml; berth config check", stdin=config.encode())
    try:
        for command in quickstart.commands(5):
            guest.sh(command)
    except LabError as error:
        raise _with_journal(guest, error) from None
    wait_for_services(guest)


def wait_for_services(guest: Guest) -> None:
    """Return when the controller answers a user and the gateway takes connections; LabError has their journal."""
    try:
        guest.sh(
            f"timeout {SERVICE_SECONDS} sh -c '"
            f"until curl -sf -m 20 -o /dev/null --unix-socket {API_SOCKET} http://localhost/v1/sessions; "
            "do sleep 0.5; done'",
            user="alice", seconds=SERVICE_SECONDS + 30,
        )  # fmt: skip
        guest.sh(
            f"timeout {SERVICE_SECONDS} bash -c 'until </dev/tcp/127.0.0.1/{GATEWAY_PORT}; do sleep 0.5; done'",
            seconds=SERVICE_SECONDS + 30,
        )  # fmt: skip
    except LabError as error:
        raise _with_journal(guest, error) from None


def _with_journal(guest: Guest, error: LabError) -> LabError:
    journal = guest.sh("journalctl --no-pager -n 40 -o short-precise -u berth -u berth-gateway")
    return LabError(f"Berth does not answer in the guest: {error.message}\n{journal}")


def push(guest: Guest, kind: Kind, progress: ProgressLog) -> None:
    """Install the checkout's code in a guest that runs, as an upgrade does, and restart the services."""
    layer = berth_layer(progress)
    progress.say("copying the code into the guest")
    tar = ["tar", "--create", "--gzip", f"--directory={layer}", "opt/berth"]
    packed = subprocess.run(tar, capture_output=True, check=True, timeout=60).stdout
    old = " ".join(f"/opt/berth/lib/python3*/site-packages/{package}" for package in (*PACKAGES, "berth-*.dist-info"))
    guest.sh(f"rm -rf {old}; tar --extract --gzip --directory=/", stdin=packed, seconds=COPY_SECONDS)
    if not kind.personal:
        copy_units, reload_units = quickstart.commands(5)[:2]
        guest.sh(f"{copy_units}\n{reload_units}\nsystemctl restart berth berth-gateway")
        wait_for_services(guest)
    progress.say("the guest runs the checkout's code")


def berth_layer(progress: ProgressLog) -> Path:
    """Return a tree with Berth in /opt/berth, installed by the quickstart's first step from the checkout as it is."""
    cache = cache_root()
    inputs = CHECKOUT / "build/vm-inputs"
    shutil.rmtree(inputs, ignore_errors=True)
    (inputs / "checkout").mkdir(parents=True)
    list_files = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    for name in sorted(set(run_tool([*list_files, *INSTALLED]).split("\0"))):
        source, target = CHECKOUT / name, inputs / "checkout" / name
        if name and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    install_file = inputs / "install.sh"
    install_file.write_text("".join(f"{line}\n" for line in quickstart.commands(1)))
    return image.layer(
        cache, "vm-berth", HERE / "vm_berth.sh", [inputs / "checkout", install_file],
        parents=[_dependencies(cache, progress)], progress=progress,
    )  # fmt: skip


def _dependencies(cache: Path, progress: ProgressLog) -> Path:
    script, lock = HERE / "vm_dependencies.sh", CHECKOUT / "requirements.lock"
    return image.layer(cache, "vm-dependencies", script, [lock], progress=progress)


def _profiles(cache: Path, progress: ProgressLog) -> dict[str, Path]:
    """Return the directories of the profiles, in the lab's store; a lab builds those that are not there."""
    store = deploy.images(cache)
    missing = [profile for profile in PROFILES if not (store / profile / "1/image.sif").exists()]
    if missing:
        progress.say(f"building {', '.join(missing)} on a lab (once for each version of profiles/)")
        name = "vm-profiles"
        try:
            site = deploy.up(name, progress=progress)
            for profile in missing:
                deploy.build_profile(site, profile, progress)
        finally:
            lifecycle.take_down(LabPaths.find(name))
    return {profile: store / profile for profile in PROFILES}
