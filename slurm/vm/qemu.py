"""The qemu process of one guest: its command line, its start, its end. KVM where it works, emulation elsewhere."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.commands import run_tool
from slurm.lab.errors import LabError
from slurm.lab.progress import wait_until
from slurm.vm import monitor

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "qemu-system-x86_64"
CPUS = 2
MEMORY_MIB = 3072
DISKS = ("root", "xfs")
PAYLOAD = "payload.raw"
PAYLOAD_BYTES = 1 << 30
"""A read-only disk that brings files to a guest, much faster than ssh under emulation. Its size never changes: a saved
guest finds another one in its place.
"""
PROBE_SECONDS = 20
START_SECONDS = 600
"""Loading a saved guest of 600 MB from a cold disk is part of it."""
END_SECONDS = 20

KERNEL = (
    "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off audit=0 tsc=reliable panic=5 quiet"
    " systemd.show_status=true"
)
"""panic: an emulated kernel once panicked while it booted after a reset; a machine that starts again is what counts."""
EMULATED = ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Westmere")
"""Westmere: what Debian's packages need (x86-64-v2 is more than the baseline), and nothing that is slow to emulate."""
VIRTUAL = ("-accel", "kvm", "-cpu", "host")


def acceleration(kernel: Path, device: Path = Path("/dev/kvm")) -> Sequence[str]:
    """Return qemu's options for KVM if a kernel runs with them, else those for emulation.

    That /dev/kvm can be opened does not say so: in some virtual machines the first guest code fails. So a kernel is
    started without a disk: its panic ends qemu.
    """
    if not os.access(device, os.R_OK | os.W_OK):
        return EMULATED
    argv = [PROGRAM, "-M", "q35", *VIRTUAL, "-m", "512", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1",
            "-no-reboot", "-nodefaults", "-display", "none", "-serial", "stdio"]  # fmt: skip
    try:
        said = run_tool(argv, seconds=PROBE_SECONDS)
    except LabError:
        return EMULATED
    return VIRTUAL if "Kernel panic" in said else EMULATED


@functools.cache
def version() -> str:
    """Return what a saved guest depends on: the first line of qemu's version."""
    hint = "apt-get install qemu-system-x86 qemu-utils"
    return run_tool([PROGRAM, "--version"], hint=hint).splitlines()[0]


def processor(accelerated: Sequence[str]) -> str:
    """Return what a saved guest needs of this machine's processor: its model under KVM, nothing under emulation."""
    if accelerated != VIRTUAL:
        return ""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("model name")), "")


def overlay(backing: Path, target: Path) -> None:
    """Make a disk whose changes to `backing` are kept in `target`."""
    kind = "raw" if backing.suffix == ".raw" else "qcow2"
    hint = "apt-get install qemu-utils"
    run_tool(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", kind, str(target)], hint=hint)


def start(
    state: Path, *, kernel: Path, accelerated: Sequence[str], ports: Sequence[int], saved: Path | None = None
) -> None:
    """Start qemu in `state`, which has a `<disk>.qcow2` for each disk, and PAYLOAD; return when the guest runs.

    `kernel` is a directory with vmlinuz and initrd. `ports` of the guest are reached at free loopback ports of this
    machine: `forwards` has them. With `saved`, a memory image of `save`, the guest continues where that was made.
    """
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:0-:{port}" for port in ports)
    disks = [
        word
        for disk in DISKS
        for word in ("-drive", f"file={disk}.qcow2,format=qcow2,if=virtio,cache=unsafe,discard=unmap")
    ]
    disks += ["-drive", f"file={PAYLOAD},format=raw,if=virtio,readonly=on"]
    argv = [
        PROGRAM, "-M", "q35", *accelerated, "-smp", str(CPUS), "-m", str(MEMORY_MIB),
        "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initrd"), "-append", KERNEL, *disks,
        "-device", "virtio-rng-pci", "-netdev", f"user,id=net,restrict=on{forwards}",
        "-device", "virtio-net-pci,netdev=net",
        # The guest's clock is the time that it ran: a saved one continues with its own, also over a reset.
        "-rtc", "base=utc,clock=vm",
        "-nodefaults", "-display", "none", "-serial", "file:console.log",
        "-qmp", f"unix:{monitor.SOCKET},server=on,wait=off", *(("-incoming", "defer") if saved else ()),
    ]  # fmt: skip
    (state / monitor.SOCKET).unlink(missing_ok=True)
    with (state / "qemu.log").open("w") as log:
        try:
            process = subprocess.Popen(
                argv, cwd=state, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        except FileNotFoundError as error:
            raise LabError(f"{PROGRAM} is not installed", hint="apt-get install qemu-system-x86") from error
    (state / "qemu.pid").write_text(str(process.pid))

    def answers() -> bool:
        if process.poll() is not None:
            raise LabError(f"qemu ended with {process.returncode}", log=state / "qemu.log")
        return (state / monitor.SOCKET).exists()

    try:
        wait_until(answers, seconds=START_SECONDS, what="qemu's monitor", log=state / "qemu.log")
        if saved is not None:
            monitor.execute(state, "migrate-incoming", uri=f"exec:cat '{saved}'")
            wait_until(
                lambda: _status(state) != "inmigrate", seconds=START_SECONDS, what="loading the saved guest", every=0.2
            )
            monitor.execute(state, "cont")
    except BaseException:
        process.kill()
        process.wait()
        raise


def save(state: Path, target: Path) -> None:
    """Write the memory and devices of the guest to `target`, and end qemu: with the disks' state that is the guest."""
    monitor.execute(state, "stop")
    monitor.execute(state, "migrate-set-parameters", **{"max-bandwidth": 1 << 33})
    monitor.execute(state, "migrate", uri=f"exec:cat >'{target}'")

    def written() -> bool:
        progress = monitor.execute(state, "query-migrate").get("status")
        if progress in {"failed", "cancelled"}:
            raise LabError(f"the guest could not be saved: migration {progress}", log=state / "qemu.log")
        return bool(progress == "completed")

    wait_until(written, seconds=START_SECONDS, what="the saved guest", every=0.2)
    end(state)


def forwards(state: Path) -> dict[int, int]:
    """Return the loopback port of this machine for each forwarded port of the guest."""
    found = {}
    for line in monitor.human(state, "info usernet").splitlines():
        fields = line.split()
        if fields and fields[0] == "TCP[HOST_FORWARD]":
            found[int(fields[5])] = int(fields[3])
    return found


def running(state: Path) -> int | None:
    """Return the process id of the qemu that has this state directory; None if there is none. Ids are used again."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((state / "qemu.pid").read_text())
        process = Path(f"/proc/{pid}")
        ours = (process / "cwd").readlink() == state.resolve()
        zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        if ours and not zombie and (process / "comm").read_text().startswith("qemu"):
            return pid
    return None


def end(state: Path) -> None:
    """End qemu, as pulling the plug; return when it has gone. Nothing happens if it does not run."""
    pid = running(state)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    try:
        wait_until(lambda: running(state) is None, seconds=END_SECONDS, what="the end of qemu")
    except LabError:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: running(state) is None, seconds=END_SECONDS, what="the end of qemu")


def _status(state: Path) -> str:
    return str(monitor.execute(state, "query-status", seconds=START_SECONDS)["status"])
