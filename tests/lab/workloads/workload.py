"""Programs that write in a session while it is snapshotted, and judges of what they left: shell scripts, all of them.

Scripts and programs lie in the session's /tmp, which no snapshot has, and are put there again after each start: a
snapshot cannot damage its own judge.
"""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kept import Kept

ROOM = "/tmp/workloads"  # noqa: S108 - of the session, not of this machine
PROGRESS_SECONDS = 60.0
PAUSE = "sleep 0.5"
"""Between two turns of a workload that would take a whole processor: the tests beside it need some, too."""
FLIP = (
    'python3 -c \'import sys; file = open(sys.argv[1], "r+b"); file.seek(int(sys.argv[2])); old = file.read(1)[0]; '
    "file.seek(int(sys.argv[2])); file.write(bytes([old ^ 1]))'"
)
"""Changes one bit of a file, whose path follows, in the byte whose offset follows."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Scripts for bash, which run with `-euo pipefail` in the folder that holds them and `programs`."""

    name: str
    prepare: str
    """Lays out what has to be there before the first snapshot."""
    work: str
    """Works until it is killed. It ends only by a failure, and continues from the state in the volumes."""
    progress: str
    """Prints how much work is done: a snapshot that is asked for afterwards has it. Nothing, while there is none."""
    judge: str
    """Succeeds if a session in which nothing works holds a state that is right, with the work done that $1 says."""
    damage: str
    """Changes one byte, so that `judge` must fail."""
    complaint: str
    """The message of the check about that change."""
    programs: tuple[Path, ...] = ()

    def archive(self, archive: tarfile.TarFile) -> None:
        """Add the scripts and programs."""
        scripts = {each: getattr(self, each) for each in ("prepare", "work", "progress", "judge", "damage")}
        for name, text in {**scripts, **{path.name: path.read_text() for path in self.programs}}.items():
            entry, content = tarfile.TarInfo(f"{self.name}/{name}"), text.encode()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@dataclass(frozen=True, slots=True)
class Workloads:
    """Some of them at once, in one session."""

    members: tuple[Workload, ...]

    def install(self, session: Kept) -> None:
        """Put them where they run; once after each start of the session."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for member in self.members:
                member.archive(archive)
        session.says(f"mkdir -p {ROOM}; tar -xzC {ROOM}", stdin=packed.getvalue())

    def prepare(self, session: Kept) -> None:
        self._run_all(session, "prepare", dict.fromkeys(self.names, ""))

    def start(self, session: Kept) -> None:
        """Begin or continue all of them; return when each has done something."""
        before = self.progress(session)
        begin = "echo $$ >pid; exec nice bash -euo pipefail work >said 2>&1 </dev/null"
        session.says("; ".join(f"(cd {ROOM}/{each.name}; setsid bash -c '{begin}' &)" for each in self.members))
        self.wait_for_more(session, before)

    def progress(self, session: Kept) -> dict[str, int]:
        """Return the amount of work of each writer; AssertionError, with its output, if one has ended."""
        ended = '{ echo "$each ended: $(tail -c 2000 said)" >&2; exit 1; }'
        lives = f"! test -e pid || kill -0 $(cat pid) 2>/dev/null || {ended}"
        names = " ".join(self.names)
        told = f"for each in {names}; do cd {ROOM}/$each; {lives}; echo $each $(bash -euo pipefail progress); done"
        done = session.user.laptop.ssh(session.name, f"set -eu; {told}")
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        lines = (line.partition(" ") for line in done.stdout.decode().splitlines())
        return {name: int(count or 0) for name, _, count in lines}

    def wait_for_more(self, session: Kept, before: dict[str, int]) -> dict[str, int]:
        """The progress, once each has done more than `before`."""
        now = dict(before)

        def further() -> bool:
            now.update(self.progress(session))
            return all(now[name] > before[name] for name in before)

        wait_for(further, what=f"more work than {before}", seconds=PROGRESS_SECONDS)
        return now

    def judge(self, session: Kept, acknowledged: dict[str, int]) -> None:
        """AssertionError unless all that was acknowledged is there, and nothing else than what may be."""
        self._run_all(session, "judge", {name: str(count) for name, count in acknowledged.items()})

    def damage(self, session: Kept) -> None:
        """AssertionError unless each judge notices one byte that is wrong."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: _damage(session, member), self.members))

    def _run_all(self, session: Kept, script: str, arguments: dict[str, str]) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: _run(session, member, script, arguments[member.name]), self.members))

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]


def _command(member: Workload, script: str, *arguments: str) -> list[str]:
    return ["bash", "-euc", f"cd {ROOM}/{member.name}; exec bash -euxo pipefail {script} {' '.join(arguments)}"]


def _run(session: Kept, member: Workload, script: str, *arguments: str) -> None:
    done = session.user.berth("exec", session.name, "--", *_command(member, script, *arguments), seconds=120)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, f"{script} of {member.name} {' '.join(arguments)} in {session.name}:\n{said[-4000:]}"


def _damage(session: Kept, member: Workload) -> None:
    _run(session, member, "damage")
    judged = session.user.berth("exec", session.name, "--", *_command(member, "judge", "0"), seconds=120)
    said = (judged.stdout + judged.stderr).decode(errors="replace")
    assert judged.returncode != 0, f"the judge of {member.name} accepts a wrong byte"
    assert member.complaint in said, f"the judge of {member.name} fails over something else:\n{said[-2000:]}"
