"""A user's authorized_keys file as Berth reads it, against what the real sshd and ssh-keygen make of the same bytes."""

from __future__ import annotations

import base64
import os
import pwd
import struct
import subprocess
from typing import TYPE_CHECKING

import asyncssh
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.launcher.arguments import KeysArguments
from broker.launcher.request import RequestContext, VerbError
from broker.launcher.session_verbs import KEYS_LIMIT, keys
from broker.ssh.keys import MAX_FILE_KEYS, MAX_LINE_CHARS, plain_keys
from tests.fakes.judge import UNRESTRICTED, Judge

if TYPE_CHECKING:
    from pathlib import Path


def make(kind: str) -> str:
    return asyncssh.generate_private_key(kind).export_public_key().decode().strip()


ED25519, ECDSA, RSA = KEYS = [make("ssh-ed25519"), make("ecdsa-sha2-nistp256"), make("ssh-rsa")]
NO_LINE_ENDS = ["\v", "\f", "\r", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\0", "\x1f", "\u00a0", "\ufeff"]
"""Python begins a new line or a new word at most of them; sshd at none."""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(tmp_path_factory.mktemp("judge"))


def taken(home: Path, content: bytes) -> list[str]:
    """The keys that Berth takes from a file of this content, read as the launcher reads it."""
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh/authorized_keys").write_bytes(content)
    user = pwd.struct_passwd(("me", "x", os.getuid(), os.getgid(), "", str(home), "/bin/sh"))
    return [f"{key.algorithm} {base64.b64encode(key.blob).decode()}" for key in plain_keys(str(read(user)["text"]))]


def read(user: pwd.struct_passwd) -> dict[str, object]:
    return keys(RequestContext(user, storage="", sbatch="", session_script=""), KeysArguments())


def word(text: str) -> st.SearchStrategy[str]:
    """The text, mostly; or with something inside it, at its end, or missing."""
    at = st.integers(0, len(text))
    strange = st.sampled_from([*NO_LINE_ENDS, " ", "\t", "=", "\\", '"', "\x80"])
    split = st.builds(lambda where, what: text[:where] + what + text[where:], at, strange)
    return st.sampled_from([text] * 6) | split | st.builds(lambda where: text[:where], at)


gaps = st.sampled_from([" ", " ", " ", "\t", "  ", "", *NO_LINE_ENDS])
options = st.sampled_from(
    [
        "restrict",
        "no-pty",
        'command="a b"',
        r'command="a \" ssh-ed25519 b"',
        f'command="{ED25519}"',
        'restrict,command="a\tb"',
        'from="192.0.2.0/24"',
        "cert-authority",
        'principals="x",cert-authority',
        'expiry-time="20200101"',
        'environment="A=b"',
        "no-touch-required",
        "RESTRICT",
        "nonsense",
        'restrict,"',
        "restrict," + "no-pty," * (MAX_LINE_CHARS // 7) + "no-pty",
        "#",
        "\ufeff",
    ]
)


@st.composite
def entries(draw: st.DrawFn) -> str:
    """A line as a person writes it, as an editor damages it, or as an attacker would have it misread."""
    key = draw(st.sampled_from(KEYS))
    kind, blob = key.split()
    parts = [draw(st.sampled_from(["", "", "", " ", "\t", "\v", "\r", "\0", "#", " #"]))]
    if draw(st.booleans()):
        parts += [draw(options), draw(gaps)]
    parts += [draw(word(kind) | st.sampled_from(["ED25519", "ssh-rsa", "SSH-RSA"])), draw(gaps), draw(word(blob))]
    parts += [draw(gaps), draw(st.sampled_from(["", "me@host", "two words", *KEYS, f"{ED25519}\v{ECDSA}"]))]
    return "".join(parts) + draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", *NO_LINE_ENDS]))


files = st.lists(entries(), min_size=1, max_size=5).map("".join)


@settings(max_examples=150, deadline=None)
@given(content=files)
@example(f"{ED25519}\r\n")
@example(f"restrict ssh-ed25519 {ED25519.split()[1][:30]}\v{ED25519.split()[1][30:]}\n{ED25519}\n")
def test_a_key_that_berth_takes_sshd_takes_without_restriction(
    judge: Judge, tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    found = taken(tmp_path_factory.getbasetemp(), content.encode())
    for key in found:
        assert judge.options(content.encode(), key) == UNRESTRICTED
    assert not found or listed(tmp_path_factory.getbasetemp(), content.encode()) >= {fingerprint(key) for key in found}


def listed(directory: Path, content: bytes) -> set[str]:
    """The fingerprints that ssh-keygen finds in a file."""
    file = directory / "listed"
    file.write_bytes(content)
    done = subprocess.run(["ssh-keygen", "-l", "-f", file], capture_output=True, check=True)
    return {line.split(b" ")[1].decode() for line in done.stdout.split(b"\n") if line.count(b" ") >= 2}


def fingerprint(key: str) -> str:
    return asyncssh.import_public_key(key).get_fingerprint()


@pytest.mark.parametrize(
    "content",
    [
        f"{ED25519}\n",
        f"{ED25519}",
        f"{ED25519}\r\n",
        f"\t {ED25519} laptop\tof mine \r\n",
        f"# mine\r\n\r\n  # not yours\n{ED25519} caf\u00e9\n",
        f"ssh-ed25519\t  {ED25519.split()[1]}\n",
        f"restrict {ECDSA}\n{ED25519}\n",
        f"#restrict {ED25519}\n{ED25519}\n",
        f"{ECDSA} {'x' * MAX_LINE_CHARS}\n{ED25519}\n",
        f"{ECDSA}\0\n{ED25519} restrict\n",
    ],
    ids=range(10),
)
def test_a_plain_line_is_taken(judge: Judge, tmp_path: Path, content: str) -> None:
    assert taken(tmp_path, content.encode()) == [ED25519]
    assert judge.options(content.encode(), ED25519) == UNRESTRICTED


def test_bytes_that_are_no_utf8_hide_nothing(judge: Judge, tmp_path: Path) -> None:
    content = f'{ED25519} M\udcfcller\nrestrict,command="\udcfc" {ECDSA}\n{ECDSA}\n'.encode(errors="surrogateescape")
    assert taken(tmp_path, content) == [ED25519]
    assert judge.options(content, ED25519) == UNRESTRICTED
    assert judge.options(content, ECDSA) == "command"


@pytest.mark.parametrize("separator", NO_LINE_ENDS)
@pytest.mark.parametrize("options", ['command="/bin/backup"', "restrict", 'from="192.0.2.1"'])
def test_no_key_comes_out_of_a_restricted_line(tmp_path: Path, options: str, separator: str) -> None:
    hidden = f"{options} {ECDSA} me{separator}{ED25519}\n{options}{separator}{ED25519}\n# x{separator}{ED25519}\n"
    assert taken(tmp_path, hidden.encode()) == []


def rsa_with_zeros() -> str:
    """The RSA key again, with a zero more before its modulus: other bytes, the same number."""
    blob = base64.b64decode(RSA.split()[1])
    start = 4 + len("ssh-rsa") + 4 + 3
    modulus = b"\0" + blob[start + 4 :]
    return f"ssh-rsa {base64.b64encode(blob[:start] + struct.pack('>I', len(modulus)) + modulus).decode()}"


@pytest.mark.parametrize(
    ("restricted", "plain"),
    [
        (f"restrict,{'no-pty,' * MAX_LINE_CHARS}no-pty {ED25519}", ED25519),
        (f"restrict ssh-ed25519 {ED25519.split()[1][:30]}\v{ED25519.split()[1][30:]}", ED25519),
        (f"restrict {ED25519}\r", ED25519),
        (f"restrict {ED25519}\0", ED25519),
        (f"restrict {rsa_with_zeros()}", RSA),
    ],
    ids=["long", "split", "carriage-return", "nul", "zeros"],
)
@pytest.mark.parametrize("plain_first", [False, True])
def test_a_key_that_sshd_restricts_is_not_taken(
    judge: Judge, tmp_path: Path, restricted: str, plain: str, *, plain_first: bool
) -> None:
    lines = [plain, restricted] if plain_first else [restricted, plain]
    content = "".join(f"{line}\n" for line in lines).encode()
    assert (judge.options(content, plain) == UNRESTRICTED) == plain_first
    assert taken(tmp_path, content) == []


def test_base64_that_sshd_refuses_is_refused(judge: Judge, tmp_path: Path) -> None:
    kind, blob = ECDSA.split()
    assert blob.endswith("=")
    content = f"{kind} {blob[:-2]}{chr(ord(blob[-2]) + 1)}=\n".encode()
    assert judge.options(content, ECDSA) is None
    assert taken(tmp_path, content) == []


def test_a_restriction_after_the_last_key_that_counts_counts(tmp_path: Path) -> None:
    many = [ED25519, *(distinct(number) for number in range(MAX_FILE_KEYS))]
    content = "".join(f"{line}\n" for line in [*many, f"restrict {ED25519}"])
    assert taken(tmp_path, content.encode()) == many[1:]


def distinct(number: int) -> str:
    """An Ed25519 key of its own; any 32 bytes are one."""
    blob = base64.b64decode(ED25519.split()[1])[:-32] + number.to_bytes(32, "big")
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


@pytest.mark.parametrize("over", [0, 1])
def test_of_a_file_above_the_limit_no_key_is_taken(tmp_path: Path, over: int) -> None:
    end = f"\nrestrict {ED25519}"
    filler = "#" * (KEYS_LIMIT + over - len(f"{ED25519}\n{ECDSA}\n") - len(end))
    content = f"{ED25519}\n{ECDSA}\n{filler}{end}".encode()
    assert len(content) == KEYS_LIMIT + over
    if not over:
        assert taken(tmp_path, content) == [ECDSA]
        return
    with pytest.raises(VerbError) as caught:
        taken(tmp_path, content)
    assert caught.value.kind == "refused"
