"""The launcher: the only code that runs as root. It is small enough to read in one sitting.

It serves one socket, inherited from or shared with the controller, on which each line is a JSON request:
`{"id": 7, "verb": "submit", "user": "alice", …}`. For each it forks; the child becomes that user for good (groups,
gid, uid, umask, working directory) and only then reads an argument's meaning or touches a file. The answer is
`{"id": 7, "ok": {…}}` or `{"id": 7, "error": <kind>, "message": …}`. No network, no shell, no database, no path from
a request: paths are made of the storage template given at start and a session id that is checked here again.

Site mode:      berth-launcher --account berth --storage '/shared/berth/{user}' -- berth controller
Personal mode:  the controller runs it with --serve-fd, without root; then it serves its own user alone.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import pwd
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from broker.failpoints import failpoint
from broker.job.bundle import BATCH_SCRIPT, SESSION_SCRIPT, digest
from broker.launcher.request import RequestContext, VerbError, checked_user
from broker.launcher.session_verbs import VERBS
from broker.launcher.shares import LONG_VERBS, READY_VERB, Shares
from broker.launcher.volume_verbs import TOO_LARGE
from broker.service import notify
from broker.volumes.errors import from_os_error

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE_LIMIT = 4 * 2**20
"""Bytes of one request; the largest is a submission with a user's keys."""
ANSWER_LIMIT = 32 * 2**20
"""Bytes of one answer: half of what the controller reads of a line (broker/controller/launcher_client/client.py)."""
PENDING_BYTES = 64 * 2**20
"""Limit for requests that wait for a place of launcher_shares; more wait unread in the socket. The controller asks for
no more than there are places. So few wait here: for workers that were killed and that the kernel has not let go yet."""
NICENESS = 10
"""Priority of a long verb's worker (nice(2)): it yields the processor to short ones, the controller and the gateway."""
WORKER_BYTES = 2 * 2**30
"""Address space of a worker, and of each program that it starts (RLIMIT_AS in setrlimit(2)). `verify` of a layer with a
million files takes 0.4 GiB, mksquashfs with packing.THREADS 0.5 GiB. The readers of users' files need little:
this is for what they do not foresee."""
MESSAGE_CHARACTERS = 2000
"""Characters of what is said of a failure: sbatch's own words may be a page."""
CONTROLLER_END_S = 10.0
"""Time for the controller to end once the socket is closed at either side, until it gets SIGTERM. It ends by itself,
and a signal would hide the exit code that it has chosen."""
CRASHED = "crashed"
TIMED_OUT = "timed-out"
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # prctl(2), linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Settings:
    """What root decided at start; no request can change it."""

    storage: str
    sbatch: str
    session_script: str
    minimum_uid: int
    worker_bytes: int = WORKER_BYTES


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
    """One request under way: its process and what it has answered so far."""

    request: Request
    pid: int
    output: bytearray = field(default_factory=bytearray)


class Launcher:
    """Serves requests from one socket until its other end closes."""

    def __init__(self, settings: Settings, control: socket.socket) -> None:
        self._settings = settings
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}
        self._ended: dict[int, Child] = {}
        """By pidfd, workers that were killed and perhaps hang in the kernel, as on a dead file server."""
        self._shares = Shares()
        self._pending: list[Request] = []
        """Requests without a place, the oldest first."""
        self._input = bytearray()

    def serve(self) -> None:
        """Greet with the settings, so that a controller configured otherwise can refuse to start; then serve."""
        self._send(0, _line({"ok": {"storage": self._settings.storage}}))
        try:
            while self._step():
                pass
        finally:
            for child in self._children.values():
                _kill(child.pid)

    def _step(self) -> bool:
        """Handle what has happened since the last step; False when the controller has gone."""
        room = sum(request.size for request in self._pending) < PENDING_BYTES
        if room and self._take_request():
            return True
        self._listen(room)
        for key, _ in self._selector.select(self._until_deadline()):
            if key.fd in self._ended:
                self._reap(key.fd)
            elif key.fileobj is not self._control:
                self._read_child(key.fd)
            elif not self._receive():
                return False
        self._end_overdue()
        self._start_pending()
        return True

    def _listen(self, wanted: bool) -> None:
        """Look at the socket or, while there is no room for another request, leave it alone instead of spinning."""
        listening = self._control in self._selector.get_map()
        if wanted and not listening:
            self._selector.register(self._control, selectors.EVENT_READ)
        elif listening and not wanted:
            self._selector.unregister(self._control)

    def _receive(self) -> bool:
        try:
            data = self._control.recv(65536)
        except ConnectionResetError:  # it ended with answers of ours unread
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
        """Begin with every request that there is a place for: a short one passes long ones that wait."""
        waiting = []
        for request in self._pending:
            if self._shares.has_room(request.verb, request.user):
                self._fork(request)
            else:
                waiting.append(request)
        self._pending = waiting

    def _fork(self, request: Request) -> None:
        read_end, write_end = os.pipe()
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            _answer_as_user(self._settings, request.content, write_end, launcher)
        os.close(write_end)
        self._shares.take(request.verb, request.user)
        self._children[read_end] = Child(request, pid)
        failpoint(f"launcher.{request.verb}-begun")
        self._selector.register(read_end, selectors.EVENT_READ)

    def _read_child(self, fd: int) -> None:
        data = os.read(fd, 65536)
        child = self._children[fd]
        child.output += data
        if len(child.output) > ANSWER_LIMIT:
            self._finish(fd, _error("files", "the answer is too long"))
        elif not data:
            whole = child.output.endswith(b"\n")
            self._finish(fd, bytes(child.output) if whole else _error(CRASHED, "the launcher's worker died"))

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for fd, child in list(self._children.items()):
            if child.request.deadline < now:
                _kill(child.pid)
                self._finish(fd, _error(TIMED_OUT, "the launcher's worker took too long and was ended"))
        for request in [each for each in self._pending if each.deadline < now]:
            self._pending.remove(request)
            self._send(request.id, _error("busy", "too many earlier requests are still under way"))

    def _finish(self, fd: int, answer: bytes) -> None:
        child = self._children.pop(fd)
        self._selector.unregister(fd)
        os.close(fd)
        _kill(child.pid)  # whatever the worker left running in its process group
        ended = os.pidfd_open(child.pid)
        self._ended[ended] = child
        self._selector.register(ended, selectors.EVENT_READ)
        failpoint(f"launcher.{child.request.verb}-done")
        self._send(child.request.id, answer)

    def _reap(self, ended: int) -> None:
        """Give the place of a worker back once the kernel has let go of it."""
        child = self._ended.pop(ended)
        self._selector.unregister(ended)
        os.close(ended)
        os.waitpid(child.pid, 0)
        self._shares.give_back(child.request.verb, child.request.user)

    def _send(self, request_id: int, answer: bytes) -> None:
        """Hand an answer on without parsing it: it is a worker's, and may be made of what a user wrote."""
        with contextlib.suppress(BrokenPipeError):  # the controller has gone; the next read ends the service
            self._control.sendall(b'{"id": %d, %s' % (request_id, answer[1:]))

    def _until_deadline(self) -> float | None:
        requests = [*(child.request for child in self._children.values()), *self._pending]
        return max(0.0, min(request.deadline for request in requests) - time.monotonic()) if requests else None


