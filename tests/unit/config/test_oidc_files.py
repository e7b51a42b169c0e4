"""The files of logins by OpenID Connect: what they may contain, and what `berth config check` says of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.config.oidc_files import (
    MAX_ACCOUNTS_BYTES,
    MAX_SECRET_BYTES,
    file_faults,
    read_accounts,
    read_client_secret,
)
from broker.config.oidc_settings import OidcSettings
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "https://login.example.org"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_lines_of_accounts(file: Path) -> None:
    file.write_text(
        f"# staff\n\nalice  {ISSUER}\tauth0|5f 3\nalice {ISSUER} second  \nbob https://other.example second\n"
        f"alice {ISSUER} second\n"
    )
    assert read_accounts(file) == {
        (ISSUER, "auth0|5f 3"): "alice",
        (ISSUER, "second"): "alice",
        ("https://other.example", "second"): "bob",
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (f"alice {ISSUER}", "line 2: must be ACCOUNT ISSUER SUBJECT"),
        (f"Alice {ISSUER} x", "line 2: 'Alice' is no name of an account"),
        (f"../x {ISSUER} x", "is no name of an account"),
        (f"alice {ISSUER} {'x' * 256}", "line 2: a subject has at most 255 characters"),
        (f"alice {ISSUER} ä", "line 2: a subject has at most 255 characters"),
        (f"alice {ISSUER} first", "line 2: the subject first has another account already"),
    ],
)
def test_fault_of_a_line_is_named(file: Path, line: str, fault: str) -> None:
    file.write_text(f"bob {ISSUER} first\n{line}\n")
    with pytest.raises(InvalidInputError) as refused:
        read_accounts(file)
    assert fault in refused.value.message
    assert str(file) in refused.value.message


def test_many_faults_are_counted(file: Path) -> None:
    file.write_text("x\n" * 30)
    with pytest.raises(InvalidInputError, match=r"line 5: .*; and 25 more"):
        read_accounts(file)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff", b"x" * (MAX_SECRET_BYTES + 1)])
def test_other_files_are_no_secret(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidInputError):
        read_client_secret(file)


def test_secret_is_the_only_line(file: Path) -> None:
    file.write_text("a secret with blanks\n")
    assert read_client_secret(file) == "a secret with blanks"


def test_files_are_bounded(file: Path) -> None:
    with file.open("wb") as content:
        content.truncate(MAX_ACCOUNTS_BYTES + 1)
    with pytest.raises(InvalidInputError, match="has more than"):
        read_accounts(file)


def test_faults_of_all_files_are_reported(tmp_path: Path) -> None:
    named = {"client_secret_file": "secret", "accounts_file": "accounts", "keys_file": "keys", "ca_file": "ca"}
    paths = {setting: tmp_path / name for setting, name in named.items()}
    settings = OidcSettings.model_validate({"issuer": ISSUER, "client_id": "berth"} | paths)
    assert [each.message for each in file_faults(settings)] == [
        f"cannot read {path}: No such file or directory" for path in paths.values()
    ]
    for setting, path in paths.items():
        path.write_text("secret" if setting == "client_secret_file" else "")
    assert file_faults(settings) == []
    assert file_faults(OidcSettings()) == []
