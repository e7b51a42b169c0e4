"""A session's host key on disk, whatever its owner or a crash has made of it, and what is read of it."""

from __future__ import annotations

import base64
import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.launcher import session_host_key, session_verbs
from broker.launcher.arguments import RenewArguments, SubmitArguments
from broker.launcher.request import RequestContext, VerbError
from broker.launcher.session_host_key import ensure_host_key
from broker.launcher.session_verbs import submit
from broker.ssh import host_key
from broker.volumes.files import file_lock
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "01jd0000000000000000000000"


def keygen(path: Path, *options: str) -> str:
    """Make a pair; its public line without the comment."""
    command = ["ssh-keygen", "-q", "-f", str(path), "-N", "", "-t", "ed25519", *options]
    subprocess.run(command, check=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL)
    return key_of(path.with_name(path.name + ".pub").read_text())


def key_of(line: str) -> str:
    return " ".join(line.split()[:2])


def proven(key: Path) -> str:
    """The key that sshd would prove, as OpenSSH itself reads it."""
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(key)]
    return key_of(subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE_S).stdout)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session that has its host key."""
    directory = tmp_path / "sessions" / ID
    (directory / "run").mkdir(mode=0o700, parents=True)
    directory.chmod(0o700)
    ensure_host_key(directory)
    return directory


def whole(session: Path, line: str) -> None:
    """The pair on disk is one that sshd takes, and the line is its public half."""
    key = session / "run/ssh_host_ed25519_key"
    assert key_of(line) == proven(key)
    assert key.with_name(key.name + ".pub").read_text() == line + "\n"
    assert line.endswith(f" berth session {ID}")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert ensure_host_key(session) == line, "asked again, nothing changes"


def remove(path: Path) -> None:
    path.unlink()


def another_pair(path: Path) -> None:
    path.unlink()
    keygen(path.with_name("other"), "-C", "mine")
    path.with_name("other").rename(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.with_name(key.name + ".pub").unlink(),
        lambda key: key.with_name(key.name + ".pub").write_text("ssh-ed25519 AAAA edited\n"),
        lambda key: key.with_name(key.name + ".pub").write_bytes(b"\xff\0" * 1000),
        lambda key: key.chmod(0o644),
        another_pair,
    ],
    ids=["no .pub", "edited .pub", "binary .pub", "readable by others", "another private key"],
)
def test_private_key_that_sshd_can_use_is_the_truth(session: Path, change: Callable[[Path], None]) -> None:
    key = session / "run/ssh_host_ed25519_key"
    change(key)
    private = key.read_bytes()
    whole(session, ensure_host_key(session))
    assert key.read_bytes() == private


def rsa(key: Path) -> None:
    key.unlink()
    key.with_name(key.name + ".pub").unlink()
    keygen(key, "-t", "rsa")


def with_passphrase(key: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key], check=True, timeout=DEADLINE_S)


def of_two_keys(key: Path) -> None:
    """The public key in front is another's than the secret one's."""
    lines = key.read_text().splitlines()
    data = base64.b64decode("".join(lines[1:-1]))
    public = host_key.public_key_of(key.read_text())
    mixed = data.replace(public, public[:-1] + bytes([public[-1] ^ 1]), 1)
    key.write_text("\n".join([lines[0], base64.b64encode(mixed).decode(), lines[-1], ""]))


def fifo(key: Path) -> None:
    key.unlink()
    os.mkfifo(key)


def directory(key: Path) -> None:
    key.unlink()
    key.mkdir()
    (key / "file").touch()


@pytest.mark.parametrize(
    "change",
    [
        remove,
        lambda key: key.write_text(""),
        lambda key: key.write_text("no key\n"),
        lambda key: key.write_text(key.read_text()[:200]),
        lambda key: os.truncate(key, 2**40),
        fifo,
        lambda key: (key.unlink(), key.symlink_to("/dev/zero")),
        rsa,
        with_passphrase,
        of_two_keys,
        directory,
    ],
    ids=["none", "empty", "text", "cut", "sparse", "fifo", "link", "rsa", "passphrase", "two keys", "directory"],
)
def test_unusable_private_key_is_replaced_and_kept_aside(session: Path, change: Callable[[Path], object]) -> None:
    key = session / "run/ssh_host_ed25519_key"
    before = ensure_host_key(session)
    change(key)
    line = ensure_host_key(session)
    assert line != before
    whole(session, line)
    assert os.path.lexists(key.with_name(key.name + ".unusable")) is (change is not remove)


def renew(session: Path) -> str:
    context = RequestContext(pwd.getpwuid(os.getuid()), str(session.parents[1]), "sbatch", "")
    answer: str = session_verbs.renew(context, RenewArguments(session=ID))["host_key"]
    return answer


def test_renewed_key_is_another_one(session: Path) -> None:
    before = ensure_host_key(session)
    line = renew(session)
    assert line != before
    whole(session, line)
    names = {path.name for path in (session / "run").iterdir()}
    assert names == {"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "lock"}


def test_key_of_a_session_that_a_job_has_open_is_not_renewed(session: Path) -> None:
    before = ensure_host_key(session)
    with file_lock(session / "run/lock"), pytest.raises(VerbError, match="a job has") as failure:
        renew(session)
    assert failure.value.kind == "busy"
    assert ensure_host_key(session) == before


def test_failure_while_a_key_is_renewed_leaves_the_former_one(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ensure_host_key(session)
    monkeypatch.setenv("PATH", str(session))
    with pytest.raises(OSError, match="ssh-keygen"):
        renew(session)
    assert ensure_host_key(session) == before


@pytest.mark.parametrize("point", ["rename", "write"])
def test_crash_while_a_key_is_made_leaves_one_that_serves(
    session: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the private key has its name, and before the public one has."""
    key = session / "run/ssh_host_ed25519_key"
    key.unlink()

    def dies(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "rename", dies) if point == "rename" else (session_host_key, "replace_file", dies)))
        with pytest.raises(OSError, match="killed"):
            ensure_host_key(session)
    whole(session, ensure_host_key(session))


