"""The greeting of a login, and its environment: the session itself, the client's terminal, a locale that it has."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from tests.lab.conftest import User


def typed(user: User, session: str, words: str, *, command: str = "", term: str = "xterm-256color") -> str:
    """Return the text on the terminal of a login in which these words are typed."""
    argv = ["env", f"TERM={term}", *user.laptop.argv(session, [command] if command else [], options=["-tt"])]
    done = subprocess.run(argv, input=words.encode(), capture_output=True, timeout=DEADLINE_S, check=False)
    return done.stdout.decode().replace("\r\n", "\n")


def test_a_login_tells_what_the_session_is(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--gres=gpu:intel:1", "--nodelist=c1", "--time=3:00:00")
    seen = typed(alice, name, "exit\n")
    assert f"session   {name}, base@" in seen
    assert re.search(r"node      c1, GPU [01]\n", seen)
    left = re.search(r"time left (?:3 h 0|2 h \d+) min, until \d{4}-\d\d-\d\d \d\d:\d\d\n", seen)
    assert left is not None, seen
    assert "snapshots none\n" in seen
    alice.ok("snapshot", name, "first-light")
    assert re.search(r"snapshots 1, last: number 1 \(first-light\) of \d{4}-", typed(alice, name, "exit\n"))
    record = f"/shared/berth/alice/sessions/{json.loads(alice.ok('show', name, '--json'))['id']}/volumes.json"
    stuck = 's/^ "unflattened": "/&No space left on device/'
    assert alice.site.lab.run(["sed", "-i", stuck, record], user="alice").returncode == 0
    assert "layers    cannot be joined: No space left on device\n" in typed(alice, name, "exit\n")
    # Hours later: the shell computes what is left from the end of the job and the time of day.
    script = "SLURM_JOB_END_TIME=$(($(date +%s) + 630)) SHLVL=0 bash -il\nexit\nexit\n"
    assert "time left 10 min, until" in typed(alice, name, script)


def test_nobody_else_hears_it(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    for command in ("true", "bash -lc true", "/usr/lib/sftp-server -h || true"):
        done = alice.laptop.ssh(name, command)
        assert (done.stdout, done.returncode) == (b"", 0), command
    assert "snapshots" not in typed(alice, name, "", command="true")
    assert typed(alice, name, "bash -l\nexit\nexit\n").count("time left") == 1
    alice.laptop.ssh(name, "touch ~/.hushlogin")
    assert "time left" not in typed(alice, name, "exit\n")


@pytest.mark.parametrize(("term", "known"), [("xterm-256color", True), ("vt100", True), ("xterm-of-tomorrow", False)])
def test_a_terminal_that_the_image_does_not_know_is_taken_for_xterm(
    alice: User, standing: str, term: str, known: bool
) -> None:
    seen = typed(alice, standing, "echo is-$TERM-; tput cols\nexit\n", term=term)
    assert f"is-{term if known else 'xterm-256color'}-" in seen
    assert "unknown" not in seen


@pytest.mark.parametrize("lang", ["de_DE.UTF-8", "UTF-8", "xx"])
def test_a_locale_that_the_image_lacks_is_c_utf_8_without_a_word(alice: User, standing: str, lang: str) -> None:
    script = "locale charmap; perl -e 1; bash -c 'echo $LANG$LC_ALL$LC_CTYPE'; bash -lc 'locale charmap'"
    argv = alice.laptop.argv(standing, [script], options=["-o", "SendEnv=LANG LC_*"])
    environment = {"PATH": "/usr/bin:/bin", "LANG": lang, "LC_ALL": lang, "LC_CTYPE": lang}
    done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"UTF-8\nC.UTF-8\nUTF-8\n", b"")


def test_a_locale_that_the_image_has_is_the_clients_choice(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    made = alice.laptop.ssh(name, "mkdir -p /usr/lib/locale && cp -a /usr/lib/locale/C.utf8 /usr/lib/locale/de_DE.utf8")
    assert made.returncode == 0, made.stderr
    alice.ok("stop", name)
    alice.ok("start", name)
    for lang, expected in (("de_DE.UTF-8", "de_DE.UTF-8"), ("fr_FR.UTF-8", "C.UTF-8")):
        argv = alice.laptop.argv(name, ["bash -lc 'echo $LANG; locale charmap'"], options=["-o", "SendEnv=LANG"])
        environment = {"PATH": "/usr/bin:/bin", "LANG": lang}
        done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, check=False, env=environment)
        assert (done.stdout.decode(), done.stderr) == (f"{expected}\nUTF-8\n", b"")
