"""The launcher's child process for one request: it becomes the user for good and runs one verb.

The launcher itself never acts in a user's directory. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from broker.launcher.arguments import LONG_VERBS
from broker.launcher.request import RequestContext, VerbError, checked_user
from broker.launcher.verbs import VERBS
from broker.launcher.volume_verbs import TOO_LARGE
from broker.volumes.errors import from_os_error

if TYPE_CHECKING:
    import pwd
    from collections.abc import Iterable

NICENESS = 10
"""Priority of a long verb's process (nice(2)): it yields the processor to short verbs, controller and gateway."""
CHILD_BYTES = 2 * 2**30
"""Address space of a child, and of each program that it starts (RLIMIT_AS in setrlimit(2)). `verify` of a layer with a
million files takes 0.4 GiB, mksquashfs with squashfs.PACK_THREADS 0.5 GiB. The readers of users' files need little:
this is for what they do not foresee."""
MESSAGE_CHARACTERS = 2000
"""Characters of what is said of a failure: sbatch's own words may be a page."""
CRASHED = "crashed"
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # prctl(2), linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that root passed at the launcher's start; no request can change them."""

    storage: str
    sbatch: str
    session_script: str
    minimum_uid: int
    child_bytes: int = CHILD_BYTES


def run_request(
    settings: Settings, request: dict[str, Any], answer_fd: int, launcher: int, stream_fd: int = -1
) -> NoReturn:
    """Run a request in a forked child: become the user, run the verb, write one JSON object, and exit.

    `stream_fd`: as RequestContext.stream. No exception leaves this function. The kernel ends the child with the
    launcher, so that the next launcher does not do the same twice.
    """
    try:
        os.setsid()
        _limit_memory(settings.child_bytes)
        if request.get("verb") in LONG_VERBS:
            os.nice(NICENESS)
        user = checked_user(request.get("user"), settings.minimum_uid)
        _become(user)
        if os.getppid() != launcher:  # it ended before prctl(2) took effect
            os._exit(1)
        _close_all_but({answer_fd, stream_fd} - {-1})
        context = RequestContext(user, settings.storage, settings.sbatch, settings.session_script, stream_fd)
        verb = VERBS.get(str(request.get("verb")))
        if verb is None:
            raise VerbError("invalid", f"no such verb: {request.get('verb')!r}")
        answer = encode_answer({"ok": verb(context, request)})
    except VerbError as error:
        answer = encode_error(error.kind, str(error))
    except OSError as error:
        failed = from_os_error(error)
        answer = encode_error(failed.kind, str(failed))
    except (MemoryError, RecursionError):  # sbatch may have taken the job; other verbs leave nothing half done
        answer = encode_error("unclear" if request.get("verb") == "submit" else "files", TOO_LARGE)
    except BaseException as error:  # noqa: BLE001 - a forked child must exit here
        answer = encode_error(CRASHED, f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):
        view = memoryview(answer)
        while view:
            view = view[os.write(answer_fd, view) :]
    os._exit(0)


def _limit_memory(child_bytes: int) -> None:
    """Limit this process's memory, and let the kernel end it before launcher and controller if memory runs out."""
    with contextlib.suppress(OSError):  # a site may mount /proc read-only
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(score, b"1000")
        os.close(score)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = child_bytes if hard == resource.RLIM_INFINITY else min(child_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _become(user: pwd.struct_passwd) -> None:
    """Become the user for good (setresuid(2)). Without root, only the launcher's own user is accepted."""
    if os.geteuid() == 0:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if os.getresuid() != (user.pw_uid,) * 3 or os.getresgid() != (user.pw_gid,) * 3:
        raise VerbError("refused", f"this launcher cannot act as {user.pw_name}")
    set_process_option(PR_SET_NO_NEW_PRIVS, 1)
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o077)
    os.chdir("/")


def _close_all_but(kept: Iterable[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 65536)


def set_process_option(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def encode_answer(answer: dict[str, Any]) -> bytes:
    """Return an answer as one line; its end shows that it is whole."""
    return json.dumps(answer).encode() + b"\n"


def encode_error(kind: str, message: str) -> bytes:
    return encode_answer({"error": kind, "message": message[:MESSAGE_CHARACTERS]})
