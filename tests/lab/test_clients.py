"""Everything that OpenSSH can do, inside a session: this machine's client and Debian sid's, by both ways in."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab import ways

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.conftest import User
    from tests.lab.ways import Way

FILES = 10_000


@pytest.fixture(scope="module")
def session(people: dict[str, User]) -> Iterator[str]:
    """A session that all of these tests share: they leave nothing behind that matters to the next."""
    alice = people["alice"]
    alice.ok("start", "clients", "--profile", "base", "--mem=2G")
    yield "clients"
    alice.remove("clients")


def test_the_clients_are_of_two_ages(alice: User, session: str, tmp_path: Path) -> None:
    """The tests here are worth most if the clients differ: the laptop's may be years older than the lab's."""
    theirs = ways.by_gateway(alice, session).run("command ssh -V 2>&1")
    assert theirs.startswith("OpenSSH_")
    assert ways.laptop(alice, session, tmp_path / "room").run("command ssh -V 2>&1").startswith("OpenSSH_")


def test_files_go_there_and_back_by_sftp_and_both_kinds_of_scp(way: Way) -> None:
    assert way.run(
        """
        head -c 3000000 /dev/urandom >'a file'
        scp() { command scp -q -F $CONFIG -o BatchMode=yes "$@"; }
        scp 'a file' $HOST:by-sftp; scp $HOST:by-sftp back1
        scp -O 'a file' $HOST:by-rcp; scp -O $HOST:by-rcp back2
        printf 'put "a file" by-batch\\nget by-batch back3\\nrm by-batch\\n' |
            sftp -q -F $CONFIG -o BatchMode=yes -b - $HOST >/dev/null
        for each in back1 back2 back3; do cmp 'a file' $each; done
        ssh $HOST 'rm by-sftp by-rcp; ls -A | grep -c by- || :'
        """
    ).split() == ["0"]


@pytest.mark.soak
def test_ten_thousand_files_go_there_and_back_by_rsync(way: Way) -> None:
    way.run(
        f"""
        mkdir tree; cd tree
        seq {FILES} | awk '{{ d = "d" ($1 % 100); f = d "/f" $1; print f }}' >../names
        mkdir d{{0..99}}
        while read -r name; do echo "$name" >"$name"; done <../names
        ln -s d0 link; cd ..
        rsync -a -e "ssh -F $CONFIG -o BatchMode=yes" tree/ $HOST:tree/
        test "$(ssh $HOST 'find tree -type f | wc -l')" = {FILES}
        rsync -a -e "ssh -F $CONFIG -o BatchMode=yes" $HOST:tree/ back/
        diff -r --no-dereference tree back
        ssh $HOST 'rm -r tree'
        """
    )


def test_git_clones_and_pushes(way: Way) -> None:
    way.run(
        """
        export GIT_SSH_COMMAND="ssh -F $CONFIG -o BatchMode=yes" GIT_CONFIG_GLOBAL=$ROOM/gitconfig
        git config --global user.name alice; git config --global user.email alice@example.org
        ssh $HOST 'rm -rf repo.git; git init -q --bare -b main repo.git'
        git clone -q $HOST:repo.git one 2>/dev/null
        cd one; head -c 1000000 /dev/urandom >blob; git add blob; git commit -qm one
        git push -q origin HEAD:main; cd ..
        git clone -q -b main $HOST:repo.git two
        cmp one/blob two/blob
        ssh $HOST 'rm -rf repo.git'
        """
    )


def test_ports_and_sockets_are_forwarded_in_both_directions(way: Way) -> None:
    """Berth's gateway sees none of it: these run through the session's own sshd."""
    assert (
        way.run(
            """
        ssh -n $HOST 'mkdir -p web; echo from the session >web/page'
        mkdir here; echo from the client >here/page
        mine=$(eval $FREE_PORT) local=$(eval $FREE_PORT) socks=$(eval $FREE_PORT) there=$(ssh -n $HOST "$FREE_PORT")
        python3 -m http.server -d here --bind 127.0.0.1 $mine >/dev/null 2>&1 & http=$!
        "${SSH[@]}" -T -o ExitOnForwardFailure=yes -L $local:127.0.0.1:$there -L $ROOM/sock:127.0.0.1:$there -D $socks \
            -R 0:127.0.0.1:$mine -R /tmp/berth-r.sock:127.0.0.1:$mine $HOST \
            "exec python3 -m http.server -d web --bind 127.0.0.1 $there" >/dev/null 2>log & ssh=$!
        trap 'kill $http $ssh' EXIT
        eventually curl -sf -m 5 -o /dev/null http://127.0.0.1:$local/page
        curl -sf -m 10 http://127.0.0.1:$local/page
        curl -sf -m 10 --socks5-hostname 127.0.0.1:$socks http://localhost:$there/page
        curl -sf -m 10 --unix-socket sock http://x/page
        back=$(grep -o 'Allocated port [0-9]*' log | cut -d' ' -f3)
        ssh -n $HOST "curl -sf -m 10 http://127.0.0.1:$back/page; curl -sf -m 10 --unix-socket /tmp/berth-r.sock x/page"
        ssh -n $HOST 'rm -r web /tmp/berth-r.sock'
        """
        ).splitlines()
        == ["from the session"] * 3 + ["from the client"] * 2
    )


def test_many_short_connections_and_many_over_one(way: Way) -> None:
    assert way.run(
        """
        for i in {1..20}; do ssh -n $HOST echo $i; done
        ssh -M -S $ROOM/mux -o ControlPersist=60 -n $HOST true
        for i in {21..100}; do command ssh -F $CONFIG -S $ROOM/mux -n $HOST echo $i; done
        ssh -S $ROOM/mux -O exit $HOST 2>/dev/null
        """
    ).split() == [str(number) for number in range(1, 101)]


def test_the_agent_is_forwarded_if_asked_and_not_otherwise(way: Way) -> None:
    said = way.run(
        """
        eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT
        ssh-keygen -q -t ed25519 -N '' -C in-the-agent -f key; ssh-add -q key
        ssh -n $HOST 'ssh-add -l 2>&1 || :'
        ssh -n -A $HOST 'ssh-add -l'
        """
    ).splitlines()
    assert "Could not open a connection to your authentication agent" in said[0]
    assert "in-the-agent" in said[1]


def test_the_home_is_mounted_by_sshfs(alice: User, session: str, tmp_path: Path) -> None:
    way = ways.laptop(alice, session, tmp_path / "room")
    assert way.run(
        """
        mkdir mnt
        sshfs -F $CONFIG -o BatchMode=yes $HOST: mnt
        trap 'umount mnt' EXIT
        mkdir mnt/by-sshfs; echo written there >mnt/by-sshfs/file; mv mnt/by-sshfs/file mnt/by-sshfs/moved
        ssh $HOST 'cat by-sshfs/moved; echo and back >by-sshfs/back'
        cat mnt/by-sshfs/back; rm -r mnt/by-sshfs
        """
    ).splitlines() == ["written there", "and back"]


def test_the_locale_is_one_that_every_image_has_and_colours_come_along(
    alice: User, session: str, tmp_path: Path
) -> None:
    """The laptop's may be missing in the image, and perl and bash would complain at every start."""
    way = ways.laptop(alice, session, tmp_path / "room")
    said = way.run(
        "ssh -n -o SetEnv='LC_ALL=xx_YY.UTF-8 LANG=xx_YY.UTF-8 COLORTERM=truecolor' $HOST "
        "'perl -e 1; echo $LANG ${LC_ALL-} $COLORTERM' 2>&1"
    )
    assert said.split() == ["C.UTF-8", "truecolor"]


def test_a_client_that_was_killed_leaves_nothing_that_keeps_the_next_out(alice: User, session: str) -> None:
    argv = alice.laptop.argv(session, ["echo here; exec sleep 1000"])
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"here\n"
        client.kill()
    assert alice.laptop.ok(session, "echo next") == b"next\n"
