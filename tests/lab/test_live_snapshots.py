"""Snapshots of sessions in which something is being written: what comes back is what a power cut would have left, and
the programs that wrote it accept it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab.kept import Kept
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User

SNAPSHOTS = 3
TRIES = 5
"""Times that so many snapshots are taken until one has fallen into a clone by git."""

WRITER = """
import os, sqlite3, sys
mode = sys.argv[1]
db = sqlite3.connect(os.path.expanduser("~/" + mode), isolation_level=None)
for pragma in (f"journal_mode = {mode}", "synchronous = full", "wal_autocheckpoint = 20", "cache_size = 5"):
    db.execute("pragma " + pragma)
db.execute("create table part (n integer, filler blob)")
told = os.open("/tmp/" + mode, os.O_WRONLY | os.O_CREAT)
n = 0
while True:
    n += 1
    db.execute("begin immediate")
    for part in range(3):
        db.execute("insert into part values (?, randomblob(3000))", (n,))
    db.execute("update part set filler = randomblob(3000) where n = ?", (1 + n * 7919 % n,))
    db.execute("commit")
    os.pwrite(told, b"%09d" % n, 0)
"""
"""Writes transactions of three rows and a change that scatters, and tells in /tmp, which no snapshot has, of each that
is committed."""

CHECK = """
import json, os, sqlite3, sys
said = {}
for mode in sys.argv[1:]:
    db = sqlite3.connect(os.path.expanduser("~/" + mode))
    rows = db.execute("select n, count(*) from part group by n order by n").fetchall()
    said[mode] = {
        "integrity": db.execute("pragma integrity_check").fetchall(),
        "last": rows[-1][0],
        "whole": rows == [(n, 3) for n in range(1, len(rows) + 1)],
    }
print(json.dumps(said))
"""

REPOSITORY = """
git config --global user.name alice
git config --global user.email alice@example.org
git init -q ~/source
python3 - <<'.'
import os, pathlib
for n in range(1500):
    path = pathlib.Path.home() / f"source/folder{n % 40}/file{n}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(12000))
.
cd ~/source
git add .
git commit -q -m many
mkdir ~/clones
"""

CLONING = """
n=0
while :; do
  git clone -q "file://$HOME/source" ~/clones/$((n += 1))
  echo $n >>~/finished
  echo $n >/tmp/cloned
  mkdir -p ~/old
  mv ~/clones/$((n - 3)) ~/old/ 2>/dev/null || continue
  rm -rf ~/old
done
"""

ACCEPTED = """
placeholder='-c fsck.badReferentName=ignore' # refs/heads/.invalid: what git writes into HEAD until it knows better
cd ~/clones
for each in *; do
  finished=no
  ! grep -qx $each ~/finished || finished=yes
  if git -C $each rev-parse --git-dir >/dev/null 2>&1; then
    said=$(git -C $each $placeholder fsck --full --no-dangling 2>&1) || { echo "$each: fsck: $said"; exit 1; }
  fi
  if [ $finished = yes ]; then
    test "$(git -C $each rev-parse HEAD)" = "$(git -C ~/source rev-parse HEAD)"
    test -z "$(git -C $each status --porcelain)"
  elif git -C $each rev-parse -q --verify HEAD >/dev/null 2>&1; then
    rm -f $each/.git/index.lock
    git -C $each reset -q --hard
    test -z "$(git -C $each status --porcelain)"
  fi
  echo $each $finished
