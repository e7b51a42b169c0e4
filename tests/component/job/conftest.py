"""The session of the tests of guests who watch: it runs once for each module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.component.job.guest_scene import CANARY, SHOW, Scene
from tests.fakes.session_container import OWNER, SessionContainer
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


OWN_TERMINALS = "mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts; mount --bind /dev/pts/ptmx /dev/ptmx; "
"""The programs of guests write to the terminals of the session: those must not be the machine's."""


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionContainer]:
    made = SessionContainer(tmp_path_factory.mktemp("session"))
    made.prepare()
    home = made.base / "home"
    (home / ".ssh").mkdir()
    for name in (".ssh/id_ed25519", ".netrc"):
        (home / name).write_text(CANARY)
    (home / ".bashrc").write_text(f"PS1='> '; export TOKEN={CANARY}; touch ~/bashrc-ran-$USER\n")
    (home / ".ssh/rc").write_text("touch ~/rc-ran-$USER\n")
    with made.running(OWN_TERMINALS):
        begin = f"{Scene(made).server} -f /dev/null new-session -d -s main -x 80 -y 24 'bash -i'"
        assert made.run(made.base / "owner", begin, login=OWNER).returncode == 0
        yield made


@pytest.fixture
def scene(container: SessionContainer) -> Iterator[Scene]:
    """Bob is admitted, and alice's one terminal is shown and empty."""
    made = Scene(container)
    made.tmux("respawn-pane -k -t main 'bash -i'")
    made.admit("bob")
    wait_for(lambda: ">" in made.tmux("capture-pane -p -t main"), what="the shell")
    made.type(SHOW, "clear")
    wait_for(lambda: made.tmux("display-message -p -t main '#{pane_pipe}'") == "1\n", what="the terminal to be shown")
    wait_for(lambda: made.tmux("capture-pane -p -t main").strip() == ">", what="the empty screen")
    yield made
    made.tmux("pipe-pane -t main")
    wait_for(lambda: not list((container.node / "shown").glob("*")), what="the writer to end")
