"""The launcher: the only code that runs as root. It is small enough to read in one sitting.

It serves one socket, shared with the controller, on which each line is a JSON request:
`{"id": 7, "verb": "submit", "user": "alice", …}`. It forks a child process for each request (child.py). The child
becomes that user for good (groups, gid, uid, umask, working directory) before it interprets an argument or touches a
file. The answer is `{"id": 7, "ok": {…}}` or `{"id": 7, "error": <kind>, "message": …}`. The launcher uses no network,
no shell, no database and no directory from a request: paths consist of the storage template and a validated session id.

Site mode:      berth-launcher --account berth --storage '/shared/berth/{user}' -- berth controller
Personal mode:  the controller runs it with --serve-fd, without root; then it serves its own user alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pwd
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker.failpoints import failpoint
from broker.job.bundle import ENVIRONMENT_SCRIPT, SESSION_SCRIPT, digest
from broker.launcher.child import (
    CHILD_BYTES,
    CRASHED,
    PR_SET_PDEATHSIG,
    Settings,
    encode_answer,
    encode_error,
    run_request,
    set_process_option,
)
from broker.launcher.places import READY_VERB, Places
from broker.launcher.sharing_arguments import ReceiveArguments, SendArguments
from broker.service import notify
from broker.volumes.copy_archive import copy_archive
from broker.volumes.snapshot_stream import PIPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE_LIMIT = 4 * 2**20
"""Bytes of one request; the largest is a submission with a user's keys."""
ANSWER_LIMIT = 32 * 2**20
"""Bytes of one answer: half of what the controller reads of a line (broker/controller/launcher_client/client.py)."""
PENDING_BYTES = 64 * 2**20
"""Limit for requests that wait for a place (shares.py); more wait unread in the socket. The controller sends no more
requests than there are places, so few wait here: for killed children that the kernel has not released yet."""
CONTROLLER_END_S = 10.0
"""Time for the controller to exit once the socket is closed, until it gets SIGTERM. It exits by itself, and a signal
would hide its exit code."""
TIMED_OUT = "timed-out"


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the controller."""

    id: int
    verb: str
    user: str
    deadline: float
    size: int
    content: dict[str, Any]

    @classmethod
    def parse(cls, line: bytes | bytearray) -> Request:
        content = json.loads(line)
        deadline = time.monotonic() + float(content.get("timeout", 60)) + 5
        return cls(int(content["id"]), str(content.get("verb")), str(content.get("user")), deadline, len(line), content)


@dataclass(slots=True)
class Child:
    """The child process of a request, and its output so far."""

    request: Request
    pid: int
    fd: int
    """The pipe with its answer."""
    output: bytearray = field(default_factory=bytearray)
    sender: Child | None = None
    """The process that sends a snapshot to this one."""
    is_sender: bool = False
    """Whether this is such a process. Its answer is not forwarded."""


class Launcher:
    """Serves requests from one socket until its other end closes."""

    def __init__(self, settings: Settings, control: socket.socket) -> None:
        self._settings = settings
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}
        self._ended: dict[int, Child] = {}
        """By pidfd, killed children that may hang in the kernel, as on a dead file server."""
        self._abandoned: list[Child] = []
        """Senders whose receiver has ended."""
        self._shares = Places()
        self._pending: list[Request] = []
        """Requests without a place, the oldest first."""
        self._input = bytearray()

    def serve(self) -> None:
        """Send the storage template, so that a controller with another one can refuse to start; then serve."""
        self._send(0, encode_answer({"ok": {"storage": self._settings.storage}}))
        try:
            while self._step():
                pass
        finally:
            for child in self._children.values():
                _kill(child.pid)

    def _step(self) -> bool:
        """Process the events since the last step; False when the controller has closed the socket."""
        has_room = sum(request.size for request in self._pending) < PENDING_BYTES
        if has_room and self._take_request():
            return True
        self._listen(has_room)
        for key, _ in self._selector.select(self._until_deadline()):
            if key.fd in self._ended:
                self._reap(key.fd)
            elif key.fileobj is not self._control:
                self._read_child(key.fd)
            elif not self._receive():
                return False
        self._end_overdue()
        self._end_abandoned()
        self._start_pending()
        return True

    def _listen(self, has_room: bool) -> None:
        """Watch the socket for input, except while there is no room for another request."""
        listening = self._control in self._selector.get_map()
        if has_room and not listening:
            self._selector.register(self._control, selectors.EVENT_READ)
        elif listening and not has_room:
            self._selector.unregister(self._control)

    def _receive(self) -> bool:
        try:
            data = self._control.recv(65536)
        except ConnectionResetError:  # the controller exited with unread answers
            return False
        self._input += data
        return bool(data) and len(self._input) <= LINE_LIMIT

    def _take_request(self) -> bool:
        line, newline, rest = self._input.partition(b"\n")
        if not newline:
            return False
        self._input = rest
        request = Request.parse(line)
        if request.verb == READY_VERB:
            notify.notify_ready()
        else:
            self._pending.append(request)
            self._start_pending()
        return True

    def _start_pending(self) -> None:
        """Start every request that has a place: a short one passes long ones that wait."""
        waiting = []
        for request in self._pending:
            if self._shares.has_room(request.verb, request.user):
                self._fork(request)
            else:
                waiting.append(request)
        self._pending = waiting

    def _fork(self, request: Request) -> None:
        if request.verb == ReceiveArguments.VERB:
            self._fork_pair(request)
        else:
            self._fork_child(request, request.content)
        failpoint(f"launcher.{request.verb}-begun")

    def _fork_pair(self, request: Request) -> None:
        """Fork the process of a user that receives a snapshot, and that of its owner which sends it, with a pipe
        between them. Each has one end of it, and can make no other of it: pipe(7), the file is root's.
        """
        receiving, sending = os.pipe()
        with contextlib.suppress(OSError):  # pipe-user-pages-soft in pipe(7)
            fcntl.fcntl(receiving, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        sender = self._fork_child(request, _send_request(request.content), sending)
        sender.is_sender = True
        self._fork_child(request, request.content, receiving).sender = sender
        os.close(receiving)
        os.close(sending)

    def _fork_child(self, request: Request, content: dict[str, Any], stream: int = -1) -> Child:
        """Fork a process that runs one verb."""
        read_end, write_end = os.pipe()
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            run_request(self._settings, content, write_end, launcher, stream)
        os.close(write_end)
        self._shares.take(request.verb, request.user)
        child = self._children[read_end] = Child(request, pid, read_end)
        self._selector.register(read_end, selectors.EVENT_READ)
        return child

    def _read_child(self, fd: int) -> None:
        data = os.read(fd, 65536)
        child = self._children[fd]
        child.output += data
        if len(child.output) > ANSWER_LIMIT:
            self._finish(fd, encode_error("files", "the answer is too long"))
        elif not data:
            whole = child.output.endswith(b"\n")
            self._finish(
                fd, bytes(child.output) if whole else encode_error(CRASHED, "the launcher's child process died")
            )

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for fd, child in list(self._children.items()):
            if child.request.deadline < now:
                _kill(child.pid)
                self._finish(
                    fd, encode_error(TIMED_OUT, "the launcher's child process exceeded its time limit and was killed")
                )
        for request in [request for request in self._pending if request.deadline < now]:
            self._pending.remove(request)
            self._send(request.id, encode_error("busy", "too many earlier requests are in progress"))

    def _end_abandoned(self) -> None:
        """Kill the senders without a receiver: one may stand still for as long as its user likes.

        This is done after the events of a step, since it closes descriptors that some of them may name.
        """
        for sender in self._abandoned:
            if self._children.get(sender.fd) is sender:
                self._finish(sender.fd, b"")
        self._abandoned.clear()

    def _finish(self, fd: int, answer: bytes) -> None:
        child = self._children.pop(fd)
        self._selector.unregister(fd)
        os.close(fd)
        _kill(child.pid)  # processes that the child has left in its group
        ended = os.pidfd_open(child.pid)
        self._ended[ended] = child
        self._selector.register(ended, selectors.EVENT_READ)
        if child.is_sender:
            return
        if child.sender is not None:
            self._abandoned.append(child.sender)
        failpoint(f"launcher.{child.request.verb}-done")
        self._send(child.request.id, answer)

    def _reap(self, ended: int) -> None:
        """Free the place of a child once the kernel has released the process."""
        child = self._ended.pop(ended)
        self._selector.unregister(ended)
        os.close(ended)
        os.waitpid(child.pid, 0)
        self._shares.give_back(child.request.verb, child.request.user)

    def _send(self, request_id: int, answer: bytes) -> None:
        """Forward an answer without parsing it: it comes from a child process, and may contain data of a user."""
        with contextlib.suppress(BrokenPipeError):  # the controller has exited; the next read ends the service
            self._control.sendall(b'{"id": %d, %s' % (request_id, answer[1:]))

    def _until_deadline(self) -> float | None:
        requests = [*(child.request for child in self._children.values()), *self._pending]
        return max(0.0, min(request.deadline for request in requests) - time.monotonic()) if requests else None


def _send_request(content: dict[str, Any]) -> dict[str, Any]:
    """Return the request of the process that sends what `receive` asks for. That process validates it as its user."""
    wanted = {"session": content.get("source"), "snapshot": content.get("snapshot"), "system": content.get("system")}
    return {"verb": SendArguments.VERB, "user": content.get("owner"), **wanted}


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _start_controller(argv: Sequence[str], account: str, control: socket.socket) -> subprocess.Popen[bytes]:
    """Start the controller as the service account, with its end of the socket in BERTH_LAUNCHER_FD."""
    user = pwd.getpwnam(account)
    environment = dict(os.environ) | {
        "BERTH_LAUNCHER_FD": str(control.fileno()),
        "HOME": user.pw_dir,
        "USER": account,
        "LOGNAME": account,
    }
    parent = os.getpid()

    def die_with_parent() -> None:
        set_process_option(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        argv,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=os.getgrouplist(account, user.pw_gid),
        umask=0o077,
        env=environment,
        pass_fds=[control.fileno()],
        preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here, and prctl(2) must follow setuid(2)
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="berth-launcher", description="Run Berth's controller and act for its users.")
    parser.add_argument("--storage", required=True, help="template of a user's directory, as storage.root")
    parser.add_argument("--account", help="the controller's account (site mode)")
    parser.add_argument("--serve-fd", type=int, help="serve this inherited socket (personal mode)")
    parser.add_argument("--sbatch", default="sbatch")
    parser.add_argument("--session-script", default="", help="submit this file in place of the joined batch script")
    parser.add_argument("--minimum-uid", type=int, default=1000, help="refuse requests for accounts below it")
    parser.add_argument(
        "--worker-memory", type=int, default=CHILD_BYTES >> 20, metavar="MIB", help="address space of one child process"
    )
    parser.add_argument("controller", nargs="*", help="the controller's command, after --")
    options = parser.parse_args(argv)
    if (options.serve_fd is None) == (not options.controller) or bool(options.controller) != bool(options.account):
        parser.error("give either --serve-fd, or --account and the controller's command after --")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(sys.argv[1:] if argv is None else argv)
    settings = Settings(
        options.storage,
        options.sbatch,
        options.session_script,
        options.minimum_uid,
        options.worker_memory << 20,
    )
    _join_scripts()
    if options.serve_fd is not None:
        Launcher(settings, socket.socket(fileno=options.serve_fd)).serve()
        return 0
    ours, theirs = socket.socketpair()
    controller = _start_controller(options.controller, options.account, theirs)
    theirs.close()

    def stop(*_: object) -> None:
        notify.notify_stopping()
        controller.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with ours:
        Launcher(settings, ours).serve()
    try:
        controller.wait(CONTROLLER_END_S)
    except subprocess.TimeoutExpired:
        controller.terminate()
    return _exit_code(controller.wait())


def _join_scripts() -> None:
    """Join the scripts of jobs, and make the archive that they run, before any child is forked.

    All children use these versions, also while an update replaces the files.
    """
    priority = "<6>" if "JOURNAL_STREAM" in os.environ else ""  # sd-daemon(3): the unit's plain lines are warnings
    copy_archive()
    digests = f"session.sh={digest(SESSION_SCRIPT)} batch.sh={digest(ENVIRONMENT_SCRIPT)}"
    with contextlib.suppress(OSError):
        print(f"{priority}launcher: job scripts {digests}", file=sys.stderr, flush=True)


def _exit_code(returncode: int) -> int:
    """Return the exit code for a return code of subprocess: 128 plus the number of a signal, as shells do."""
    return returncode if returncode >= 0 else 128 - returncode


if __name__ == "__main__":
    raise SystemExit(main())
