"""Words and phrases that pages do not use: archaic or ambiguous ones, with a plain word in their place."""

from __future__ import annotations

import re

WORDS = re.compile(
    r"\b(told|whoever|whomever|nobody|somebody|heirs?|deeds?|thereby|anew|makes no sense|becomes? of|became of"
    r"|whatever it is|had back|(is|are|was|were|be) to be (had|kept|made|done|[a-z]+ed)"
    r"|(go|goes|going|went) on|(carry|carries|carried|carrying)( \w+)? on|time-outs?)\b",
    re.IGNORECASE,
)
