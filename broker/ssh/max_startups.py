"""The limit on connections before login, in the syntax of MaxStartups in sshd_config(5)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MaxStartups:
    """With `start` connections that have no login, an arrival costs one that stalls with a probability of `rate`
    percent, with more of them a higher one; with `full` of them it certainly costs one.
    """

    start: int
    rate: int
    full: int

    @classmethod
    def parse(cls, text: str) -> MaxStartups:
        """`start:rate:full`, as in sshd_config(5); raises ValueError."""
        try:
            start, rate, full = (int(part) for part in text.split(":"))
        except ValueError:
            raise ValueError(f"{text!r} is not start:rate:full, as in 256:30:1024") from None
        if not (1 <= start <= full and 0 <= rate <= 100):
            raise ValueError(f"{text!r}: start must not exceed full, and rate is a percentage")
        return cls(start, rate, full)

    def __str__(self) -> str:
        return f"{self.start}:{self.rate}:{self.full}"

    def share(self, waiting: int) -> float:
        """The probability with which an arrival costs a connection when there are `waiting` already."""
        if waiting < self.start:
            return 0
        if waiting >= self.full:
            return 1
        return (self.rate + (100 - self.rate) * (waiting - self.start) / (self.full - self.start)) / 100
