"""git at work while its repository is snapshotted and rolled back: `git fsck` judges each state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.vm.person import WAIT

if TYPE_CHECKING:
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

BEGIN = """
rm -rf repo copy
git init -q -b main repo
cd repo
git config user.name alice
git config user.email alice@example.org
for n in 1 2 3; do
  mkdir -p folder$n
  for file in a b c; do echo "$n $file" >folder$n/$file; done
  git add .
  git commit -q -m "commit $n"
done
"""
BRANCH = """
cd repo
git checkout -q -b side
for n in 4 5; do echo "$n" >>folder1/a; git commit -q -a -m "side $n"; done
git checkout -q main
"""
TIDY = """
git clone -q --no-hardlinks repo copy
cd repo
git branch -q -D side
git rm -q -r folder2
git commit -q -m 'remove folder2'
git reflog expire --expire=now --all
git gc -q --prune=now
"""
JUDGE = """
for each in repo copy; do
  [ -e $each ] || continue
  git -C $each fsck --full --strict --no-dangling
  [ -z "$(git -C $each status --porcelain)" ]
  git -C $each for-each-ref --format='%(refname) %(objectname)'
done
"""


@pytest.fixture(scope="module")
def places(limited: bool) -> list[str]:
    """The directories of the repositories: in the system volume too, unless the doctor has announced its limits."""
    return ["/home/alice"] if limited else ["/home/alice", "/opt"]


def test_repository_is_whole_over_snapshots_gc_and_rollbacks(alice: Person, dev: str, places: list[str]) -> None:
    def each(script: str) -> list[str]:
        return [alice.inside(dev, f"cd {place}; {script}") for place in places]

    def snapshot() -> str:
        return str(json.loads(alice.ok("snapshot", dev, "--json", *WAIT))["number"])

    states = {}
    each(BEGIN)
    begun = snapshot()
    states[begun] = each(JUDGE)
    each(BRANCH)
    branched = snapshot()
    states[branched] = each(JUDGE)
    assert all("refs/heads/side" in refs for refs in states[branched])
    each(TIDY)
    alice.ok("stop", dev, *WAIT)
    tidied = snapshot()
    alice.ok("start", dev, *WAIT)
    states[tidied] = each(JUDGE)
    assert not any("refs/heads/side" in refs for refs in states[tidied])
    for number in (branched, tidied, begun):
        alice.ok("rollback", dev, number, "--yes", *WAIT)
        assert each(JUDGE) == states[number]
    each(BRANCH + "cd ..\n" + TIDY)
    each("rm -rf repo copy; [ ! -e repo ]")