done
"""
"""Looks at every clone, those that had been finished more closely. After a power cut, too, a lock may have to be
removed."""


@pytest.fixture
def kept(alice: User, name: str) -> Iterator[Kept]:
    """A session that runs and, with all its data, is gone after the test."""
    made = Kept(alice, name)
    made.start()
    yield made
    purge(made)


@pytest.fixture
def restored(kept: Kept, new_name: Callable[[str], str]) -> Iterator[Callable[[int], Kept]]:
    """Starts clones at snapshots; they are gone after the test."""
    made: list[Kept] = []

    def clone(number: int) -> Kept:
        made.append(Kept(kept.user, new_name("c")))
        kept.user.ok("clone", kept.name, made[-1].name, "--at", str(number), "--start", seconds=120)
        return made[-1]

    yield clone
    for each in made:
        purge(each)


def purge(session: Kept) -> None:
    session.stop()
    session.user.ok("delete", session.name, "--purge", "--yes", "--timeout", "60", seconds=90)


def in_background(session: Kept, command: str) -> None:
    session.says(f"setsid {command} >~/said 2>&1 </dev/null &")


def test_a_database_has_every_transaction_that_was_acknowledged_before(
    kept: Kept, restored: Callable[[int], Kept]
) -> None:
    """In both of SQLite's ways to commit, at once."""
    modes = ["wal", "delete"]
    kept.says("cat >~/writer.py", stdin=WRITER.encode())
    for mode in modes:
        in_background(kept, f"python3 ~/writer.py {mode}")
    acknowledged: dict[int, list[int]] = {}
    last = [0, 0]
    for _ in range(SNAPSHOTS):

        def far(last: list[int] = last) -> bool:
            return all(now > before + 20 for now, before in zip(counters(kept, modes), last, strict=True))

        wait_for(far, what="more transactions")
        last = counters(kept, modes)
        made = kept.snapshot()
        assert made["consistency"] == "frozen"
        acknowledged[made["number"]] = last
    assert len(kept.says("pgrep -f writer.py").split()) == len(modes), "the writers go on"
    for number, at_least in acknowledged.items():
        clone = restored(number)
        said = json.loads(clone.says(f"python3 - {' '.join(modes)}", stdin=CHECK.encode()))
        for mode, committed in zip(modes, at_least, strict=True):
            assert said[mode]["integrity"] == [["ok"]], (number, mode)
            assert said[mode]["whole"], (number, mode)
            assert said[mode]["last"] >= committed, (number, mode)


def counters(session: Kept, modes: list[str]) -> list[int]:
    """Return the number of acknowledged transactions of each mode."""
    told = session.says(f"for each in {' '.join(modes)}; do cat /tmp/$each 2>/dev/null || echo -n 0; echo; done")
    return [int(text or 0) for text in told.split("\n")]


def test_git_accepts_what_there_is_of_its_clones(kept: Kept, restored: Callable[[int], Kept]) -> None:
    kept.says("bash -eu", stdin=REPOSITORY.encode())
    kept.says("cat >~/cloning.sh; echo 0 >/tmp/cloned", stdin=CLONING.encode())
    in_background(kept, "bash ~/cloning.sh")
    interrupted = 0
    for _ in range(TRIES):
        for number, done in snapshots_between_clones(kept).items():
            clone = restored(number)
            said = clone.says("bash -eu", stdin=ACCEPTED.encode()).splitlines()
            assert max(int(line.split()[0]) for line in said if line.endswith(" yes")) >= done, said
            interrupted += sum(line.endswith(" no") for line in said)
            assert clone.says("git -C ~/source fsck --full 2>&1; git -C ~/source status --porcelain") == ""
        if interrupted:
            break
    assert interrupted, "no snapshot was taken while git was at work"


def snapshots_between_clones(kept: Kept) -> dict[int, int]:
    """Some snapshots, and how many clones were finished before each; whether another was under way is chance."""
    finished: dict[int, int] = {}
    for _ in range(SNAPSHOTS):
        before = max(finished.values(), default=0)
        wait_for(lambda before=before: int(kept.says("cat /tmp/cloned")) > before, what="a clone", seconds=60)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        done = int(kept.says("cat /tmp/cloned"))
        made = kept.snapshot()
        assert made["consistency"] == "frozen"
        finished[made["number"]] = done
    kept.says("pgrep -f cloning.sh")
    return finished
