"""Codes that lead browsers to services."""

from __future__ import annotations

import hashlib
import time

import pytest

from broker.errors import RefusedError, TooManyError
from broker.names import new_id
from broker.schema.web import EndedVisits, VisitAnswer
from broker.web import entrances
from broker.web.entrances import CODE_LIFETIME_S, Entrances

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


@pytest.mark.parametrize("ended", ["visit", "delegation", "all", "other"])
def test_codes_of_ended_visits_are_forgotten(ended: str) -> None:
    codes, made = Entrances(), visit()
    code = codes.admit(made, PROOF)
    codes.end(
        {
            "visit": EndedVisits(visit_ids=[made.id]),
            "delegation": EndedVisits(delegation_ids=[made.delegation_id]),
            "all": EndedVisits(),
            "other": EndedVisits(visit_ids=[made.delegation_id]),
        }[ended]
    )
    if ended == "other":
        assert codes.enter(HOST, code, "entry") == made
    else:
        with pytest.raises(RefusedError):
            codes.enter(HOST, code, "entry")


def test_number_of_codes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrances, "MAX_CODES", 2)
    clock = Clock()
    codes = Entrances(clock)
    for _ in range(2):
        codes.admit(visit(), PROOF)
    with pytest.raises(TooManyError):
        codes.admit(visit(), PROOF)
    clock.now = CODE_LIFETIME_S + 1
    codes.admit(visit(), PROOF)
