"""qemu's monitor: commands of the QEMU Machine Protocol over a Unix socket (docs/interop/qmp-spec of qemu)."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any, TextIO

from slurm.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = "monitor"
ANSWER_SECONDS = 30


def execute(state: Path, command: str, *, seconds: float = ANSWER_SECONDS, **arguments: object) -> dict[str, Any]:
    """Run one command of the qemu whose state directory this is; return its result. LabError if it is refused."""
    result = _run(state, command, arguments, seconds)
    return result if isinstance(result, dict) else {}


def human(state: Path, line: str, *, seconds: float = ANSWER_SECONDS) -> str:
    """Run one command of the monitor for people; return what it prints."""
    return str(_run(state, "human-monitor-command", {"command-line": line}, seconds))


def _run(state: Path, command: str, arguments: dict[str, object], seconds: float) -> object:
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(seconds)
            # By the descriptor: a socket's path has at most 107 bytes, a state directory's may have more.
            client.connect(f"/proc/self/fd/{directory}/{SOCKET}")
            with client.makefile("rw") as stream:
                _ask(stream, "qmp_capabilities", {})
                return _ask(stream, command, arguments)
    except (OSError, ValueError) as error:
        raise LabError(f"qemu does not answer `{command}`: {error}", log=state / "qemu.log") from error
    finally:
        os.close(directory)


def _ask(stream: TextIO, command: str, arguments: dict[str, object]) -> object:
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    for line in stream:  # the greeting and events come in between
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"qemu refuses `{command}`: {answer['error'].get('desc')}")
        if "return" in answer:
            result: object = answer["return"]
            return result
    raise OSError("the connection has ended")
