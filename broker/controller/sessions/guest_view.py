"""The view of a session for guests: state and resources, under the name by which they request it."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.names import split_reference
from broker.schema.sessions import ConnectPolicy, Persistence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import SessionView

RESOURCE_OPTIONS = frozenset({"mem", "mem-per-cpu", "cpus-per-task", "gres", "gpus", "nodes", "ntasks", "time"})
"""The options of sbatch that a guest sees. Others may name projects, reservations or files of the owner."""
_PROGRAM = "berth"
PRIVATE_ACTIONS = frozenset({"share", "unshare", "leave"})
"""Events that tell who else may act on the session."""


def seen_by(user: str, view: SessionView) -> SessionView:
    """Return the session as `user` may see it: unchanged for its owner, for guests without what is the owner's."""
    if user == view.owner:
        return view
    operation = view.operation
    return view.model_copy(
        update={
            "name": f"{view.owner}.{view.name}",
            "image": "",
            "options": [each for each in view.options if _option_name(each) in RESOURCE_OPTIONS],
            "persistence": Persistence(),
            "connecting": ConnectPolicy(),
            "volumes": None,
            "operation": None if operation is None else operation.model_copy(update={"hint": "", "undo": ""}),
            "used_at": None,
            "clients": [],
            "idle_since": None,
        }
    )


def _option_name(option: str) -> str:
    return option.partition("=")[0].removeprefix("--")


@contextlib.contextmanager
def errors_for_guest(reference: str) -> Iterator[None]:
    """Give errors of the block the name that the caller has used, `OWNER.NAME`, where they have only `NAME`."""
    try:
        yield
    except BerthError as error:
        owner, name = split_reference(reference, "")
        if owner:
            error.message = re.sub(rf"\A{name}(?= )", reference, _in_commands(error.message, name, reference))
            error.hint = _in_commands(error.hint, name, reference)
        raise


def _in_commands(text: str, name: str, reference: str) -> str:
    """Replace the name in commands such as `berth show NAME`."""
    return re.sub(rf"(`{_PROGRAM} [a-z]+ ){name}(?=[` ])", rf"\g<1>{reference}", text)
