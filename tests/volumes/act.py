"""The launcher's verbs about volumes, each in a process of its own, without the launcher's socket around them: they can
die at a labelled point and be asked again at once.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from broker.identifiers import new_id
from broker.launcher_place import Place, VerbError
from broker.launcher_volumes import VOLUME_VERBS, make_volumes
from broker.volumes import record

if TYPE_CHECKING:
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
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            self._answer(verb, {**IMAGE, **request}, write, crash_at)
        os.close(write)
        with os.fdopen(read, "rb") as answers:
            said = answers.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            raise DiedError(crash_at)
        answer: dict[str, Any] = json.loads(said)
        if crash_at and answer.get("error") == "crashed":
            raise DiedError(crash_at)
        if "error" in answer:
            raise VerbError(answer["error"], answer["message"])
        return answer

    def _answer(self, verb: str, request: dict[str, Any], descriptor: int, crash_at: str) -> NoReturn:
        """In the child: nothing escapes."""
        try:
            os.umask(0o077)
            os.environ["BERTH_CRASH_AT"] = crash_at
            answer = self._do(verb, request)
        except VerbError as error:
            answer = {"error": error.kind, "message": str(error)}
        except BaseException as error:  # noqa: BLE001 - a forked child ends here whatever happens
            answer = {"error": "crashed", "message": repr(error)}
        os.write(descriptor, json.dumps(answer).encode())
        os._exit(0)

    def _do(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        place = Place(pwd.getpwuid(os.getuid()), str(self.root), "sbatch", "session.sh")
        if verb != "make":
            return VOLUME_VERBS[verb](place, request)
        self.session(request["session"]).mkdir(parents=True, exist_ok=True)
        return make_volumes(place, request["session"], request["driver"])

    def session(self, session: str) -> Path:
        return self.root / "sessions" / session

    def record(self, session: str) -> Record:
        return record.load(self.session(session))

    def top(self, session: str, kind: str = "home") -> Path:
        """Where a job would write to."""
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
