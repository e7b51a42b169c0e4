"""The severity of a vulnerability: of a CVSS vector, or of the word that a database gives it."""

from __future__ import annotations

import re
from enum import IntEnum
from math import ceil


class Severity(IntEnum):
    """In CVSS's words (first.org/cvss/v3.1/specification-document, 5)."""

    UNKNOWN = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


_WORDS = {
    "low": Severity.LOW,
    "minor": Severity.LOW,
    "negligible": Severity.LOW,
    "unimportant": Severity.LOW,
    "moderate": Severity.MEDIUM,
    "medium": Severity.MEDIUM,
    "high": Severity.HIGH,
    "important": Severity.HIGH,
    "critical": Severity.CRITICAL,
}
_VECTOR = re.compile(r"CVSS:3\.[01]((?:/[A-Z]{1,3}:[A-Z])+)")
_WEIGHTS = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "PR": {"N": 0.85, "L": 0.62, "H": 0.27},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES_IF_CHANGED = {"N": 0.85, "L": 0.68, "H": 0.5}


def severity_of_word(word: object) -> Severity:
    """Return the severity that a database's word means; UNKNOWN for others, such as `not yet assigned`."""
    return _WORDS.get(word.strip("*").lower(), Severity.UNKNOWN) if isinstance(word, str) else Severity.UNKNOWN


def severity_of_vector(vector: object) -> Severity:
    """Return the severity of a CVSS 3 vector's base score; UNKNOWN for other text, also for vectors of version 4."""
    score = cvss3_score(vector) if isinstance(vector, str) else None
    if score is None or score == 0:
        return Severity.UNKNOWN
    limits = ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM))
    return next((severity for limit, severity in limits if score >= limit), Severity.LOW)


def cvss3_score(vector: str) -> float | None:
    """Return the base score of a CVSS 3.0 or 3.1 vector (specification, 7.1); None if it is none."""
    match = _VECTOR.fullmatch(vector)
    if match is None:
        return None
    metrics = dict(part.split(":") for part in match[1].split("/")[1:])
    changed = metrics.get("S") == "C"
    weights = _WEIGHTS | ({"PR": _PRIVILEGES_IF_CHANGED} if changed else {})
    try:
        value = {name: table[metrics[name]] for name, table in weights.items()}
    except KeyError:
        return None
    base = 1 - (1 - value["C"]) * (1 - value["I"]) * (1 - value["A"])
    impact = 7.52 * (base - 0.029) - 3.25 * (base - 0.02) ** 15 if changed else 6.42 * base
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * value["AV"] * value["AC"] * value["PR"] * value["UI"]
    return _round_up(min(10.0, (impact + exploitability) * (1.08 if changed else 1.0)))


def _round_up(score: float) -> float:
    """Round up to one decimal, as appendix A of the specification does without errors of floating point."""
    whole = round(score * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else ceil(whole / 10_000) / 10
