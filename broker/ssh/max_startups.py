"""The limit on connections before login, in the syntax of MaxStartups in sshd_config(5)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MaxStartups:
    """The thresholds for pending logins.

    From `start` pending logins on, a new connection causes the drop of a stalled one with a probability of `rate`
    percent. The probability grows with the number of pending logins, and is 1 from `full` of them on.
    """

    start: int
    rate: int
    full: int

    @classmethod
    def parse(cls, text: str) -> MaxStartups:
        """Parse `start:rate:full`, as in sshd_config(5); ValueError for other text."""
        try:
            start, rate, full = (int(part) for part in text.split(":"))
        except ValueError:
            raise ValueError(f"{text!r} is not start:rate:full, as in 256:30:1024") from None
        if not (1 <= start <= full and 0 <= rate <= 100):
            raise ValueError(f"{text!r}: start must not exceed full, and rate is a percentage")
        return cls(start, rate, full)

    def __str__(self) -> str:
        return f"{self.start}:{self.rate}:{self.full}"

    def drop_probability(self, pending: int) -> float:
        """Return the probability that a new connection causes a drop, with `pending` logins already pending."""
        if pending < self.start:
            return 0
        if pending >= self.full:
            return 1
        return (self.rate + (100 - self.rate) * (pending - self.start) / (self.full - self.start)) / 100