def _answer_as_user(settings: Settings, request: dict[str, Any], answer_fd: int, launcher: int) -> NoReturn:
    """In the child: become the user, do the verb, write one JSON object, and end; nothing escapes. It ends with the
    launcher, so that what is asked of the next one is not done by two.
    """
    try:
        os.setsid()
        _limit_memory(settings.worker_bytes)
        if request.get("verb") in LONG_VERBS:
            os.nice(NICENESS)
        user = checked_user(request.get("user"), settings.minimum_uid)
        _become(user)
        if os.getppid() != launcher:  # it had gone before the kernel was told to end us with it
            os._exit(1)
        _close_all_but(answer_fd)
        place = RequestContext(user, settings.storage, settings.sbatch, settings.session_script)
        verb = VERBS.get(str(request.get("verb")))
        if verb is None:
            raise VerbError("invalid", f"no such verb: {request.get('verb')!r}")
        answer = _line({"ok": verb(place, request)})
    except VerbError as error:
        answer = _error(error.kind, str(error))
    except OSError as error:
        failed = from_os_error(error)
        answer = _error(failed.kind, str(failed))
    except (MemoryError, RecursionError):  # nothing is left half done but by sbatch, which may have taken the job
        answer = _error("unclear" if request.get("verb") == "submit" else "files", TOO_LARGE)
    except BaseException as error:  # noqa: BLE001 - a forked child must end here whatever happens
        answer = _error(CRASHED, f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):
        view = memoryview(answer)
        while view:
            view = view[os.write(answer_fd, view) :]
    os._exit(0)


def _limit_memory(worker_bytes: int) -> None:
    """Bound what the worker can take, and have the kernel end it before launcher and controller if memory runs out."""
    with contextlib.suppress(OSError):  # /proc as a site has mounted it
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(score, b"1000")
        os.close(score)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = worker_bytes if hard == resource.RLIM_INFINITY else min(worker_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _become(user: pwd.struct_passwd) -> None:
    """Give up every privilege for good (setresuid(2)); without root, only one's own identity is accepted."""
    if os.geteuid() == 0:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if os.getresuid() != (user.pw_uid,) * 3 or os.getresgid() != (user.pw_gid,) * 3:
        raise VerbError("refused", f"this launcher cannot act as {user.pw_name}")
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o077)
    os.chdir("/")


def _close_all_but(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(3, fd)
    os.closerange(fd + 1, 65536)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _line(answer: dict[str, Any]) -> bytes:
    """Return an answer as one line; its end shows that it is whole."""
    return json.dumps(answer).encode() + b"\n"


def _error(kind: str, message: str) -> bytes:
    return _line({"error": kind, "message": message[:MESSAGE_CHARACTERS]})


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _start_controller(argv: Sequence[str], account: str, control: socket.socket) -> subprocess.Popen[bytes]:
    """Run the controller as the service account; it finds its end of the socket in BERTH_LAUNCHER_FD."""
    user = pwd.getpwnam(account)
    environment = dict(os.environ) | {
        "BERTH_LAUNCHER_FD": str(control.fileno()),
        "HOME": user.pw_dir,
        "USER": account,
        "LOGNAME": account,
    }
    parent = os.getpid()

    def die_with_parent() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
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
    parser.add_argument("--minimum-uid", type=int, default=1000, help="accounts below it are never acted for")
    parser.add_argument(
        "--worker-memory", type=int, default=WORKER_BYTES >> 20, metavar="MIB", help="address space of one worker"
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
    """Join the scripts of jobs before any worker is forked, so that all workers use the version that is logged."""
    priority = "<6>" if "JOURNAL_STREAM" in os.environ else ""  # sd-daemon(3): the unit's plain lines are warnings
    digests = f"session.sh={digest(SESSION_SCRIPT)} batch.sh={digest(BATCH_SCRIPT)}"
    with contextlib.suppress(OSError):
        print(f"{priority}launcher: job scripts {digests}", file=sys.stderr, flush=True)


def _exit_code(returncode: int) -> int:
    """Turn what subprocess says of a process into an exit code: 128 and the number for a signal, as shells do."""
    return returncode if returncode >= 0 else 128 - returncode


if __name__ == "__main__":
    raise SystemExit(main())
