"""The settings of operators."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from broker.config.section import Section
from broker.names import GROUP_PATTERN


def _group(text: str) -> str:
    if re.fullmatch(GROUP_PATTERN, text) is None:
        raise ValueError('must be a Unix group as "@GROUP", in quotation marks')
    return text


UnixGroup = Annotated[str, AfterValidator(_group)]


class OperatorSettings(Section):
    """Operators: they see the sessions of all users, stop and extend them, and read the audit log."""

    group: UnixGroup | None = None
    """The Unix group whose members are the site's operators (`berth admin`), such as `"@hpc-admins"`; default: the site
    has none. Members are looked up at each use. Root and the service account are operators only as members. Personal
    mode has no operators."""
