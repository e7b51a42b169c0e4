"""One guest: started from disks or from a saved guest, entered by ssh, reset, saved, ended.

Everything of it is in its state directory: the disks' changes, the console's log, qemu's log and process id, sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm.lab.cache import cached_tree, digest_of
from slurm.lab.errors import LabError
from slurm.lab.progress import wait_until
from slurm.vm import monitor, qemu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slurm.lab.progress import ProgressLog

SSH_PORT = 22
BOOT_SECONDS = float(os.environ.get("VM_BOOT_SECONDS", "900"))
"""A boot takes 30 s of a free machine under emulation, and many times that on one that is busy."""
COMMAND_SECONDS = 600
"""Limit for a command in the guest by default: it only ends what hangs."""
CONNECT_SECONDS = 30
LOGIN_SECONDS = 300
"""Limit for ssh's key exchange with the guest. A busy machine needs a minute for it."""
EMERGENCY = b"You are in emergency mode"
"""Said by systemd on the console when the boot has failed."""
WEEK_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest, running or not."""

    state: Path
    key: Path
    """The private key that root and the people of the guest let in."""

    def start(
        self,
        image: Path,
        ports: Sequence[int] = (),
        *,
        payload: Path | None = None,
        accelerated: Sequence[str] = (),
        progress: ProgressLog,
    ) -> None:
        """Start from `image`, the disks of slurm.vm.image or a saved guest; return when it is up. It begins clean.

        `payload` is a disk of image.payload: `mount_payload` shows its files.
        """
        if qemu.running(self.state) is not None:
            raise LabError(f"a guest runs in {self.state} already", hint="end it first: make vm-down")
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)
        kernel = image / "kernel" if (image / "kernel").exists() else image
        for disk in qemu.DISKS:
            backing = next(path for name in (f"{disk}.qcow2", f"{disk}.raw") if (path := image / name).exists())
            qemu.overlay(backing.resolve(), self.state / f"{disk}.qcow2")
        (self.state / "kernel").symlink_to(kernel.resolve())
        if payload is None:
            (self.state / qemu.PAYLOAD).touch()
            os.truncate(self.state / qemu.PAYLOAD, qemu.PAYLOAD_BYTES)
        else:
            (self.state / qemu.PAYLOAD).symlink_to(payload.resolve())
        accelerated = accelerated or qemu.acceleration(kernel / "vmlinuz")
        saved = image / "memory"
        progress.say(f"starting the guest with {accelerated[1].split(',')[0]} (console: {self.state / 'console.log'})")
        qemu.start(
            self.state, kernel=kernel, accelerated=accelerated, ports=[SSH_PORT, *ports],
            saved=saved if saved.exists() else None,
        )  # fmt: skip
        (self.state / "forwards.json").write_text(json.dumps(qemu.forwards(self.state)))
        self.wait_until_up()
        progress.say("the guest is up")

    def port(self, port: int = SSH_PORT) -> int:
        """Return the loopback port of this machine that leads to `port` of the guest."""
        try:
            return int(json.loads((self.state / "forwards.json").read_text())[str(port)])
        except (OSError, KeyError) as error:
            raise LabError(f"no guest runs in {self.state}", hint="start one: make vm-shell") from error

    def ssh(self, command: Sequence[str], *, user: str = "root", tty: bool = False) -> list[str]:
        """Return the argument list that runs `command` in the guest, to be run in the state directory.

        Connections are shared, since a new one takes a second under emulation.
        """
        options = (
            "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
            f"IdentityFile={self.key}", "IdentitiesOnly=yes", f"ConnectTimeout={LOGIN_SECONDS}",
            "ServerAliveInterval=15", "ServerAliveCountMax=8",
            "ControlMaster=auto", "ControlPath=ssh-%r", "ControlPersist=120",
        )  # fmt: skip
        return [
            "ssh", "-F", "none", *(word for option in options for word in ("-o", option)), *(["-t"] if tty else []),
            "-p", str(self.port()), f"{user}@127.0.0.1", "--", *([shlex.join(command)] if command else []),
        ]  # fmt: skip

    def run(
        self, command: Sequence[str], *, user: str = "root", seconds: float = COMMAND_SECONDS, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the guest to its end, whatever its exit code; TimeoutExpired after `seconds`."""
        argv = self.ssh(command, user=user)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False, cwd=self.state)

    def sh(self, script: str, *, user: str = "root", seconds: float = COMMAND_SECONDS, stdin: bytes = b"") -> str:
        """Run a shell script in the guest; return its output without the last line end. LabError if it fails."""
        try:
            done = self.run(["bash", "-euc", script], user=user, seconds=seconds, stdin=stdin)
        except subprocess.TimeoutExpired:
            raise LabError(f"in the guest, `{script}` did not end within {seconds:g} s", log=self.console) from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace")[-2000:]
            raise LabError(f"in the guest, `{script}` ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="replace").removesuffix("\n")

    @property
    def console(self) -> Path:
        return self.state / "console.log"

    def wait_until_up(self, *, not_boot: str = "", seconds: float = BOOT_SECONDS) -> None:
        """Return when the guest answers by ssh and systemd has started all units, in another boot than `not_boot`.

        LabError names the units that failed.
        """
        deadline = time.monotonic() + seconds

        def answers() -> bool:
            if qemu.running(self.state) is None:
                raise LabError("qemu has ended", log=self.state / "qemu.log")
            if EMERGENCY in self.console.read_bytes():
                raise LabError("the guest's systemd is in emergency mode: a unit of its boot failed", log=self.console)
            boot = self._boot(CONNECT_SECONDS)
            return boot not in {"", not_boot}

        wait_until(answers, seconds=seconds, what="an answer of the guest's sshd", log=self.console, every=1)
        left = max(deadline - time.monotonic(), CONNECT_SECONDS)
        settled = self.run(["timeout", f"{left:.0f}", "systemctl", "is-system-running", "--wait"], seconds=left + 30)
        state = settled.stdout.decode().strip()
        if state != "running":
            failed = self.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout.decode().strip()
            raise LabError(f"the guest's systemd is `{state}`; failed units: {failed or 'none'}", log=self.console)

    def mount_payload(self) -> None:
        """Mount the payload at /mnt; what the guest has read of another payload is forgotten."""
        self.sh("blockdev --flushbufs /dev/vdc; mount -r /dev/vdc /mnt")

    def reboot(self) -> None:
        """Reboot in order; return when all is up again."""
        boot = self._present_boot()
        # The connection may end before the command does.
        self.run(["systemctl", "reboot"])
        self.disconnect()
        self.wait_until_up(not_boot=boot)

    def reset(self) -> None:
        """Press the reset button: what is not on the disks is lost. Return when all is up again."""
        boot = self._present_boot()
        monitor.execute(self.state, "system_reset")
        self.disconnect()
        self.wait_until_up(not_boot=boot)

    def disconnect(self, user: str = "*") -> None:
        """End the shared connections of `user`, of everybody by default."""
        for path in self.state.glob(f"ssh-{user}"):
            argv = ["ssh", "-F", "none", "-o", f"ControlPath={path.name}", "-O", "exit", "127.0.0.1"]
            with contextlib.suppress(subprocess.TimeoutExpired):  # its socket is removed all the same
                subprocess.run(argv, capture_output=True, check=False, timeout=CONNECT_SECONDS, cwd=self.state)
            path.unlink(missing_ok=True)

    def end(self) -> None:
        """End the guest, as pulling the plug."""
        self.disconnect()
        qemu.end(self.state)
        (self.state / "forwards.json").unlink(missing_ok=True)

    def _present_boot(self) -> str:
        """Return the id of the guest's present boot, which answers sooner or later: a busy guest may take its time."""
        found: list[str] = []

        def answers() -> bool:
            found.append(self._boot(CONNECT_SECONDS))
            return found[-1] != ""

        wait_until(answers, seconds=COMMAND_SECONDS, what="an answer of the guest's sshd", log=self.console, every=1)
        return found[-1]

    def _boot(self, seconds: float) -> str:
        """Return the id of the guest's present boot; "" if it does not answer."""
        try:
            done = self.run(["cat", "/proc/sys/kernel/random/boot_id"], seconds=seconds)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.decode().strip() if done.returncode == 0 else ""


def identity(image: Path) -> str:
    """Return a text that another image never has, not even one that was made again under the same name.

    A saved guest stands on the very disk that it was started from: the same recipe gives other blocks each time.
    """
    disk = next(path for name in ("root.qcow2", "root.raw") if (path := image / name).exists())
    return f"{image.name}:{disk.stat().st_mtime_ns}"


def saved(
    cache: Path,
    name: str,
    parent: Path,
    prepare: Callable[[Guest], None] | None = None,
    *,
    recipe: Sequence[str] = (),
    payload: Path | None = None,
    key: Path,
    progress: ProgressLog,
) -> Path:
    """Return a guest that was started from `parent`, prepared and saved while it ran: it continues in seconds.

    `recipe` is what `prepare` depends on. A saved guest's clock continues from when it was saved, and certificates that
    it makes must be valid here: so it is made again each week.
    """
    kernel = parent / "kernel" if (parent / "kernel").exists() else parent
    accelerated = qemu.acceleration(kernel / "vmlinuz")
    week = str(int(time.time()) // WEEK_SECONDS)
    total = digest_of((
        identity(parent), payload.parent.name if payload else "", qemu.version(), *accelerated,
        qemu.processor(accelerated),
        str(qemu.MEMORY_MIB), qemu.KERNEL, week, *recipe,
    ))  # fmt: skip

    def make(work: Path) -> None:
        guest = Guest(work / "tree", key)
        try:
            guest.start(parent, payload=payload, accelerated=accelerated, progress=progress)
            if prepare is not None:
                prepare(guest)
            guest.disconnect()
            progress.say("saving the guest")
            qemu.save(guest.state, guest.state / "memory")
        except LabError as error:
            error.log = cache / f"{name}-console.log"
            with contextlib.suppress(OSError):
                shutil.copy(guest.console, error.log)
            raise
        finally:
            qemu.end(guest.state)

    return cached_tree(cache, name, total, make, progress)
