"""The matrix of revocations has a place for each role, permission, way in and reason of the code."""

from __future__ import annotations

from broker.controller.credentials.guests import ROLE_PROGRAMS
from broker.controller.sessions.access import ENTRY_ROLES, ROLE_PERMISSIONS
from broker.controller.sessions.guests import GuestEnd
from broker.schema.grants import Role
from tests.revocation_matrix import BEGINS, CAUSES, ENTRIES, NO_REVOCATIONS, SSH, cells, entries, scenes


def test_each_permission_of_a_role_belongs_to_a_way_in() -> None:
    given = frozenset().union(*ROLE_PERMISSIONS.values())
    assert frozenset().union(*ENTRIES.values()) >= given
    assert ROLE_PERMISSIONS.keys() == set(Role)
    for entry, permissions in ENTRIES.items():
        assert permissions & given, f"{entry} is open to no role"


def test_each_role_that_logs_in_has_a_program_and_its_cells() -> None:
    assert BEGINS.keys() == ENTRY_ROLES.keys() == ROLE_PROGRAMS.keys()
    for role in Role:
        assert (set(SSH) <= set(entries(role, "unshare"))) == (role in ROLE_PROGRAMS)


def test_each_reason_for_which_a_guest_is_out_is_a_cause() -> None:
    assert {cause.reason for cause in CAUSES.values()} | NO_REVOCATIONS.keys() == set(GuestEnd)
    assert not {cause.reason for cause in CAUSES.values()} & NO_REVOCATIONS.keys()


def test_each_role_way_and_cause_has_cells_and_the_others_have_a_reason() -> None:
    there = {(role, entry, cause) for role, entry, cause, reason in cells() if not reason}
    assert {role for role, _, _ in there} == set(Role)
    assert {entry for _, entry, _ in there} == ENTRIES.keys()
    assert {cause for _, _, cause in there} == CAUSES.keys()
    assert {(role, entry, cause) for role, cause, _ in scenes() for entry in entries(role, cause)} == there
    assert len(there) > 100


def test_what_runs_each_time_has_each_role_way_and_cause() -> None:
    short = [(role, cause) for role, cause, always in scenes() if always]
    assert len(short) == len(CAUSES)
    assert {role for role, _ in short} == set(Role)
    assert {entry for role, cause in short for entry in entries(role, cause)} == ENTRIES.keys()
