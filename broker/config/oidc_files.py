"""The files of logins by OpenID Connect: the client's secret, the accounts, and the provider's keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError
from broker.names import USER_PATTERN

if TYPE_CHECKING:
    from pathlib import Path

    from broker.config.oidc_settings import OidcSettings

MAX_SECRET_BYTES = 4096
MAX_KEYS_BYTES = 262_144
MAX_ACCOUNTS_BYTES = 16 * 2**20
"""Limit of the accounts file: a hundred thousand lines."""
MAX_SUBJECT_CHARS = 255
"""Limit of `sub` (OpenID Connect Core 1.0, section 2)."""
SHOWN_FAULTS = 5
_USER = re.compile(USER_PATTERN)


def read_client_secret(path: Path) -> str:
    """Return the secret: the file's only line. InvalidInputError, in words, for another file."""
    secret = _read(path, MAX_SECRET_BYTES).strip()
    if not re.fullmatch(r"[\x20-\x7e]+", secret):
        raise InvalidInputError(f"{path}: must have the client's secret as its only line", hint=_HINT)
    return secret


def read_keys(path: Path) -> str:
    """Return the text of a JSON Web Key Set, unchecked. InvalidInputError if the file cannot be read."""
    return _read(path, MAX_KEYS_BYTES)


def read_accounts(path: Path) -> dict[tuple[str, str], str]:
    """Return the account of each issuer and subject. InvalidInputError, with the faults by line.

    A line is `ACCOUNT ISSUER SUBJECT`; a subject can have blanks. Empty lines, and those that begin with `#`, are
    comments. Several subjects can have one account, but no subject has two.
    """
    accounts: dict[tuple[str, str], str] = {}
    faults = []
    for number, line in enumerate(_read(path, MAX_ACCOUNTS_BYTES).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fault = _add_account(accounts, line)
        if fault:
            faults.append(f"line {number}: {fault}")
    if faults:
        more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise InvalidInputError(f"{path}: {'; '.join(faults[:SHOWN_FAULTS])}{more}", hint=_ACCOUNTS_HINT)
    return accounts


def file_faults(settings: OidcSettings) -> list[InvalidInputError]:
    """Return the faults of the files that the settings name."""
    faults = []
    for path, read in (
        (settings.client_secret_file, read_client_secret),
        (settings.accounts_file, read_accounts),
        (settings.keys_file, read_keys),
        (settings.ca_file, read_keys),
    ):
        if path is not None:
            try:
                read(path)
            except InvalidInputError as error:
                faults.append(error)
    return faults


_HINT = "docs/howto/openid.md explains the files of web.oidc"
_ACCOUNTS_HINT = "each line is `ACCOUNT ISSUER SUBJECT`"


def _add_account(accounts: dict[tuple[str, str], str], line: str) -> str:
    """Add the line's account. Return the fault of the line; empty if it has none."""
    parts = line.split(maxsplit=2)
    if len(parts) != 3:
        return "must be ACCOUNT ISSUER SUBJECT"
    account, issuer, subject = parts[0], parts[1], parts[2].rstrip()
    if not _USER.fullmatch(account):
        return f"{account!a} is no name of an account"
    if not re.fullmatch(r"[\x20-\x7e]+", subject) or len(subject) > MAX_SUBJECT_CHARS:
        return f"a subject has at most {MAX_SUBJECT_CHARS} characters of ASCII"
    if accounts.setdefault((issuer, subject), account) != account:
        return f"the subject {subject} has another account already"
    return ""


def _read(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}", hint=_HINT) from error
    if len(content) > limit:
        raise InvalidInputError(f"{path} has more than {limit} bytes", hint=_HINT)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not text in UTF-8", hint=_HINT) from error
