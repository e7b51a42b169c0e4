"""The account of a person: by the site's file, or by a claim that the site has declared unique and immutable."""

from __future__ import annotations

import asyncio
import pwd
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from broker.config.oidc_files import read_accounts
from broker.errors import ControllerUnavailableError, InvalidInputError, RefusedError
from broker.names import USER_PATTERN

if TYPE_CHECKING:
    from broker.config.oidc_settings import OidcSettings
    from broker.controller.web.oidc.tokens import Identity

LOOKUP_TIMEOUT_S = 10.0
THREADS = 2
"""Lookups at once. They are not those of other callers: a directory that hangs then delays only logins."""
_USER = re.compile(USER_PATTERN)
_OPERATORS = "ask the site's operators for access"


class AccountRule:
    """The rule of `web.oidc`."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="openid")

    async def find(self, identity: Identity) -> tuple[str, int]:
        """Return name and uid of the person's account on this machine. RefusedError if there is none."""
        name = await self._name(identity)
        lookup = asyncio.get_running_loop().run_in_executor(self._threads, _uid_of, name)
        try:
            uid = await asyncio.wait_for(lookup, LOOKUP_TIMEOUT_S)
        except (TimeoutError, OSError) as error:
            raise ControllerUnavailableError(
                "the machine's directory of accounts does not answer", hint="try again in a while"
            ) from error
        if uid is None:
            raise RefusedError(f"there is no account {name} on this machine", hint=_OPERATORS)
        return name, uid

    async def _name(self, identity: Identity) -> str:
        if self._settings.accounts_file is None:
            return self._name_by_claim(identity)
        try:
            accounts = await asyncio.to_thread(read_accounts, self._settings.accounts_file)
        except InvalidInputError as error:
            raise RefusedError(
                "the site's list of accounts is faulty", hint="tell the site's operators: `berth doctor` says where"
            ) from error
        name = accounts.get((identity.issuer, identity.subject))
        if name is None:
            raise RefusedError(
                f"the provider's user {identity.subject} has no account on this site",
                hint=f"{_OPERATORS}, and tell them this identifier",
            )
        return name

    def _name_by_claim(self, identity: Identity) -> str:
        claim, suffix = self._settings.claim, self._settings.claim_suffix
        value = identity.claims.get(claim)
        if claim == "email" and identity.claims.get("email_verified") is not True:
            raise RefusedError("the provider has not verified your mail address", hint="verify it there, and try again")
        if not isinstance(value, str):
            raise RefusedError(f"the provider does not send the claim {claim}", hint="tell the site's operators")
        if not value.endswith(suffix):
            raise RefusedError(f"your {claim} does not end in {suffix}: it belongs to no account here", hint=_OPERATORS)
        name = value.removesuffix(suffix)
        if not _USER.fullmatch(name):
            raise RefusedError(f"your {claim} is no name of an account on this site", hint=_OPERATORS)
        return name


def _uid_of(name: str) -> int | None:
    """Return the uid of an account; None without one, and for a name that the directory spells otherwise."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return found.pw_uid if found.pw_name == name else None
