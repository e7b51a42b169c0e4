"""The lines by which sshd lets guests in."""

from __future__ import annotations

import itertools

import asyncssh
import pytest

from broker.config.sharing_settings import SharingSettings
from broker.controller.credentials.guests import ROLE_PROGRAMS, AdmittedGuest, guest_files
from broker.controller.credentials.login import SshCredentials
from broker.controller.sessions.access import ALL_ROLES, ENTRY_ROLES, ROLE_PERMISSIONS, ROLE_TEXTS
from broker.schema.grants import Role
from broker.schema.permissions import Permission


def key() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


def guest(user: str, until: float | None = None, **lists: list[str]) -> AdmittedGuest:
    empty: dict[str, list[str]] = {"keys": [], "authorities": [], "revoked": [], "web": []}
    return AdmittedGuest(SshCredentials(user=user, **(empty | lists)), Role.WATCH, until)


def test_every_line_restricts_names_the_guest_and_has_one_command() -> None:
    bobs, authority = key(), key()
    made = guest_files([guest("bob", keys=[bobs], authorities=[authority]), guest("b.smith-2", keys=[key()])], 17)
    plain, certified, smith = made["guest_keys"].splitlines()
    options = 'restrict,pty,command="exec python3 -I /run/berth/node/watch bob"'
    assert plain == f"{options} {bobs}"
    assert certified == f'cert-authority,principals="bob",{options} {authority}'
    assert smith.startswith('restrict,pty,command="exec python3 -I /run/berth/node/watch b.smith-2" ')
    assert made["guests"] == "lease 17\nwatch bob\nwatch b.smith-2\n"


@pytest.mark.parametrize(("until", "day"), [(1800000000.0, "20270117"), (1799971199.0, "20270116")])
def test_key_of_a_grant_that_ends_expires_after_it_in_every_time_zone(until: float, day: str) -> None:
    (line,) = guest_files([guest("bob", until, keys=[key()])], 1)["guest_keys"].splitlines()
    assert f'",expiry-time="{day}" ssh-ed25519 ' in line


def test_revoked_key_is_refused_unless_it_counts_by_itself() -> None:
    one, other = key(), key()
    made = guest_files([guest("bob", keys=[one], revoked=[one, other]), guest("carol", revoked=[other])], 1)
    assert made["guest_revoked"].splitlines() == [other]


def test_without_guests_nothing_is_left() -> None:
    assert guest_files([], 3) == {"guest_keys": "", "guest_revoked": "", "guests": "lease 3\n"}


def test_every_role_is_described_and_a_sites_to_choose() -> None:
    all_roles = SharingSettings.model_validate({"roles": [role.value for role in Role]}).roles
    assert {Role(rule.role) for rule in all_roles} == ALL_ROLES == set(ROLE_PERMISSIONS) == set(ROLE_TEXTS)
    assert {Role(rule.role) for rule in SharingSettings().roles} == {Role.OPERATE, Role.WATCH, Role.SNAPSHOT}
    enters = [role for role, has in ROLE_PERMISSIONS.items() if Permission.WATCH in has]
    assert enters == list(ROLE_PROGRAMS) == list(ENTRY_ROLES)
    for weaker, stronger in itertools.pairwise(enters):
        assert ROLE_PERMISSIONS[weaker] < ROLE_PERMISSIONS[stronger]
    for role, permission in ENTRY_ROLES.items():
        assert next(each for each in enters if permission in ROLE_PERMISSIONS[each]) is role
