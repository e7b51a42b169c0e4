"""Large trees in a session: one that git works in, and quiet ones, which must stay what they are in every snapshot."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.workloads.workload import FLIP, PAUSE, Workload

if TYPE_CHECKING:
    from tests.lab.kept import Kept

PROGRAM = Path(__file__).with_name("trees_program.py")
_GIT = """
export GIT_AUTHOR_NAME=alice GIT_AUTHOR_EMAIL=alice@example.org GIT_OPTIONAL_LOCKS=0
export GIT_COMMITTER_NAME=alice GIT_COMMITTER_EMAIL=alice@example.org
"""
_HISTORY = """
git init -q -b main .
git config gc.auto 0
git add .
git commit -q -m all
git checkout -q -b other
for file in $(git ls-files '*7.c'); do echo '// other' >>$file; done
git mv src/part1 src/moved
git rm -q -r src/part2
git commit -q -a -m other
git checkout -q main
git repack -q -a -d
"""
_REPOSITORY = Workload(
    name="repository",
    prepare="",
    work=f"""
{_GIT}
cd ~/repository
rm -f .git/index.lock .git/HEAD.lock .git/refs/heads/main.lock # as after a power cut
git reset -q --hard
git clean -f -d -q
git checkout -q -f main
while :; do
  git checkout -q other
  git checkout -q main
  n=$(git rev-list --count main)
  echo "int n = $n;" >src/part$((n % 40 + 5))/new$n.c
  git add .
  git commit -q -m "number $n"
  if ((n % 3 == 0)); then git gc -q --prune=now; fi
  {PAUSE}
done
""",
    progress="git -C ~/repository rev-list --count main",
    judge=f"""
{_GIT}
cd ~/repository
git fsck --full --strict --no-dangling
test $(git rev-list --count main) -ge $1
rm -f .git/index.lock
git reset -q --hard
git clean -f -d -q
test -z "$(git status --porcelain)"
git checkout -q -f main
test -z "$(git status --porcelain)"
""",
    damage=f"cd ~/repository; pack=$(ls -S .git/objects/pack/*.pack | head -1); chmod u+w $pack; {FLIP} $pack 5000",
    complaint="error",
    programs=(PROGRAM,),
)
_LAY_OUT = f"""
{_GIT}
mkdir ~/quiet /opt/quiet
for volume in ~ /opt; do python3 /tmp/trees.py node-modules $volume/quiet/modules $1; done
python3 -m venv /opt/quiet/venv
python3 /tmp/trees.py sources ~/quiet/source $1
cd ~/quiet/source
{_HISTORY}
"""


def repository(scale: int) -> Workload:
    """A source tree in which git checks out, commits and collects; `scale` as trees_program.py has it."""
    laid_out = f"{_GIT}\nmkdir ~/repository; python3 trees_program.py sources ~/repository {scale}\ncd ~/repository"
    return replace(_REPOSITORY, prepare=f"{laid_out}\n{_HISTORY}")


@dataclass(frozen=True, slots=True)
class QuietTrees:
    """A source tree, a tree of node_modules and a virtual environment, in the home and in the system volume."""

    reference: Path
    """The path of a copy of them on this machine."""
    scale: int
    """As trees_program.py has it."""
    folders: tuple[str, ...] = ("quiet/", "/opt/quiet/")

    def make(self, session: Kept) -> None:
        """Lay them out, with `git` and `python3 -m venv`, and take the copy."""
        session.says("cat >/tmp/trees.py", stdin=PROGRAM.read_bytes())
        session.says(f"bash -eu -s {self.scale}", stdin=_LAY_OUT.encode())
        for number, folder in enumerate(self.folders):
            self._rsync(session, folder, f"{self.reference}/{number}/")

    def judge(self, session: Kept) -> None:
        """AssertionError if rsync would have anything to copy, git sees a change, or the environment does not run."""
        for number, folder in enumerate(self.folders):
            changed = self._rsync(session, folder, f"{self.reference}/{number}/", "--dry-run", "--checksum")
            assert changed == "", f"{folder} in {session.name}:\n{changed[:4000]}"
        looks = "export GIT_OPTIONAL_LOCKS=0; cd ~/quiet/source; git status --porcelain; git fsck --full --strict 2>&1"
        assert session.says(looks) == ""
        runs = "/opt/quiet/venv/bin/python -B -c 'import pip, sys; print(sys.prefix)'"
        assert session.says(f"{runs}; /opt/quiet/venv/bin/python -B -m pip check") == (
            "/opt/quiet/venv\nNo broken requirements found."
        )

    def damage(self, session: Kept) -> None:
        """AssertionError unless the judge notices one byte that is wrong, in a file with the time of before."""
        file = "/opt/quiet/venv/pyvenv.cfg"
        session.says(f"cp -p {file} /tmp/times; {FLIP} {file} 0; touch -r /tmp/times {file}")
        changed = self._rsync(session, self.folders[1], f"{self.reference}/1/", "--dry-run", "--checksum")
        assert changed.split() == [">fc........", "venv/pyvenv.cfg"], changed

    def _rsync(self, session: Kept, folder: str, target: str, *options: str) -> str:
        """Copy a folder of the session's to this machine, or tell what would be copied."""
        Path(target).mkdir(parents=True, exist_ok=True)
        config = shlex.quote(str(session.user.laptop.config))
        done = subprocess.run(
            ["rsync", "-aHAX", "--numeric-ids", "--delete", "--itemize-changes", *options,
             "-e", f"ssh -F {config} -o BatchMode=yes", f"{session.name}.berth:{folder}", target],
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode(errors="replace") if options else ""
