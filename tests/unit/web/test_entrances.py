"""Codes that lead browsers to services."""

from __future__ import annotations

import hashlib
import time

import pytest

from broker.errors import RefusedError
from broker.names import new_id
from broker.schema.web import EndedVisits, VisitAnswer
from broker.web.entrances import CODE_LIFETIME_S, MAX_CODES_PER_LOGIN, Entrances
from broker.web.recently_ended import MEMORY_S

HOST = "jupyter--dev--alice.apps.localhost"
PROOF = hashlib.sha256(b"entry").hexdigest()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def visit() -> VisitAnswer:
    return VisitAnswer(
        id=new_id(),
        secret=new_id(),
        delegation_id=new_id(),
        user="alice",
        owner="alice",
        session_id=new_id(),
        session="dev",
        service="jupyter",
        host=HOST,
        expires_at=time.time() + 60,
    )


def test_code_is_valid_for_a_short_time() -> None:
    clock, made = Clock(), visit()
    codes = Entrances(clock)
    early, late = codes.admit(made, PROOF), codes.admit(made, PROOF)
    clock.now = CODE_LIFETIME_S
    assert codes.enter(HOST, early, "entry") == made
    clock.now += 0.1
    with pytest.raises(RefusedError, match="has expired"):
        codes.enter(HOST, late, "entry")


def test_wrong_cookie_uses_the_code_up() -> None:
    codes = Entrances()
    code = codes.admit(visit(), PROOF)
    with pytest.raises(RefusedError, match="another browser"):
        codes.enter(HOST, code, "other")
    with pytest.raises(RefusedError, match="was used"):
        codes.enter(HOST, code, "entry")


@pytest.mark.parametrize("ended", ["visit", "delegation", "other"])
def test_codes_of_ended_visits_are_forgotten(ended: str) -> None:
    codes, made = Entrances(), visit()
    code = codes.admit(made, PROOF)
    codes.end(
        {
            "visit": EndedVisits(visit_ids=[made.id]),
            "delegation": EndedVisits(delegation_ids=[made.delegation_id]),
            "other": EndedVisits(visit_ids=[made.delegation_id]),
        }[ended]
    )
    if ended == "other":
        assert codes.enter(HOST, code, "entry") == made
    else:
        with pytest.raises(RefusedError):
            codes.enter(HOST, code, "entry")


def test_login_has_a_limited_number_of_codes() -> None:
    codes, made, others = Entrances(), visit(), visit()
    first, other = codes.admit(made, PROOF), codes.admit(others, PROOF)
    later = [codes.admit(made, PROOF) for _ in range(MAX_CODES_PER_LOGIN)]
    with pytest.raises(RefusedError, match="was used"):
        codes.enter(HOST, first, "entry")
    assert [codes.enter(HOST, code, "entry") for code in later] == [made] * MAX_CODES_PER_LOGIN
    assert codes.enter(HOST, other, "entry") == others


@pytest.mark.parametrize("by", ["visit_ids", "delegation_ids"])
def test_visit_that_has_just_ended_gets_no_code(by: str) -> None:
    clock, made = Clock(), visit()
    codes = Entrances(clock)
    codes.end(EndedVisits(**{by: [made.id if by == "visit_ids" else made.delegation_id]}))
    clock.now = MEMORY_S - 1
    with pytest.raises(RefusedError, match="was logged out"):
        codes.admit(made, PROOF)
    codes.admit(visit(), PROOF)
    clock.now = MEMORY_S
    codes.admit(made, PROOF)
