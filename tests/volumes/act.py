"""The launcher's verbs about volumes, each in a process of its own, without the launcher's socket around them: they can
die at a labelled point and be asked again at once.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from broker.launcher.request import RequestContext, VerbError
from broker.launcher.volume_verbs import VOLUME_VERBS, change_volumes, make_volumes
from broker.names import new_id
from broker.volumes import live_snapshot, record
from broker.volumes.copy_archive import ARCHIVE, copy_archive
from tests.processes import process_state, process_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.volumes.record import Record, Volume

IMAGE = {"profile": "base", "version": "1", "digest": "sha256:" + "1" * 64}
OTHER = {"profile": "other", "version": "2", "digest": "sha256:" + "2" * 64}


class DiedError(Exception):
    """The process was killed at the point that was armed."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Calls verbs for the user whose directory this is."""

    root: Path

    def make(self, driver: str = "auto") -> str:
        """A session with empty volumes; its id."""
        session = new_id()
        self("make", session=session, driver=driver)
        return session

    def __call__(self, verb: str, *, crash_at: str = "", **request: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        """The verb's answer; VerbError, or DiedError if it died at `crash_at`."""
        return self._act(verb, request, {"BERTH_CRASH_AT": crash_at}, None)

    def stopped_at(
        self, point: str, meanwhile: Callable[[], object], verb: str, request: dict[str, Any]
    ) -> dict[str, Any]:
        """The same of a verb that stands still at `point` while `meanwhile` is called."""
        return self._act(verb, request, {"BERTH_STOP_AT": point}, meanwhile)

    def _act(
        self, verb: str, request: dict[str, Any], armed: dict[str, str], meanwhile: Callable[[], object] | None
    ) -> dict[str, Any]:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os.environ |= armed
            self._answer(verb, {**IMAGE, "files": {}, "over": [], **request}, write)
        os.close(write)
        if meanwhile is not None:
            stopped = _stopped(child)
            meanwhile()
            os.kill(stopped, signal.SIGCONT)
        with os.fdopen(read, "rb") as answers:
            said = answers.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            raise DiedError(armed["BERTH_CRASH_AT"])
        answer: dict[str, Any] = json.loads(said)
        if armed.get("BERTH_CRASH_AT") and answer.get("error") == "crashed":
            raise DiedError(armed["BERTH_CRASH_AT"])
        if "error" in answer:
            raise VerbError(answer["error"], answer["message"])
        return answer

    def _answer(self, verb: str, request: dict[str, Any], descriptor: int) -> NoReturn:
        """In the child: nothing escapes."""
        try:
            os.umask(0o077)
            answer = self._do(verb, request)
        except VerbError as error:
            answer = {"error": error.kind, "message": str(error)}
        except BaseException as error:  # noqa: BLE001 - a forked child ends here whatever happens
            answer = {"error": "crashed", "message": repr(error)}
        os.write(descriptor, json.dumps(answer).encode())
        os._exit(0)

    def _do(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        vars(live_snapshot)["signal_job"] = self._job  # there is no Slurm here
        place = RequestContext(pwd.getpwuid(os.getuid()), str(self.root), "sbatch", "session.sh")
        if verb != "make":
            return change_volumes(place, VOLUME_VERBS[verb].parse(request))
        self.session(request["session"]).mkdir(parents=True, exist_ok=True)
        return make_volumes(place, request["session"], request["driver"])

    def _job(self, _: int, lock: Path) -> None:
        """Be the session's job that is asked for a copy, as session.sh is: tests/lab/test_session_copy.py."""
        run = lock.parent
        asked = dict(line.split("=", 1) for line in (run / "copy.request").read_text().splitlines())
        volumes = self.record(run.parent.name)
        layers, sources = self.root / "layers", {"HOME": volumes.home.top, "SYSTEM": volumes.system.top}
        words = []
        for volume in [each for each in sources if asked[each]]:
            previous = asked[f"{volume}_PREVIOUS"]
            words += [layers / sources[volume] / "tree", layers / asked[volume], layers / previous if previous else ""]
        program = run / ARCHIVE
        program.write_bytes(copy_archive())
        copying = [sys.executable, "-I", str(program), *map(str, words)]
        done = subprocess.run(copying, input="go\n", capture_output=True, text=True, timeout=60, check=False)
        result, message = "frozen", ""
        if done.returncode:
            said = [line for line in done.stdout.splitlines() if line.startswith("failed ")]
            result, message = "failed", (said or done.stderr.splitlines() or [""])[-1].removeprefix("failed ")
        text = f"RESULT={result}\nPAUSE=0.001\nMESSAGE={message}\nID={asked['ID']}\n"
        with (run / "copy.outcome").open("r+b", buffering=0) as outcome:
            outcome.write(text.encode())
        vars(live_snapshot)["job_is_gone"] = lambda _: False

    def session(self, session: str) -> Path:
        return self.root / "sessions" / session

    def record(self, session: str) -> Record:
        return record.load_record(self.session(session))

    def top(self, session: str, kind: str = "home") -> Path:
        """Return the directory to which a job would write."""
        return self.root / "layers" / self._volume(session, kind).top / "tree"

    def _volume(self, session: str, kind: str) -> Volume:
        found = self.record(session)
        return found.home if kind == "home" else found.system

    def shows(self, session: str, kind: str = "home") -> dict[str, str]:
        """The files of a volume whose layers only add and replace files."""
        volume = self._volume(session, kind)
        found: dict[str, str] = {}
        for layer in (*volume.layers, volume.top):
            tree = self.root / "layers" / layer / "tree"
            found |= {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}
        return found

    def layers(self) -> set[str]:
        return {entry.name for entry in (self.root / "layers").iterdir()}


def taken(actor: Actor, session: str, **request: Any) -> int:  # noqa: ANN401 - JSON
    """Take a snapshot; its number."""
    return int(actor("snapshot", session=session, operation=new_id(), **request)["snapshot"]["number"])


def _stopped(process: int) -> int:
    """Wait for this process, or one that it has started, to stand still; which one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for each in process_tree(process):
            if process_state(each) == "T":
                return each
        time.sleep(0.005)
    raise AssertionError("it came to no point at which it stops")
