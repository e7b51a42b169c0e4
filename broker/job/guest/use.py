"""Give a guest a shell as the session's owner: the one command of the role `use`.

sshd runs it for the guest's key, with the guest's name. Everything that the guest starts is below this program: also
what detaches itself becomes its child again (PR_SET_CHILD_SUBREAPER). So it all ends with the connection, and with the
lease. A process that another one of the owner's starts for the guest, such as the owner's tmux, is not below it.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from broker.job.guest.lease import LEASE_LOOK_S, GuestLease, require_terminal, session_title

USE = "use"
GRACE_S = 0.3
"""Seconds between TERM and KILL for what the guest has started: a revocation has two seconds."""
KILL_LIMIT_S = 5.0
"""Seconds after which no further process is looked for."""
PAUSE_S = 0.02
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Requests of prctl(2)."""
SIGNALS = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM)


def control_process(request: int, value: int) -> None:
    """Call prctl(2). OSError if it fails, or if Python cannot call it."""
    try:
        import ctypes  # noqa: PLC0415 - small installations of Python have none
    except ImportError as error:
        raise OSError(str(error)) from error
    if ctypes.CDLL(None, use_errno=True).prctl(request, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def find_descendants(root: int) -> set[int]:
    """Return the processes that descend from `root`, without those that have ended."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {root}
        found |= more


def send_signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def end_all() -> None:
    """End all that this process has started, also what has detached itself."""
    began = time.monotonic()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
        send_signal(find_descendants(os.getpid()), number)
    while True:
        left = find_descendants(os.getpid())
        passed = time.monotonic() - began
        if not left or passed > KILL_LIMIT_S:
            return
        if passed > GRACE_S:
            send_signal(left, signal.SIGKILL)
        take_ended()
        time.sleep(PAUSE_S)


def take_ended() -> dict[int, int]:
    """Return the wait statuses of the children that have ended, by process."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = status
    return ended


def tell_owner(text: str) -> None:
    """Write a line to the terminals of the session, without the guest's own."""
    own = os.fstat(0).st_rdev
    for path in Path("/dev/pts").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_rdev != own:
                terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
                try:
                    os.write(terminal, f"\r\nberth: {text}\r\n".encode())
                finally:
                    os.close(terminal)


def start_shell(user: str) -> int:
    """Start the owner's login shell on this terminal, and return its process."""
    account = pwd.getpwnam(os.environ["BERTH_OWNER"])
    name = account.pw_name
    own = {"USER": name, "LOGNAME": name, "HOME": account.pw_dir, "SHELL": account.pw_shell, "BERTH_GUEST": user}
    variables = {**os.environ, **own, "MAIL": f"/var/mail/{name}"}
    pid = os.fork()
    if pid:
        return pid
    try:
        control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpid())
        for number in (*SIGNALS, signal.SIGTTOU, signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.chdir(account.pw_dir)
        os.execve(account.pw_shell, [f"-{os.path.basename(account.pw_shell)}"], variables)  # noqa: PTH119, S606
    finally:
        os._exit(127)


def wait_for_end(shell: int, lease: GuestLease) -> tuple[int, str]:
    """Wait until the shell, the connection or the lease has ended. Return the exit code, and what ended the lease."""
    looked = time.monotonic()
    while True:
        lease.mark_use()
        left = looked + LEASE_LOOK_S - time.monotonic()
        received = signal.sigtimedwait(SIGNALS, max(0.0, left))
        if received is not None and received.si_signo != signal.SIGCHLD:
            return 0, ""
        status = take_ended().get(shell)
        if status is not None:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status), ""
        if time.monotonic() - looked >= LEASE_LOOK_S:
            looked = time.monotonic()
            problem = lease.problem()
            if problem:
                return 1, problem


def run_use(user: str, base: Path) -> NoReturn:
    """Be the program of a guest with the role `use`."""
    title, owner = session_title(), os.environ.get("BERTH_OWNER", "")
    require_terminal(f"{user} may use a shell in {title}")
    lease = GuestLease(base, USE, user)
    problem = lease.problem()
    if problem:
        sys.exit(f"berth: {title}: {problem}")
    try:
        control_process(PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        sys.exit(f"berth: {title}: the session cannot let you in, since it could not end what you start: {error}")
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    print(
        f"berth: in {title} you work as {owner}: your commands run under {owner}'s account and have {owner}'s files.\n"
        f"berth: {owner} sees that you are here. What you start ends when you leave.",
        flush=True,
    )
    tell_owner(f"{user} works as {owner} in this session from now on (role use)")
    code, problem = wait_for_end(start_shell(user), lease)
    end_all()
    tell_owner(f"{user} has left this session (role use)")
    if problem:
        with contextlib.suppress(OSError):
            os.write(2, f"\r\nberth: {title}: {problem}\r\n".encode())
    os._exit(code)
