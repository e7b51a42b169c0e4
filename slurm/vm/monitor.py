"""qemu's monitor: commands of the QEMU Machine Protocol over a Unix socket (docs/interop/qmp-spec of qemu)."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from slurm.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = "monitor"
ANSWER_SECONDS = 30


def execute(state: Path, command: str, *, seconds: float = ANSWER_SECONDS, **arguments: object) -> Any:
    """Run one command of the qemu whose state directory this is; return its result. LabError if it is refused."""
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


def human(state: Path, line: str, *, seconds: float = ANSWER_SECONDS) -> str:
    """Run one command of the monitor for people; return what it prints."""
    return str(execute(state, "human-monitor-command", seconds=seconds, **{"command-line": line}))


def _ask(stream: Any, command: str, arguments: dict[str, object]) -> Any:
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    for line in stream:  # the greeting and events come in between
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"qemu refuses `{command}`: {answer['error'].get('desc')}")
        if "return" in answer:
            return answer["return"]
    raise OSError("the connection has ended")