def submitted(session: Path, certificate: str) -> dict[str, object]:
    sbatch = session.parents[1] / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 42\n")
    sbatch.chmod(0o755)
    place = RequestContext(pwd.getpwuid(os.getuid()), str(session.parents[1]), str(sbatch), "/session.sh")
    files = {"host_certificate": certificate, "job.env": "NEW=1\n"}
    return submit(place, SubmitArguments(session=ID, submission=1, options=[], files=files))


def certificate_of(session: Path, tmp_path: Path) -> str:
    """A certificate for the session's key, signed by ssh-keygen."""
    if not (tmp_path / "ca").exists():
        keygen(tmp_path / "ca")
    public = tmp_path / "host.pub"
    public.write_text(ensure_host_key(session))
    command = ["ssh-keygen", "-q", "-s", str(tmp_path / "ca"), "-I", "x", "-h", "-n", "alice.dev.berth", str(public)]
    subprocess.run(command, check=True, timeout=DEADLINE_S)
    return (tmp_path / "host-cert.pub").read_text()


@pytest.mark.parametrize("change", [another_pair, remove], ids=["replaced", "lost"])
def test_certificate_for_a_former_key_submits_nothing(
    session: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    certificate = certificate_of(session, tmp_path)
    assert submitted(session, certificate) == {"job_id": 42}
    (session / "run/job.env").write_text("OLD=1\n")
    change(session / "run/ssh_host_ed25519_key")
    with pytest.raises(VerbError) as refused:
        submitted(session, certificate)
    assert refused.value.kind == "host-key"
    assert (session / "run/job.env").read_text() == "OLD=1\n"
    assert submitted(session, certificate_of(session, tmp_path)) == {"job_id": 42}


@given(
    st.text() | st.binary().map(lambda data: f"{host_key._BEGIN}\n{base64.b64encode(data).decode()}\n{host_key._END}")
)
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which one, no caller asks
        host_key.public_key_of(text)
    assert host_key.certified_key(text) is None
